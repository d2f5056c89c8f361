//! `private_key_jwt`: the client signs who it is (RFC 7523 §3, OpenID Connect Core §9, FAPI 2.0 §5.3.2.1).
use ledger::{Artefact, ArtefactKind, Step, revocation::SPENT_KEPT_S};
use serde_json::{Map, Value};
use tokens::{Alg, jws::Parsed, secret::Plain};

use super::{Means, Method, Presented};
use crate::{Client, Form, OAuthError, Profile, Settings, signing};

/// The one type of assertion (RFC 7523 §2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest an assertion may live, seconds (CONTRACT §5).
const LONGEST: i64 = 300;
/// The longest `jti`, octets.
const LONGEST_ID: usize = 512;

/// An assertion as it came, and what it says before anybody looked whether it is true: good for finding keys, for nothing else.
#[derive(Debug)]
pub struct Shown {
    token: Plain,
    /// Whose token it claims to be.
    pub issuer: String,
    /// The key it names.
    pub kid: Option<String>,
}

impl Shown {
    pub(super) fn parse(&self) -> Result<Parsed<'_>, OAuthError> {
        Parsed::parse(self.token.expose()).map_err(|_| OAuthError::client("the assertion is no signed token"))
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
    let shown = Shown { token: Plain::new(token.to_owned()), issuer: issuer.to_owned(), kid: parsed.kid.clone() };
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

/// Whether what somebody else's issuer signs may prove a client or a person here: FAPI 2.0 §5.4.1 binds it too.
#[must_use]
pub fn admitted(alg: Alg, settings: &Settings) -> bool {
    settings.profile != Profile::Fapi2 || algorithms(settings.profile).contains(&alg)
}

/// The algorithms metadata lists: those, and what a client may register besides.
#[must_use]
pub fn registrable(settings: &Settings) -> Vec<Alg> {
    let mut all = algorithms(settings.profile).to_vec();
    if settings.profile != Profile::Fapi2 {
        all.extend(signing::supported(settings).filter(|alg| !algorithms(settings.profile).contains(alg)));
    }
    all
}

fn may_sign(alg: Alg, client: &Client, settings: &Settings) -> bool {
    let profile = settings.profile;
    // What was registered while the deployment knew more algorithms does not count when it knows them no more.
    if !signing::supported(settings).any(|supported| supported == alg) {
        return false;
    }
    match client.token_endpoint_auth_signing_alg.as_deref() {
        Some(registered) => Alg::read(registered) == Some(alg) && (profile != Profile::Fapi2 || algorithms(profile).contains(&alg)),
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
    if !may_sign(parsed.alg, client, means.settings) {
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
    if issued_at <= means.settings.not_before {
        return Err(refuse("the assertion is older than the database, which was restored since"));
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
        expires_at: expires_at + Settings::LEEWAY + SPENT_KEPT_S,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::{jwk::KeySet, secret::MacKey, sign::SigningKey};

    use super::*;
    use crate::{
        Code,
        client_auth::{Keys, tests::means},
    };

    const ISSUER: &str = "https://id.example.com";
    const NOW: i64 = 1_000_000;

    fn client() -> Client {
        Client { client_id: "c".into(), token_endpoint_auth_method: "private_key_jwt".into(), ..Client::default() }
    }
    fn claims() -> Value {
        json!({"iss": "c", "sub": "c", "aud": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 60})
    }
    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }
    fn judged(key: &SigningKey, typ: &str, claims: &Value, client: &Client, profile: Profile) -> Result<Step, OAuthError> {
        under(&Settings { profile, ..Settings::for_issuer(ISSUER) }, key, typ, claims, client)
    }
    fn under(settings: &Settings, key: &SigningKey, typ: &str, claims: &Value, client: &Client) -> Result<Step, OAuthError> {
        let (mac, keys) = (MacKey::new([7; 32]), Keys::new(KeySet::new(vec![key.verifying()])));
        let token = key.sign_jwt(typ, claims).unwrap();
        let form = format!("client_assertion_type={TYPE}&client_assertion={token}");
        let shown = present(&Form::read(form.as_bytes()).unwrap())?;
        believe(&shown.assertion.unwrap(), client, &means(&mac, settings, &keys))
    }
    fn es256() -> SigningKey {
        SigningKey::generate(Alg::ES256).unwrap().0
    }

    #[test]
    fn an_assertion_is_for_this_server_now_and_once() {
        let key = es256();
        let ok = |claims: &Value| judged(&key, "JWT", claims, &client(), Profile::Standard);
        let Ok(Step::Put(once)) = ok(&claims()) else { panic!("a true assertion is refused") };
        assert_eq!((once.kind, once.expires_at), (ArtefactKind::Jti, NOW + 60 + Settings::LEEWAY + SPENT_KEPT_S));
        assert_eq!(ok(&claims()).unwrap(), Step::Put(once.clone()), "the same jti is the same row");
        assert_ne!(ok(&with("jti", json!("2"))).unwrap(), Step::Put(once));
        for good in
            [with("iat", json!(NOW + 10)), with("nbf", json!(NOW + 8)), with("exp", json!(NOW + 300)), with("iat", json!(NOW as f64 - 0.5))]
        {
            assert!(ok(&good).is_ok(), "{good}");
        }
        for bad in [
            with("iss", json!("d")),
            with("sub", json!("d")),
            with("aud", json!("https://other.example.com")),
            with("aud", json!([ISSUER])),
            with("aud", json!("https://id.example.com/token")),
            with("aud", json!("https://id.example.com/")),
            with("aud", json!(null)),
            with("jti", json!("")),
            with("jti", json!(null)),
            with("jti", json!("x".repeat(600))),
            with("iat", json!(null)),
            with("iat", json!("now")),
            with("iat", json!(NOW + 61)),
            with("iat", json!(NOW - 241)),
            with("exp", json!(null)),
            with("exp", json!(NOW - 300)),
            with("exp", json!(1e300)),
            with("exp", json!(NOW + 301)),
            with("nbf", json!(NOW + 61)),
        ] {
            assert_eq!(ok(&bad).unwrap_err().code, Code::InvalidClient, "{bad}");
        }
    }

    #[test]
    fn the_type_is_a_jwt_or_names_client_authentication() {
        let key = es256();
        for (typ, good) in [("JWT", true), ("client-authentication+jwt", true), ("at+jwt", false), ("oauth-authz-req+jwt", false)] {
            assert_eq!(judged(&key, typ, &claims(), &client(), Profile::Standard).is_ok(), good, "{typ}");
        }
    }

    #[test]
    fn old_libraries_may_name_the_endpoint_where_they_are_registered_so() {
        let (key, legacy) = (es256(), Client { assertion_audience: Some("legacy".into()), ..client() });
        for aud in [json!("https://id.example.com/token"), json!([ISSUER]), json!(["https://id.example.com/token", "x"])] {
            let claims = with("aud", aud);
            assert!(judged(&key, "JWT", &claims, &legacy, Profile::Standard).is_ok(), "{claims}");
            assert!(judged(&key, "JWT", &claims, &client(), Profile::OidcDynamic).is_ok(), "{claims}");
            assert!(judged(&key, "JWT", &claims, &legacy, Profile::Fapi2).is_err(), "{claims}");
        }
        assert!(
            judged(&key, "JWT", &with("aud", json!("https://id.example.com/par")), &legacy, Profile::Standard).is_err(),
            "sent to /token"
        );
    }

    #[test]
    fn rs256_is_for_those_who_registered_it_and_never_under_fapi() {
        let key = SigningKey::generate(Alg::RS256).unwrap().0;
        let registered = Client { token_endpoint_auth_signing_alg: Some("RS256".into()), ..client() };
        let ok = |client: &Client, profile| judged(&key, "JWT", &claims(), client, profile).is_ok();
        assert!(!ok(&client(), Profile::Standard) && ok(&registered, Profile::Standard) && ok(&client(), Profile::OidcDynamic));
        assert!(!ok(&client(), Profile::Fapi2) && !ok(&registered, Profile::Fapi2));
        assert!(judged(&es256(), "JWT", &claims(), &registered, Profile::Standard).is_err(), "it registered another");
    }

    #[test]
    fn the_post_quantum_algorithm_counts_while_the_deployment_has_it() {
        let key = SigningKey::generate(Alg::MlDsa65).unwrap().0;
        let registered = Client { token_endpoint_auth_signing_alg: Some("ML-DSA-65".into()), ..client() };
        let settings = |profile, post_quantum| Settings { profile, post_quantum, ..Settings::for_issuer(ISSUER) };
        for (profile, post_quantum, good) in
            [(Profile::Standard, true, true), (Profile::Standard, false, false), (Profile::Fapi2, true, false)]
        {
            let settings = settings(profile, post_quantum);
            assert_eq!(under(&settings, &key, "JWT", &claims(), &registered).is_ok(), good);
            assert_eq!(registrable(&settings).contains(&Alg::MlDsa65), good, "metadata says what works");
        }
        assert!(under(&settings(Profile::Standard, true), &key, "JWT", &claims(), &client()).is_err(), "it registered none");
    }

    #[test]
    fn what_is_no_assertion_names_nobody() {
        let bearer = |form: String| present(&Form::read(form.as_bytes()).unwrap()).unwrap_err().code;
        let token = es256().sign_jwt("JWT", &json!({"iss": "c", "aud": ISSUER})).unwrap();
        for form in [
            format!("client_assertion={token}"),
            format!("client_assertion_type={TYPE}"),
            format!("client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer&client_assertion={token}"),
            format!("client_assertion_type={TYPE}&client_assertion={token}"),
            format!("client_assertion_type={TYPE}&client_assertion=nonsense"),
        ] {
            assert_eq!(bearer(form.clone()), Code::InvalidClient, "{form}");
        }
    }
}
