//! `private_key_jwt`: the client signs who it is (RFC 7523 §3, OpenID Connect Core §9, FAPI 2.0 §5.3.2.1).
use ledger::{Artefact, ArtefactKind, Step};
use serde_json::{Map, Value};
use tokens::{Alg, jws::Parsed};

use super::{Means, Method, Presented};
use crate::{Client, Form, OAuthError, Profile, Settings};

/// The one type of assertion (RFC 7523 §2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest an assertion may live, seconds (CONTRACT §5).
const LONGEST: i64 = 300;
/// The longest `jti`, octets.
const LONGEST_ID: usize = 512;

/// An assertion as it came, and what it says before anybody looked whether it is true: good for finding keys, for nothing else.
#[derive(Debug)]
pub struct Shown {
    token: String,
    /// Whose token it claims to be.
    pub issuer: String,
    /// The key it names.
    pub kid: Option<String>,
}

impl Shown {
    pub(super) fn parse(&self) -> Result<Parsed<'_>, OAuthError> {
        Parsed::parse(&self.token).map_err(|_| OAuthError::client("the assertion is no signed token"))
    }
}

/// Reads `client_assertion`. Its subject names the client, or `client_id` does where somebody else vouches for it.
///
/// # Errors
/// `invalid_client`.
pub fn present(form: &Form<'_>) -> Result<Presented, OAuthError> {
    let Some(token) = form.get("client_assertion") else { return Err(OAuthError::client("client_assertion is missing")) };
    if form.get("client_assertion_type") != Some(TYPE) {
        return Err(OAuthError::client("unknown client_assertion_type"));
    }
    let parsed = Parsed::parse(token).map_err(|_| OAuthError::client("the assertion is no signed token"))?;
    let (issuer, subject) = (parsed.unverified("iss"), parsed.unverified("sub"));
    let (Some(issuer), Some(subject)) = (issuer, subject) else { return Err(OAuthError::client("the assertion lacks iss or sub")) };
    let client_id = match form.get("client_id") {
        Some(named) => named,
        None if issuer == subject => subject,
        None => return Err(OAuthError::client("an assertion of another issuer needs a client_id")),
    };
    let shown = Shown { token: token.to_owned(), issuer: issuer.to_owned(), kid: parsed.kid.clone() };
    Ok(Presented { client_id: client_id.to_owned(), method: Method::PrivateKeyJwt, secrets: Vec::new(), assertion: Some(shown) })
}

/// The algorithms assertions may be signed with where a client registered none of its own, weakest refused (FAPI 2.0 §5.4.1).
#[must_use]
pub fn algorithms(profile: Profile) -> &'static [Alg] {
    match profile {
        Profile::Fapi2 => &[Alg::PS256, Alg::ES256, Alg::EdDSA],
        Profile::Standard => &[Alg::PS256, Alg::ES256, Alg::ES384, Alg::EdDSA],
        Profile::OidcDynamic => &[Alg::RS256, Alg::PS256, Alg::ES256, Alg::ES384, Alg::EdDSA],
    }
}

/// The algorithms metadata lists: those, and what a client may register besides.
#[must_use]
pub fn registrable(profile: Profile) -> Vec<Alg> {
    let mut all = algorithms(profile).to_vec();
    if profile != Profile::Fapi2 && !all.contains(&Alg::RS256) {
        all.push(Alg::RS256);
    }
    all
}

fn may_sign(alg: Alg, client: &Client, profile: Profile) -> bool {
    match client.token_endpoint_auth_signing_alg.as_deref() {
        Some(registered) => alg.as_str() == registered && (profile != Profile::Fapi2 || algorithms(profile).contains(&alg)),
        None => algorithms(profile).contains(&alg),
    }
}

/// Looks whether a client's own assertion is true, for this server, now, and gives the step that makes it the only time.
///
/// # Errors
/// `invalid_client`.
pub(super) fn believe(shown: &Shown, client: &Client, means: &Means<'_>) -> Result<Step, OAuthError> {
    let refuse = OAuthError::client;
    let parsed = shown.parse()?;
    if parsed.typ.is_some() && !parsed.is_typ("JWT") && !parsed.is_typ("client-authentication+jwt") {
        return Err(refuse("the typ of the assertion is another"));
    }
    if !may_sign(parsed.alg, client, means.settings.profile) {
        return Err(refuse("the assertion is signed with an algorithm that is not allowed"));
    }
    let key = means.keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(refuse("no key of the client's fits the assertion"))?;
    let claims = parsed.verify(key).map_err(|_| refuse("the assertion's signature is wrong"))?.into_inner();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&client.client_id) || text("sub") != Some(&client.client_id) {
        return Err(refuse("iss and sub of the assertion are not the client"));
    }
    if !is_for_us(claims.get("aud"), client, means) {
        return Err(refuse("the assertion is for somebody else"));
    }
    let expires_at = times(&claims, means.now)?;
    let issued_at = time(&claims, "iat")?.ok_or(refuse("the assertion lacks iat"))?;
    if expires_at.saturating_sub(issued_at) > LONGEST {
        return Err(refuse("the assertion lives for too long"));
    }
    let jti = text("jti").filter(|jti| !jti.is_empty() && jti.len() <= LONGEST_ID).ok_or(refuse("the assertion lacks jti"))?;
    Ok(once(&client.client_id, jti, means.now, expires_at))
}

/// Whether now lies in the token's time; gives its `exp`.
pub(super) fn times(claims: &Map<String, Value>, now: i64) -> Result<i64, OAuthError> {
    let expires_at = time(claims, "exp")?.ok_or(OAuthError::client("the assertion lacks exp"))?;
    if expires_at.saturating_add(Settings::LEEWAY) <= now {
        return Err(OAuthError::client("the assertion has expired"));
    }
    for name in ["iat", "nbf"] {
        if time(claims, name)?.is_some_and(|at| at > now.saturating_add(Settings::LEEWAY)) {
            return Err(OAuthError::client("the assertion is from the future"));
        }
    }
    Ok(expires_at)
}

/// A time in whole seconds (RFC 7519 §2, NumericDate), if there is one.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, OAuthError> {
    const LAST: f64 = 1e11;
    match claims.get(name) {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "bounded before")]
        Some(value) => match value.as_f64() {
            Some(at) if (0.0..LAST).contains(&at) => Ok(Some(at as i64)),
            _ => Err(OAuthError::client("a time of the assertion is no number of seconds")),
        },
    }
}

/// The audience is this server as one text. For old libraries it may also be the address the assertion is sent to, or a list.
fn is_for_us(audience: Option<&Value>, client: &Client, means: &Means<'_>) -> bool {
    let settings = means.settings;
    let legacy = match client.assertion_audience.as_deref() {
        Some(registered) => registered == "legacy" && settings.profile != Profile::Fapi2,
        None => settings.profile == Profile::OidcDynamic,
    };
    let ours = |text: &str| {
        let at = |path: &str| text == settings.url(path) || settings.mtls_url(path).is_some_and(|url| url == text);
        text == settings.issuer || (legacy && (at("/token") || at(means.path)))
    };
    match audience {
        Some(Value::String(one)) => ours(one),
        Some(Value::Array(several)) => legacy && several.iter().filter_map(Value::as_str).any(ours),
        _ => false,
    }
}

/// The guard that a `jti` of a client's is spent once: on every node, after a restart, for as long as the assertion could be believed.
fn once(client_id: &str, jti: &str, now: i64, expires_at: i64) -> Step {
    let id = tokens::hash::sha256(format!("client_assertion|{client_id}|{jti}").as_bytes()).to_vec();
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id,
        mac: Vec::new(),
        grant: None,
        document: "{}".into(),
        created_at: now,
        expires_at: expires_at + Settings::LEEWAY + 1,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}
