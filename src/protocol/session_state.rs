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
/// Characters of the salt.
const SALT: usize = 16;
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
    let salt = id::random_text(entropy, SALT);
    Some(calculate(client_id, &origin(redirect_uri)?, &browser_state(mac, session), &salt))
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
    }
}
