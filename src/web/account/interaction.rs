//! Something that waits for a person: an authorization request, or the wish to see one's account. One browser's, used once.
use std::net::IpAddr;

use edge::limit::Quota;
use ledger::{Artefact, ArtefactKind, Step};
use protocol::authorize::Pending;
use serde::{Deserialize, Serialize};
use tokens::{
    b64, hash,
    secret::{self, Plain, SecretKind},
};

use crate::{App, csrf, pages::Refused, sessions::Browser};

/// What waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A client's request.
    Authorize(Box<Pending>),
    /// The account page.
    Account,
    /// A device's user code, if it was named already (RFC 8628).
    Device(Option<String>),
    /// The page of backchannel requests (CIBA).
    Backchannel,
}

/// The document of an [`ArtefactKind::Interaction`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interaction {
    /// Hash of the binding of the browser it began in.
    browser: String,
    /// What waits.
    pub purpose: Purpose,
    /// The session of the login that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<String>,
    /// The person chose to go on as who they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
    /// The password that was proved for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved: Option<Proved>,
}

/// The first factor was right; the second is awaited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proved {
    /// Whose.
    pub subject: String,
    /// The version of the account whose password it was.
    pub version: i64,
    /// When, seconds since the epoch.
    pub at: i64,
}

/// An interaction as its own browser sees it.
pub struct Open {
    /// Its text in links and forms.
    pub text: String,
    /// Its document.
    pub interaction: Interaction,
    id: [u8; 16],
    binding: String,
}

/// What browsers of one source in which nobody is signed in may begin: each leaves two rows until it ends.
const BEGUN: Quota = Quota::per(1200, 60);

fn begun(source: IpAddr) -> String {
    format!("begun:{source}")
}

/// Counts a beginning of a browser in which nobody is signed in.
///
/// # Errors
/// 429 when there were too many.
pub(crate) async fn admit(app: &App, source: IpAddr) -> Result<(), Refused> {
    let verdict = app.counters.hit(&begun(source), &BEGUN, 1, app.clock.now_ms()).await;
    if verdict.allowed { Ok(()) } else { Err(Refused::crowded(verdict.retry_after_s(), ("begin", BEGUN))) }
}

/// Somebody there signed in: it is no flood of strangers.
pub(super) async fn welcome(app: &App, source: IpAddr) {
    app.counters.clear(&begun(source)).await;
}

fn hashed(binding: &str) -> String {
    b64::encode(&hash::sha256(binding.as_bytes()))
}

/// Begins one; the step stores it.
#[must_use]
pub fn begin(app: &App, binding: &str, purpose: Purpose, fresh: Option<String>, chosen: bool) -> (Step, Plain) {
    store(app, &Interaction { browser: hashed(binding), purpose, fresh, chosen, proved: None })
}

fn store(app: &App, interaction: &Interaction) -> (Step, Plain) {
    let now_ms = app.clock.now_ms();
    let now = now_ms.div_euclid(1000);
    let issued = secret::generate(SecretKind::Interaction, now_ms, app.entropy.as_ref(), &app.mac);
    let step = Step::Put(Artefact {
        kind: ArtefactKind::Interaction,
        id: issued.id.to_vec(),
        mac: issued.mac.to_vec(),
        grant: None,
        document: serde_json::json!(interaction).to_string(),
        created_at: now,
        expires_at: now + app.settings.interaction_ttl,
        consumed_at: None,
        successor: None,
        seq: 0,
    });
    (step, issued.plain)
}

/// Opens the one that a link or form names, if it is this browser's, unused and in time.
///
/// # Errors
/// Stale, or another browser's.
pub async fn open(app: &App, browser: &Browser, text: &str) -> Result<Open, Refused> {
    let presented = secret::parse(SecretKind::Interaction, text, &app.mac).ok_or(Refused::stale())?;
    let row = app.store.artefact(ArtefactKind::Interaction, &presented.id).await?.ok_or(Refused::stale())?;
    if !presented.matches(&row.mac) || row.consumed_at.is_some() || row.expires_at <= app.clock.now() {
        return Err(Refused::stale());
    }
    let interaction: Interaction = serde_json::from_str(&row.document).map_err(|_| Refused::stale())?;
    let mut bindings = browser.bindings().await?.into_iter();
    let binding = bindings.find(|b| hash::eq(hashed(b).as_bytes(), interaction.browser.as_bytes())).ok_or(Refused::foreign())?;
    Ok(Open { text: text.to_owned(), interaction, id: presented.id, binding })
}

impl Open {
    /// Uses it up: of two forms posted at once, one wins.
    #[must_use]
    pub fn consume(&self, app: &App) -> Step {
        Step::Consume { kind: ArtefactKind::Interaction, id: self.id.to_vec(), now: app.clock.now(), successor: None }
    }

    /// The same, in the same browser, once the password is proved: this one is used up.
    #[must_use]
    pub fn proved(&self, app: &App, proved: Proved) -> (Step, Plain) {
        store(app, &Interaction { proved: Some(proved), ..self.interaction.clone() })
    }

    /// The hidden field of one of its forms. `about` is the session the form is shown in.
    #[must_use]
    pub fn csrf(&self, app: &App, form: &str, about: &str) -> String {
        csrf::token(&app.mac, &self.binding, form, &format!("{}\0{about}", self.text))
    }

    /// Whether a posted form is the one that was shown.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, app: &App, form: &str, about: &str, posted: Option<&str>) -> Result<(), Refused> {
        let about = format!("{}\0{about}", self.text);
        let right = posted.is_some_and(|p| csrf::matches(&app.mac, &self.binding, form, &about, p));
        if right { Ok(()) } else { Err(Refused::foreign()) }
    }
}
