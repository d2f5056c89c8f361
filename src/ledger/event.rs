//! Security events: what happened, to whom, once.
use std::ops::Index;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// Every kind of event the ledger knows. The wire name is stable: SIEM rules are written against it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What happened. Names are stable; readers must tolerate ones they do not know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $variant,)* }
        impl EventKind {
            /// Every kind, in declaration order.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)*];
            /// The stable wire name.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(EventKind::$variant => $name,)* } }
            /// The kind of that wire name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> { match name { $($name => Some(EventKind::$variant),)* _ => None } }
        }
    };
}

kinds! {
    /// A password (or other factor) was accepted.
    LoginSucceeded = "login.succeeded",
    /// A login was refused; `data.reason` says why, without naming the secret.
    LoginFailed = "login.failed",
    /// A login was refused before looking, because of its source's or account's failures.
    LoginThrottled = "login.throttled",
    /// A single sign-on session began.
    SessionStarted = "session.started",
    /// A session ended (logout, disable, expiry by an administrator).
    SessionEnded = "session.ended",
    /// A client heard by itself that a session has ended (OpenID Connect Back-Channel Logout).
    LogoutDelivered = "logout.delivered",
    /// A client could not be told that a session has ended; `data.tries` says how often it was tried.
    LogoutFailed = "logout.failed",
    /// A person allowed a client some scope.
    ConsentGranted = "consent.granted",
    /// A person refused a client.
    ConsentDenied = "consent.denied",
    /// A client pushed an authorization request.
    RequestPushed = "request.pushed",
    /// An authorization code was issued.
    CodeIssued = "code.issued",
    /// A spent authorization code came again; what it gave was revoked.
    CodeReplayed = "code.replayed",
    /// A grant (what a person or client was given) began.
    GrantStarted = "grant.started",
    /// A grant ended; nothing of it works any more.
    GrantEnded = "grant.ended",
    /// An access token was issued.
    TokenIssued = "token.issued",
    /// A single token was revoked.
    TokenRevoked = "token.revoked",
    /// A refresh token was used.
    TokenRefreshed = "token.refreshed",
    /// A spent refresh token came again; its family was revoked.
    RefreshReused = "refresh.reused",
    /// A client failed to authenticate.
    ClientAuthFailed = "client.auth_failed",
    /// Every token of a client issued before this event is dead.
    ClientRevoked = "client.revoked",
    /// Every token of a subject issued before this event is dead.
    SubjectRevoked = "subject.revoked",
    /// An account was disabled.
    UserDisabled = "user.disabled",
    /// An account was enabled.
    UserEnabled = "user.enabled",
    /// A password was set.
    PasswordChanged = "user.password_changed",
    /// An administrator or seed created an object.
    ObjectCreated = "object.created",
    /// An administrator or seed replaced an object.
    ObjectReplaced = "object.replaced",
    /// An administrator or seed deleted an object.
    ObjectDeleted = "object.deleted",
    /// A secret of an object was set or rotated.
    SecretRotated = "secret.rotated",
    /// A signing key was created (published, not yet signing).
    KeyCreated = "key.created",
    /// A signing key began to sign.
    KeyActivated = "key.activated",
    /// A signing key stopped signing; still published.
    KeyRetired = "key.retired",
    /// A retired key was taken out of publication.
    KeyRemoved = "key.removed",
    /// A key was revoked: everything it signed is dead.
    KeyRevoked = "key.revoked",
    /// An API key was given another secret; `data.overlap_s` says how long the old one counts beside it.
    ApiKeyRotated = "api_key.rotated",
    /// An API key's secrets ended for good: it was revoked, or its owner was.
    ApiKeyRevoked = "api_key.revoked",
    /// An API key was disabled.
    ApiKeyDisabled = "api_key.disabled",
    /// An API key was enabled.
    ApiKeyEnabled = "api_key.enabled",
    /// A device was revoked or disabled.
    DeviceRevoked = "device.revoked",
    /// A device was disabled: nothing of it works until it is enabled.
    DeviceDisabled = "device.disabled",
    /// A device was enabled.
    DeviceEnabled = "device.enabled",
    /// A person let a device in (RFC 8628).
    DeviceApproved = "device_request.approved",
    /// A person refused a device (RFC 8628).
    DeviceDenied = "device_request.denied",
    /// A client asked for a person's consent behind the scenes (CIBA).
    BackchannelRequested = "backchannel.requested",
    /// Such a request was approved.
    BackchannelApproved = "backchannel.approved",
    /// Such a request was refused.
    BackchannelDenied = "backchannel.denied",
    /// A token was exchanged for another; `data.actor` says who acts (RFC 8693).
    TokenExchanged = "token.exchanged",
    /// Another issuer's assertion became a token (RFC 7523).
    AssertionRedeemed = "assertion.redeemed",
    /// A receiver of shared signals opened, changed or closed its stream.
    StreamChanged = "signals.stream",
    /// A stream was paused because its receiver does not answer.
    StreamPaused = "signals.paused",
    /// A receiver refused a security event token for good.
    SignalRefused = "signals.refused",
    /// A trusted issuer told of an event.
    SignalReceived = "signals.received",
    /// A browser logged in at a gateway.
    GatewaySessionStarted = "gateway_session.started",
    /// A browser's session at a gateway ended; `data.reason` says why.
    GatewaySessionEnded = "gateway_session.ended",
    /// An issuer told a gateway that sessions have ended (OpenID Connect Back-Channel Logout).
    GatewayLogoutReceived = "gateway_session.logout_received",
    /// An administrator's credential was made.
    AdminBootstrapped = "admin.bootstrapped",
    /// The ledger's oldest rows were cut off at a checkpoint.
    LedgerTruncated = "ledger.truncated",
    /// The database was restored from a backup.
    Restored = "storage.restored",
}

/// An event before the transaction that gives it its place.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventKind,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// The person or client it is about.
    pub subject: Option<String>,
    /// The client it is about.
    pub client_id: Option<String>,
    /// The grant it is about.
    pub grant: Option<String>,
    /// The session it is about.
    pub session: Option<String>,
    /// Further facts. Never a secret, code, token or key.
    pub data: Data,
}

/// Facts by name, in the order they were given: a handful, so that a list is all they need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data(Vec<(String, Value)>);

impl Data {
    /// Most events tell no more than this.
    const USUAL: usize = 8;

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Adds a fact, in the place of the one of that name if there is one.
    pub fn insert(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, before)) => *before = value,
            None => {
                if self.0.is_empty() {
                    self.0.reserve(Self::USUAL);
                }
                self.0.push((name.to_owned(), value));
            }
        }
    }
}

impl Index<&str> for Data {
    type Output = Value;
    fn index(&self, name: &str) -> &Value {
        self.0.iter().find(|(known, _)| known == name).map_or(&Value::Null, |(_, value)| value)
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl NewEvent {
    /// An event of `kind` at `at_ms`, about nobody yet.
    #[must_use]
    pub fn new(kind: EventKind, at_ms: i64) -> Self {
        Self { kind, at_ms, subject: None, client_id: None, grant: None, session: None, data: Data::default() }
    }
    /// Names the subject.
    #[must_use]
    pub fn subject(mut self, sub: impl Into<String>) -> Self {
        self.subject = Some(sub.into());
        self
    }
    /// Names the client.
    #[must_use]
    pub fn client(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }
    /// Names the grant.
    #[must_use]
    pub fn grant(mut self, id: impl Into<String>) -> Self {
        self.grant = Some(id.into());
        self
    }
    /// Names the session.
    #[must_use]
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.session = Some(id.into());
        self
    }
    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name, value.into());
        self
    }
    /// The JSON text that is stored and hashed (everything but place and hash).
    #[must_use]
    pub fn document(&self) -> String {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            sub: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_id: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            grant: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            session: &'a Option<String>,
            #[serde(skip_serializing_if = "Data::is_empty")]
            data: &'a Data,
        }
        let wire = Wire { sub: &self.subject, client_id: &self.client_id, grant: &self.grant, session: &self.session, data: &self.data };
        let mut out = Vec::with_capacity(512);
        match serde_json::to_writer(&mut out, &wire).map(|()| String::from_utf8(out)) {
            Ok(Ok(text)) => text,
            _ => "{}".to_owned(),
        }
    }
}

/// An event in its place in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place: consecutive from 1, in commit order.
    pub seq: u64,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// The wire name of what happened (see [`EventKind::as_str`]).
    pub kind: String,
    /// The stored JSON text of the event, exactly as hashed.
    pub document: String,
    /// The chain value after this event (see [`crate::chain`]).
    #[serde(with = "crate::chain::hex")]
    pub hash: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_tells_what_is_known_in_the_order_it_was_given() {
        let event = NewEvent::new(EventKind::TokenIssued, 1).client("c").with("b", 1).with("a", "x\"y").with("b", vec![2]);
        assert_eq!(event.document(), r#"{"client_id":"c","data":{"b":[2],"a":"x\"y"}}"#);
        assert_eq!((&event.data["b"], &event.data["none"]), (&serde_json::json!([2]), &Value::Null));
        assert_eq!(NewEvent::new(EventKind::TokenIssued, 1).document(), "{}");
    }
}
