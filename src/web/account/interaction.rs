//! Something that waits for a person: an authorization request, or the wish to see one's account. One browser's, used once.
//!
//! It waits in the browser: sealed, in the text that links and forms name it by. A row is written when it is used, under an id that can be
//! stored once; what is too long to be carried waits in a row from the beginning.
use std::net::IpAddr;

use edge::limit::Quota;
use ledger::{Artefact, ArtefactKind, Step, StoreError};
use protocol::authorize::Pending;
use serde::{Deserialize, Serialize};
use tokens::{
    b64, hash, id, seal,
    secret::{self, CARRIED, Plain, SecretKind},
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
    /// Until when, if the browser carries it.
    carried: Option<i64>,
}

/// The domain of its keys.
const DOMAIN: &str = "interaction-carried";
/// The longest document that is carried: its text fits a link of 4 KiB.
const MOST_CARRIED: usize = 2048;
/// Octets before the document: when it ends.
const UNTIL: usize = 8;
/// Seconds that the mark of a used one stays after its end: nodes' clocks may differ.
const REMEMBERED: i64 = 600;

/// What browsers of one source in which nobody is signed in may begin.
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

/// Somebody there signed in, and gives back what many begin for one who does; not all, or one account would buy a source endless beginnings.
pub(super) async fn welcome(app: &App, source: IpAddr) {
    app.counters.refund(&begun(source), &BEGUN, 20).await;
}

fn hashed(binding: &str) -> String {
    b64::encode(&hash::sha256(binding.as_bytes()))
}

/// Begins one: its text, and the step that stores it where the text alone does not carry it.
#[must_use]
pub fn begin(app: &App, binding: &str, purpose: Purpose, fresh: Option<String>, chosen: bool) -> (Option<Step>, Plain) {
    keep(app, &Interaction { browser: hashed(binding), purpose, fresh, chosen, proved: None })
}

fn keep(app: &App, interaction: &Interaction) -> (Option<Step>, Plain) {
    let now_ms = app.clock.now_ms();
    let now = now_ms.div_euclid(1000);
    let until = now + app.settings.interaction_ttl;
    let mut document = until.to_be_bytes().to_vec();
    let written = serde_json::to_writer(&mut document, interaction).is_ok();
    if written && document.len() <= UNTIL + MOST_CARRIED {
        let sealed = seal::carry(&app.mac, DOMAIN, id::new_id(now_ms, app.entropy.as_ref()), &document);
        let mut text = String::with_capacity(CARRIED.len() + sealed.len().div_ceil(3) * 4);
        text.push_str(CARRIED);
        b64::push(&sealed, &mut text);
        return (None, Plain::from(text));
    }
    let issued = secret::generate(SecretKind::Interaction, now_ms, app.entropy.as_ref(), &app.mac);
    let step = Step::Put(Artefact {
        kind: ArtefactKind::Interaction,
        id: issued.id.to_vec(),
        mac: issued.mac.to_vec(),
        grant: None,
        document: serde_json::json!(interaction).to_string(),
        created_at: now,
        expires_at: until,
        consumed_at: None,
        successor: None,
        seq: 0,
    });
    (Some(step), issued.plain)
}

/// Opens the one that a link or form names, if it is this browser's, unused and in time.
///
/// # Errors
/// Stale, or another browser's.
pub async fn open(app: &App, browser: &Browser, text: &str) -> Result<Open, Refused> {
    let found = Found::of(app, text).await?;
    // The mark of a used one is its row.
    if found.carried.is_some() && app.store.artefact(ArtefactKind::Interaction, &found.id).await?.is_some() {
        return Err(Refused::stale());
    }
    found.bound(browser, text).await
}

/// The same for whoever does nothing with it but in a transaction that uses it up: that alone decides whether it was used.
///
/// # Errors
/// Stale, or another browser's.
pub async fn presented(app: &App, browser: &Browser, text: &str) -> Result<Open, Refused> {
    Found::of(app, text).await?.bound(browser, text).await
}

/// One that is genuine and in time, of whichever browser.
struct Found {
    id: [u8; 16],
    carried: Option<i64>,
    interaction: Interaction,
}

impl Found {
    async fn of(app: &App, text: &str) -> Result<Self, Refused> {
        let found = match text.strip_prefix(CARRIED) {
            Some(body) => unsealed(app, body).filter(|found| found.carried.is_some_and(|until| until > app.clock.now())),
            None => stored(app, text).await?,
        };
        found.ok_or(Refused::stale())
    }

    async fn bound(self, browser: &Browser, text: &str) -> Result<Open, Refused> {
        let Self { id, carried, interaction } = self;
        let meant = |binding: &str| hash::eq(hashed(binding).as_bytes(), interaction.browser.as_bytes());
        let binding = browser.bound(meant).await?.ok_or(Refused::foreign())?;
        Ok(Open { text: text.to_owned(), interaction, id, binding, carried })
    }
}

/// The hidden field of a form of the interaction with that binding and text.
pub(super) fn csrf(app: &App, (binding, text): (&str, &str), form: &str, about: &str) -> String {
    csrf::token(&app.mac, binding, form, &format!("{text}\0{about}"))
}

/// What the browser carried, if it is as it was given to it.
fn unsealed(app: &App, body: &str) -> Option<Found> {
    let (id, plain) = seal::carried(&app.mac, DOMAIN, b64::decode(body)?).ok()?;
    let (until, document) = plain.split_first_chunk::<UNTIL>()?;
    Some(Found { id, carried: Some(i64::from_be_bytes(*until)), interaction: serde_json::from_slice(document).ok()? })
}

/// What waits in a row, unused and in time.
async fn stored(app: &App, text: &str) -> Result<Option<Found>, StoreError> {
    let Some(presented) = secret::parse(SecretKind::Interaction, text, &app.mac) else { return Ok(None) };
    let Some(row) = app.store.artefact(ArtefactKind::Interaction, &presented.id).await? else { return Ok(None) };
    if !presented.matches(&row.mac) || row.consumed_at.is_some() || row.expires_at <= app.clock.now() {
        return Ok(None);
    }
    let interaction = serde_json::from_str(&row.document).ok();
    Ok(interaction.map(|interaction| Found { id: presented.id, carried: None, interaction }))
}

impl Open {
    /// Uses it up: of two forms posted at once, one wins. Of a carried one the mark is stored, and it can be stored once.
    #[must_use]
    pub fn consume(&self, app: &App) -> Step {
        if let Some(until) = self.carried {
            let now = app.clock.now();
            return Step::Put(Artefact {
                kind: ArtefactKind::Interaction,
                id: self.id.to_vec(),
                mac: Vec::new(),
                grant: None,
                document: String::new(),
                created_at: now,
                expires_at: until + REMEMBERED,
                consumed_at: Some(now),
                successor: None,
                seq: 0,
            });
        }
        Step::Consume { kind: ArtefactKind::Interaction, id: self.id.to_vec(), now: app.clock.now(), successor: None }
    }

    /// The same, in the same browser, once the password is proved: this one is used up.
    #[must_use]
    pub fn proved(&self, app: &App, proved: Proved) -> (Option<Step>, Plain) {
        keep(app, &Interaction { proved: Some(proved), ..self.interaction.clone() })
    }

    /// The hidden field of one of its forms. `about` is the session the form is shown in.
    #[must_use]
    pub fn csrf(&self, app: &App, form: &str, about: &str) -> String {
        csrf(app, (&self.binding, &self.text), form, about)
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
