//! Introspection (RFC 7662): what a token is, for those who may know.
use accounts::User;
use ledger::{Artefact, Facts, Grant};
use serde::Serialize;
use serde_json::Value;
use tokens::{
    Confirmation,
    access::{AccessClaims, Origin},
    device::DeviceClaim,
};

use crate::{
    Client, ResourceServer, Settings,
    stored::{AccessDocument, RefreshDocument},
};

/// All that is told of a token that is not active, or not the caller's business.
pub const INACTIVE: &[u8] = b"{\"active\":false}";

/// An access token of this issuer, believed; whatever its format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// `jti`
    pub jti: String,
    /// `sub`
    pub subject: String,
    /// `client_id`
    pub client_id: String,
    /// `scope`
    pub scope: String,
    /// `aud`
    pub audience: Vec<String>,
    /// Seconds since the epoch.
    pub expires_at: i64,
    /// Seconds since the epoch.
    pub issued_at: i64,
    /// The grant it comes from; none where the client stands for itself.
    pub grant: Option<String>,
    /// `sid`
    pub session: Option<String>,
    /// The ledger position its issuer knew.
    pub seq: u64,
    /// The key that signed it, if it is a JWT.
    pub kid: Option<String>,
    /// The tokens it was exchanged from.
    pub from: Option<Origin>,
    /// What its holder has to prove.
    pub confirmation: Option<Confirmation>,
    /// Who acts for the subject (RFC 8693 §4.1).
    pub actor: Option<Value>,
    /// What was granted in detail (RFC 9396 §9).
    pub details: Option<Value>,
    /// How the person was authenticated (RFC 9470 §6.2).
    pub acr: Option<String>,
    /// When, seconds since the epoch.
    pub auth_time: Option<i64>,
    /// By what means (RFC 8176).
    pub amr: Vec<String>,
    /// The device whose credential it is.
    pub device: Option<DeviceClaim>,
}

impl Known {
    /// What a verified JWT says. Nothing if it lacks what this issuer always writes.
    #[must_use]
    pub fn of_claims(claims: AccessClaims, kid: Option<&str>) -> Option<Self> {
        Some(Self {
            jti: claims.jti?,
            subject: claims.sub,
            client_id: claims.client_id?,
            scope: claims.scope,
            audience: claims.aud,
            expires_at: claims.exp,
            issued_at: claims.iat?,
            grant: claims.grant,
            session: claims.sid,
            seq: claims.seq,
            kid: kid.map(str::to_owned),
            from: claims.from,
            confirmation: claims.cnf,
            details: claims.raw.get("authorization_details").cloned(),
            actor: claims.raw.get("act").cloned(),
            acr: claims.raw.get("acr").and_then(Value::as_str).map(str::to_owned),
            auth_time: claims.raw.get("auth_time").and_then(Value::as_i64),
            amr: texts(claims.raw.get("amr")),
            device: DeviceClaim::read(&claims.raw),
        })
    }

    /// What a stored opaque token says.
    #[must_use]
    pub fn of_artefact(artefact: &Artefact) -> Option<Self> {
        let document: AccessDocument = serde_json::from_str(&artefact.document).ok()?;
        let auth_time = document.authentication.as_ref().map(|a| a.auth_time);
        let (acr, amr) = document.authentication.map_or((None, Vec::new()), |a| (a.acr, a.amr));
        Some(Self {
            jti: document.jti,
            subject: document.subject,
            client_id: document.client_id,
            scope: document.scope,
            audience: vec![document.audience],
            expires_at: artefact.expires_at,
            issued_at: document.issued_at,
            grant: artefact.grant.clone(),
            session: document.session,
            seq: artefact.seq,
            kid: None,
            from: document.from,
            confirmation: document.confirmation,
            details: document.details,
            actor: document.actor,
            acr,
            auth_time,
            amr,
            device: document.device,
        })
    }

    /// What revocations are matched against.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            token: Some(&self.jti),
            grant: self.grant.as_deref(),
            session: self.session.as_deref(),
            client: Some(&self.client_id),
            subject: Some(&self.subject),
            device: self.device.as_ref().map(|device| device.id.as_str()),
            key: self.kid.as_deref(),
            seq: self.seq,
            from: self.from.as_ref(),
        }
    }

    /// What a token that is exchanged for this one comes from: this one, and what that came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let mut origin = self.from.clone().unwrap_or_default();
        origin.jti.push(self.jti.clone());
        if !origin.client_id.contains(&self.client_id) {
            origin.client_id.push(self.client_id.clone());
        }
        origin
    }

    /// Whether it allows something.
    #[must_use]
    pub fn has_scope(&self, token: &str) -> bool {
        crate::scope::list_has(&self.scope, token)
    }

    /// Whether a person stands behind it.
    #[must_use]
    pub fn is_persons(&self) -> bool {
        self.grant.is_some()
    }
}

/// Whether a caller may know a token: it is the caller's own, or for an API that names the caller, or for this issuer
/// and the caller is one of its gateways (RFC 7662 §4).
#[must_use]
pub fn entitled(caller: &Client, known: &Known, server: Option<&ResourceServer>, settings: &Settings) -> bool {
    if caller.is_public() {
        return false;
    }
    let names = |s: &ResourceServer| known.audience.contains(&s.identifier) && s.introspection_clients.contains(&caller.client_id);
    let gateway = || known.audience.contains(&settings.issuer) && crate::scope::list_has(&caller.scope, "doorward.introspect");
    known.client_id == caller.client_id || server.is_some_and(names) || gateway()
}

#[derive(Serialize)]
struct Wire<'a> {
    active: bool,
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Audience<'a>>,
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    token_type: &'static str,
    /// RFC 8705 §3.2, RFC 9449 §6.2
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<&'a Confirmation>,
    /// RFC 9396 §9.2
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_details: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<&'a Value>,
    /// RFC 9470 §6.2
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    amr: &'a [String],
    /// What a JWT of the same person carries: whoever enforces has to come to the same decision (RFC 9068 §2.2.3.1).
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a DeviceClaim>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(&'a str),
    Many(&'a [String]),
}

/// The answer about an active access token.
#[must_use]
pub fn access(known: &Known, user: Option<&User>, settings: &Settings) -> Vec<u8> {
    let aud = match known.audience.as_slice() {
        [] => None,
        [one] => Some(Audience::One(one)),
        many => Some(Audience::Many(many)),
    };
    write(&Wire {
        active: true,
        iss: &settings.issuer,
        sub: &known.subject,
        client_id: &known.client_id,
        scope: &known.scope,
        aud,
        exp: known.expires_at,
        iat: known.issued_at,
        jti: Some(&known.jti),
        token_type: known.confirmation.as_ref().map_or("Bearer", Confirmation::token_type),
        cnf: known.confirmation.as_ref(),
        authorization_details: known.details.as_ref(),
        act: known.actor.as_ref(),
        acr: known.acr.as_deref(),
        auth_time: known.auth_time,
        amr: &known.amr,
        roles: user.map_or(&[], |u| &u.roles),
        groups: user.map_or(&[], |u| &u.groups),
        username: user.map(|u| u.username.as_str()),
        grant: known.grant.as_deref(),
        sid: known.session.as_deref(),
        seq: Some(known.seq),
        from: known.from.as_ref(),
        device: known.device.as_ref(),
    })
}

/// A refresh token with what it hangs on, for [`refresh`].
#[derive(Debug, Clone, Copy)]
pub struct RefreshFound<'a> {
    /// Its row.
    pub artefact: &'a Artefact,
    /// Its document.
    pub document: &'a RefreshDocument,
    /// Its grant.
    pub grant: Option<&'a Grant>,
    /// Its person.
    pub user: Option<&'a User>,
}

/// The answer about a refresh token: only its own client may know, and only while it could be used.
#[must_use]
pub fn refresh(caller: &Client, found: &RefreshFound<'_>, settings: &Settings, now: i64) -> Vec<u8> {
    let (artefact, document) = (found.artefact, found.document);
    let unspent = artefact.consumed_at.is_none() && artefact.expires_at > now && document.family_expires_at > now;
    let granted = found.grant.is_some_and(|g| g.ended_at.is_none() && g.expires_at > now);
    let user = found.user.filter(|u| !u.disabled);
    if document.client_id != caller.client_id || caller.is_public() || !unspent || !granted || user.is_none() {
        return INACTIVE.to_vec();
    }
    write(&Wire {
        active: true,
        iss: &settings.issuer,
        sub: &document.subject,
        client_id: &document.client_id,
        scope: &document.scope,
        aud: Some(Audience::One(&document.resource)),
        exp: artefact.expires_at,
        iat: artefact.created_at,
        jti: None,
        token_type: "refresh_token",
        cnf: None,
        authorization_details: document.details.as_ref(),
        act: None,
        acr: None,
        auth_time: None,
        amr: &[],
        roles: &[],
        groups: &[],
        username: user.map(|u| u.username.as_str()),
        grant: artefact.grant.as_deref(),
        sid: document.session.as_deref(),
        seq: None,
        from: None,
        device: None,
    })
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn write(wire: &Wire<'_>) -> Vec<u8> {
    serde_json::to_vec(wire).unwrap_or_else(|_| INACTIVE.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            jti: "j".into(),
            subject: "u".into(),
            client_id: "web".into(),
            scope: "read".into(),
            audience: vec!["https://api".into()],
            expires_at: 100,
            issued_at: 1,
            grant: Some("g".into()),
            session: None,
            seq: 5,
            kid: None,
            ..Known::default()
        }
    }
    fn client(id: &str, scope: &str) -> Client {
        Client { client_id: id.into(), scope: scope.into(), ..Client::default() }
    }

    #[test]
    fn only_its_client_and_those_its_api_names_may_know_a_token() {
        let settings = Settings::for_issuer("https://id");
        let server =
            ResourceServer { identifier: "https://api".into(), introspection_clients: vec!["gw".into()], ..ResourceServer::default() };
        let may = |id, scope| entitled(&client(id, scope), &known(), Some(&server), &settings);
        assert!(may("gw", "") && may("web", ""));
        assert!(!may("other", "doorward.introspect"));
        let own = Known { audience: vec![settings.issuer.clone()], ..known() };
        assert!(entitled(&client("other", "doorward.introspect"), &own, None, &settings));
        assert!(!entitled(&client("other", ""), &own, None, &settings));
    }

    #[test]
    fn the_answer_carries_what_revocations_are_matched_against() {
        let settings = Settings::for_issuer("https://id");
        let told: serde_json::Value = serde_json::from_slice(&access(&known(), None, &settings)).unwrap();
        let expected = serde_json::json!({"active": true, "iss": "https://id", "sub": "u", "client_id": "web", "scope": "read",
            "aud": "https://api", "exp": 100, "iat": 1, "jti": "j", "token_type": "Bearer", "grant": "g", "seq": 5});
        assert_eq!(told, expected);
        let stepped = Known { acr: Some(crate::acr::TWO.into()), auth_time: Some(1), ..known() };
        let told: serde_json::Value = serde_json::from_slice(&access(&stepped, None, &settings)).unwrap();
        assert_eq!((&told["acr"], &told["auth_time"]), (&serde_json::json!(crate::acr::TWO), &serde_json::json!(1)));
        // And what policies and identity headers ask of a JWT.
        let person = User { username: "alice".into(), roles: vec!["admin".into()], groups: vec!["suspended".into()], ..User::default() };
        let known = Known { amr: vec!["pwd".into(), "otp".into()], ..known() };
        let told: serde_json::Value = serde_json::from_slice(&access(&known, Some(&person), &settings)).unwrap();
        assert_eq!(
            (&told["amr"], &told["roles"], &told["groups"], &told["username"]),
            (
                &serde_json::json!(["pwd", "otp"]),
                &serde_json::json!(["admin"]),
                &serde_json::json!(["suspended"]),
                &serde_json::json!("alice")
            )
        );
    }
}
