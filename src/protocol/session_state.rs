//! Session management: what a client's page may ask about the state of the login at this browser (OpenID Connect Session Management 1.0).
//!
//! `session_state` is a salted hash over the client, its origin and the state of the browser's session (§3.2); that state is a keyed MAC of
//! the session's id, so that neither value tells anything about the other.
use serde_json::{Map, Value};
use tokens::{Entropy, b64, hash, id, secret::MacKey};
use url::Url;

use crate::{Profile, Settings};

/// Domain of the MACs.
const DOMAIN: &str = "browser_state";
/// Octets of the random part of a salt.
const SALT: usize = 16;
/// Domain of the marks by which a salt of ours is known again, and their length in characters.
const MARK: (&str, usize) = ("session_state", 22);
/// Domain of the references in the cookie for clients of other sites.
const REFERENCE: &str = "session_reference";
/// What that cookie says after a logout.
pub const ENDED: &str = "ended";
/// Longest `session_state` looked at.
const LONGEST: usize = 128;

/// The state of a browser in that session.
#[must_use]
pub fn browser_state(mac: &MacKey, session: &str) -> String {
    b64::encode(&mac.mac(DOMAIN, session.as_bytes()))
}

/// The origin of a client's page (RFC 6454 §6.1); `None` where there is none to compare with (private-use schemes).
#[must_use]
pub fn origin(uri: &str) -> Option<String> {
    let origin = Url::parse(uri).ok()?.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

/// A new `session_state` for a client at a redirect URI.
#[must_use]
pub fn of(client_id: &str, redirect_uri: &str, session: &str, mac: &MacKey, entropy: &dyn Entropy) -> Option<String> {
    let (origin, random) = (origin(redirect_uri)?, id::random_text(entropy, SALT));
    let salt = format!("{random}{}", mark(client_id, &origin, &random, mac));
    Some(calculate(client_id, &origin, &browser_state(mac, session), &salt))
}

fn mark(client_id: &str, origin: &str, random: &str, mac: &MacKey) -> String {
    let (domain, length) = MARK;
    let mut text = b64::encode(&mac.mac(domain, format!("{client_id} {origin} {random}").as_bytes()));
    text.truncate(length);
    text
}

/// Whether this server gave a client at that origin such a state, in whichever browser.
#[must_use]
pub fn genuine(client_id: &str, origin: &str, told: &str, mac: &MacKey) -> bool {
    let salt = told.split_once('.').map(|(_, salt)| salt).filter(|_| told.len() <= LONGEST);
    let parts = salt.and_then(|salt| salt.split_at_checked(salt.len().checked_sub(MARK.1)?));
    parts.is_some_and(|(random, given)| hash::eq(mark(client_id, origin, random, mac).as_bytes(), given.as_bytes()))
}

/// What the cookie for clients of other sites says of a session: which one it is, and that we said so. It opens nothing.
#[must_use]
pub fn reference(session: &str, mac: &MacKey) -> String {
    format!("{session}.{}", b64::encode(&mac.mac(REFERENCE, session.as_bytes())))
}

/// The session that such a cookie refers to.
#[must_use]
pub fn referred<'a>(value: &'a str, mac: &MacKey) -> Option<&'a str> {
    let (session, _) = value.rsplit_once('.').filter(|_| value.len() <= LONGEST)?;
    hash::eq(reference(session, mac).as_bytes(), value.as_bytes()).then_some(session)
}

fn calculate(client_id: &str, origin: &str, state: &str, salt: &str) -> String {
    format!("{}.{salt}", hash::s256(&format!("{client_id} {origin} {state} {salt}")))
}

/// What the page of the check hears (§3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The login is the one the client knows.
    Unchanged,
    /// It ended, or it is another one.
    Changed,
    /// The question makes no sense.
    Error,
}

impl Verdict {
    /// The message to the client's page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Error => "error",
        }
    }
}

/// Compares what a client was told with the browser's present session.
#[must_use]
pub fn check(client_id: &str, origin: &str, told: &str, session: Option<&str>, mac: &MacKey) -> Verdict {
    let salt = told.split_once('.').map(|(_, salt)| salt).filter(|s| !s.is_empty() && !s.contains(['.', ' ']));
    let Some(salt) = salt.filter(|_| told.len() <= LONGEST && !client_id.is_empty() && !origin.is_empty()) else { return Verdict::Error };
    let same = session.is_some_and(|s| hash::eq(calculate(client_id, origin, &browser_state(mac, s), salt).as_bytes(), told.as_bytes()));
    if same { Verdict::Unchanged } else { Verdict::Changed }
}

/// Whether a deployment offers it: FAPI 2.0 knows nothing of it.
#[must_use]
pub fn offered(settings: &Settings) -> bool {
    settings.profile != Profile::Fapi2
}

/// Whether clients of other sites may ask too: only a Secure cookie is sent along from there.
#[must_use]
pub fn across_sites(settings: &Settings) -> bool {
    offered(settings) && settings.cross_site_session_state && settings.issuer.starts_with("https://")
}

/// What a deployment says of it (§3.3).
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    if !offered(settings) {
        return;
    }
    members.insert("check_session_iframe".into(), settings.url("/session/check").into());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn a_state_is_of_one_client_at_one_origin_in_one_session() {
        let mac = MacKey::new([1; 32]);
        let told = of("web", "https://rp.example.com/cb?x=1", "sid", &mac, &Fixed).expect("a state");
        let check = |client: &str, origin: &str, session: Option<&str>| check(client, origin, &told, session, &mac);
        assert_eq!(check("web", "https://rp.example.com", Some("sid")), Verdict::Unchanged);
        assert_eq!(check("web", "https://rp.example.com", None), Verdict::Changed);
        assert_eq!(check("web", "https://rp.example.com", Some("next")), Verdict::Changed);
        assert_eq!(check("web", "https://evil.example.com", Some("sid")), Verdict::Changed);
        assert_eq!(check("other", "https://rp.example.com", Some("sid")), Verdict::Changed);
        assert_eq!(check("", "https://rp.example.com", Some("sid")), Verdict::Error);
        assert!(!told.contains("sid") && !told.contains(' '));
        for bad in ["", ".", "x", "a.b.c", &"x".repeat(200)] {
            assert_eq!(super::check("web", "https://rp", bad, Some("sid"), &mac), Verdict::Error, "{bad}");
        }
        assert_eq!(of("web", "com.example:/cb", "sid", &mac, &Fixed), None);
        assert!(genuine("web", "https://rp.example.com", &told, &mac));
        for (client, origin, told) in [
            ("other", "https://rp.example.com", told.as_str()),
            ("web", "https://evil.example.com", &told),
            ("web", "https://rp.example.com", &told[..told.len() - 1]),
            ("web", "https://rp.example.com", "x.y"),
            ("web", "https://rp.example.com", ""),
        ] {
            assert!(!genuine(client, origin, told, &mac), "{client} {origin} {told}");
        }
    }

    #[test]
    fn a_reference_is_ours_and_only_to_its_session() {
        let mac = MacKey::new([1; 32]);
        let value = reference("sid", &mac);
        assert_eq!(referred(&value, &mac), Some("sid"));
        assert_eq!(referred(&value, &MacKey::new([2; 32])), None);
        for forged in [value.replacen("sid", "sie", 1), "sid".into(), "sid.".into(), ENDED.into(), String::new(), "x".repeat(5000)] {
            assert_eq!(referred(&forged, &mac), None, "{forged}");
        }
    }

    #[test]
    fn other_sites_are_answered_behind_https_if_that_was_chosen() {
        let chosen = |issuer: &str, profile| Settings { cross_site_session_state: true, profile, ..Settings::for_issuer(issuer) };
        assert!(across_sites(&chosen("https://id", Profile::Standard)));
        assert!(!across_sites(&chosen("http://127.0.0.1", Profile::Standard)) && !across_sites(&chosen("https://id", Profile::Fapi2)));
        assert!(!across_sites(&Settings::for_issuer("https://id")));
    }
}
