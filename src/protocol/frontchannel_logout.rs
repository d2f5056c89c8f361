//! Front-channel logout: the person's browser tells the clients, by loading a page of each (OpenID Connect Front-Channel Logout 1.0).
use serde_json::{Map, Value};

use crate::{Client, Settings, authorize::ReturnAddress};

/// The page of a client to load (§3): its registered URI with `iss` and `sid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What to load.
    pub src: String,
    /// How a Content-Security-Policy names its origin.
    pub origin: String,
}

/// The frame of a client that registered one.
#[must_use]
pub fn frame(client: &Client, issuer: &str, session: &str) -> Option<Frame> {
    let uri = client.frontchannel_logout_uri.as_ref().filter(|_| !client.disabled)?;
    let address = ReturnAddress::matched(uri, std::slice::from_ref(uri))?;
    Some(Frame { src: address.with(&[("iss", issuer), ("sid", session)]), origin: address.source() })
}

/// What a deployment says of it (§3).
pub(crate) fn feature(_: &Settings, members: &mut Map<String, Value>) {
    members.insert("frontchannel_logout_supported".into(), true.into());
    members.insert("frontchannel_logout_session_supported".into(), true.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_which_session_of_whom() {
        let client = Client { frontchannel_logout_uri: Some("https://rp.example.com/out?x=1".into()), ..Client::default() };
        let frame = frame(&client, "https://id", "s").expect("a frame");
        assert_eq!(frame.src, "https://rp.example.com/out?x=1&iss=https%3A%2F%2Fid&sid=s");
        assert_eq!(frame.origin, "https://rp.example.com");
        assert_eq!(super::frame(&Client { disabled: true, ..client }, "https://id", "s"), None);
        assert_eq!(super::frame(&Client::default(), "https://id", "s"), None);
    }
}
