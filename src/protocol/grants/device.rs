//! Device authorization (RFC 8628): a device shows a code, its person types it elsewhere.
use ledger::Change;
use serde_json::{Map, Value, json};
use tokens::{
    Entropy,
    secret::{self, MacKey, Plain},
};

use super::{
    DEVICE_CODE, audience,
    decoupled::{self, DEVICE, INTERVAL, Requested},
    unauthorized,
};
use crate::{
    AuthenticatedClient, Form, OAuthError, ResourceServer, Settings,
    issue::Context,
    resource,
    scope::{self, Party},
};

/// Twenty letters that make no words and are not taken for each other (RFC 8628 §6.1).
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a user code: 20⁸ of them.
const LETTERS: usize = 8;
/// Domain of a user code's MAC, under which its door is found: the code itself is not stored.
const DOMAIN: &str = "user_code";

/// A request that waits for its person.
#[derive(Debug)]
pub struct Begun {
    /// To be applied first; a user code that is taken refuses it.
    pub change: Change,
    device_code: Plain,
    user_code: String,
    expires_in: i64,
}

impl Begun {
    /// The JSON document of RFC 8628 §3.2.
    #[must_use]
    pub fn json(&self, settings: &Settings) -> Vec<u8> {
        let (uri, code) = (settings.url("/device"), shown(&self.user_code));
        json!({
            "device_code": self.device_code.expose(),
            "user_code": code,
            "verification_uri": uri,
            "verification_uri_complete": format!("{uri}?user_code={code}"),
            "expires_in": self.expires_in,
            "interval": INTERVAL,
        })
        .to_string()
        .into_bytes()
    }
}

/// The resource a device asks for, to be loaded before [`begin`].
///
/// # Errors
/// `unauthorized_client`, `invalid_target`.
pub fn target(ctx: &Context<'_>, client: &AuthenticatedClient, form: &Form<'_>) -> Result<String, OAuthError> {
    if !client.client().may_use(DEVICE_CODE) {
        return Err(unauthorized());
    }
    if form.has("authorization_details") {
        return Err(crate::authorize::details::NOT_HERE);
    }
    resource::choose(form.all("resource"), form.get("scope"), client.client(), ctx.settings)
}

/// Begins.
///
/// # Errors
/// `unauthorized_client`, `invalid_target`, `invalid_scope`.
pub fn begin(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    form: &Form<'_>,
    target: &str,
    server: Option<&ResourceServer>,
) -> Result<Begun, OAuthError> {
    if !client.client().may_use(DEVICE_CODE) {
        return Err(unauthorized());
    }
    let scope = scope::grant(form.get("scope"), client.client(), audience(target, ctx.settings, server)?, Party::Person)?;
    let (now, expires_in) = (ctx.now(), ctx.settings.device_code_ttl);
    let requested = Requested {
        client_id: client.id().to_owned(),
        scope: scope.to_string(),
        resource: target.to_owned(),
        expires_at: now.saturating_add(expires_in),
        ..Requested::default()
    };
    let issued = secret::generate(DEVICE.secret, ctx.now_ms, ctx.entropy, ctx.mac);
    let user_code = generate(ctx.entropy);
    let [request, door] = decoupled::begin(&DEVICE, &issued, &requested, door(ctx.mac, &user_code), now);
    let change = Change::new().step(client.unchanged()).step(request).step(door);
    Ok(Begun { change, device_code: issued.plain, user_code, expires_in })
}

fn generate(entropy: &dyn Entropy) -> String {
    let mut code = String::with_capacity(LETTERS);
    // Octets from 240 on would make the first letters likelier. The bound only serves entropy that has none.
    for _ in 0..1000 {
        let mut octets = [0; LETTERS];
        entropy.fill(&mut octets);
        let letters = octets.iter().filter(|o| **o < 240).filter_map(|o| ALPHABET.get(usize::from(o % 20)));
        code.extend(letters.map(|l| char::from(*l)).take(LETTERS - code.len()));
        if code.len() == LETTERS {
            break;
        }
    }
    code
}

/// The id of a user code's door.
#[must_use]
pub fn door(mac: &MacKey, code: &str) -> Vec<u8> {
    mac.mac(DOMAIN, code.as_bytes()).to_vec()
}

/// A user code as it was meant, however it was typed; `None` if it cannot be one.
#[must_use]
pub fn typed(text: &str) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let code: String =
        text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '–' | '_')).map(|c| c.to_ascii_uppercase()).collect();
    (code.len() == LETTERS && code.bytes().all(|b| ALPHABET.contains(&b))).then_some(code)
}

/// A user code as it is shown: two halves.
#[must_use]
pub fn shown(code: &str) -> String {
    match code.split_at_checked(LETTERS / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => code.to_owned(),
    }
}

/// What metadata says (RFC 8628 §4).
pub(crate) fn metadata(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("device_authorization_endpoint".into(), settings.url("/device_authorization").into());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.iter_mut().zip(0u8..).for_each(|(o, n)| *o = n.wrapping_mul(31).wrapping_add(self.0));
        }
    }

    #[test]
    fn a_code_is_eight_consonants_shown_in_halves() {
        for seed in 0..=255 {
            let code = generate(&Fixed(seed));
            assert_eq!(typed(&shown(&code)).as_deref(), Some(code.as_str()), "{seed}");
        }
    }

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        for text in ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "bCdF–gHjK"] {
            assert_eq!(typed(text).as_deref(), Some("BCDFGHJK"), "{text}");
        }
        for text in ["", "BCDF-GHJ", "BCDF-GHJKL", "AEIO-UAEI", "BCDF-GHJ1", "BCDF/GHJK", &"B".repeat(65)] {
            assert_eq!(typed(text), None, "{text}");
        }
    }
}
