//! Claims about a person: which ones scope and the `claims` parameter ask for (OpenID Connect Core §5.3 to §5.5).
use accounts::User;
use serde_json::{Map, Value};
use tokens::{Alg, keyring::KeyRing};

use crate::{Client, OAuthError, Scope, Settings, scope, signing};

/// Claims of the scope `profile` (Core §5.4).
pub const PROFILE: [&str; 14] = [
    "name",
    "family_name",
    "given_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "website",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "updated_at",
];
/// Claims of the scope `email`.
pub const EMAIL: [&str; 2] = ["email", "email_verified"];
/// Claims of the scope `address`.
pub const ADDRESS: [&str; 1] = ["address"];
/// Claims of the scope `phone`.
pub const PHONE: [&str; 2] = ["phone_number", "phone_number_verified"];

/// Where claims are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The userinfo endpoint.
    Userinfo,
    /// The ID token.
    IdToken,
}

impl Place {
    const fn member(self) -> &'static str {
        match self {
            Self::Userinfo => "userinfo",
            Self::IdToken => "id_token",
        }
    }
}

/// The userinfo document: `sub` and what was asked for, as far as the account has it.
#[must_use]
pub fn claims(user: &User, granted: &str, asked: Option<&Value>) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("sub".into(), Value::from(user.id.as_str()));
    let sets: [(&str, &[&str]); 4] = [("profile", &PROFILE), ("email", &EMAIL), ("address", &ADDRESS), ("phone", &PHONE)];
    for (_, names) in sets.iter().filter(|(name, _)| scope::list_has(granted, name)) {
        names.iter().for_each(|name| put(&mut out, user, name));
    }
    by_name(&mut out, user, asked, Place::Userinfo);
    out
}

/// The document as a signed JWT (Core §5.3.2): the claims, whose they are, and for whom.
///
/// # Errors
/// `server_error` if no key signs what the client registered.
pub fn sign(mut claims: Map<String, Value>, client: &Client, keys: &KeyRing, settings: &Settings) -> Result<String, OAuthError> {
    let key = signing::key(keys, settings.profile, client.userinfo_signed_response_alg.as_deref(), Alg::RS256)?;
    claims.insert("iss".into(), settings.issuer.as_str().into());
    claims.insert("aud".into(), client.client_id.as_str().into());
    key.sign_jwt("JWT", &claims).map_err(|e| OAuthError::fault(e.to_string()))
}

/// What metadata says of signed userinfo.
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("userinfo_signing_alg_values_supported".into(), signing::names(settings).into());
}

/// The claims the `claims` parameter asks for by name in one place (Core §5.5). Names the account does not have are left out.
#[must_use]
pub fn asked_for(user: &User, asked: Option<&Value>, place: Place) -> Map<String, Value> {
    let mut out = Map::new();
    by_name(&mut out, user, asked, place);
    out
}

fn by_name(out: &mut Map<String, Value>, user: &User, asked: Option<&Value>, place: Place) {
    let Some(names) = asked.and_then(|a| a.get(place.member())).and_then(Value::as_object) else { return };
    for name in names.keys().filter(|n| is_standard(n)) {
        put(out, user, name);
    }
}

fn put(out: &mut Map<String, Value>, user: &User, name: &str) {
    let value = match user.claims.get(name) {
        Some(value) if !value.is_null() => value.clone(),
        None if name == "preferred_username" => Value::from(user.username.as_str()),
        _ => return,
    };
    out.insert(name.to_owned(), value);
}

/// Whether it is a claim about people (Core §5.1): no other is told.
pub(crate) fn is_standard(name: &str) -> bool {
    PROFILE.contains(&name) || EMAIL.contains(&name) || ADDRESS.contains(&name) || PHONE.contains(&name)
}

/// Every claim this server can tell, for metadata.
pub fn supported() -> impl Iterator<Item = &'static str> {
    ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "sid"]
        .into_iter()
        .chain(PROFILE)
        .chain(EMAIL)
        .chain(ADDRESS)
        .chain(PHONE)
}

/// Whether a granted scope opens the userinfo endpoint.
#[must_use]
pub fn opens(scope: &Scope) -> bool {
    scope.has("openid")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user() -> User {
        let claims = json!({"name": "Alice A", "email": "a@example.com", "email_verified": true, "phone_number": null});
        User { id: "u1".into(), username: "alice".into(), claims: claims.as_object().unwrap().clone(), ..User::default() }
    }

    #[test]
    fn scope_opens_its_claims_and_no_others() {
        let told = |scope| claims(&user(), scope, None).keys().cloned().collect::<Vec<_>>();
        assert_eq!(told("openid"), ["sub"]);
        assert_eq!(told("openid email"), ["sub", "email", "email_verified"]);
        assert_eq!(told("openid profile phone"), ["sub", "name", "preferred_username"]);
    }

    #[test]
    fn claims_asked_for_by_name_go_where_they_were_asked_for() {
        let asked = json!({"userinfo": {"name": {"essential": true}, "roles": null}, "id_token": {"email": null}});
        assert_eq!(claims(&user(), "openid", Some(&asked)).keys().collect::<Vec<_>>(), ["sub", "name"]);
        assert_eq!(asked_for(&user(), Some(&asked), Place::IdToken).keys().collect::<Vec<_>>(), ["email"]);
    }
}
