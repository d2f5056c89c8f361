//! The rules of authorization requests, one by one.
use ledger::{Consent, Session, Step};
use serde_json::Value;
use tokens::{Alg, Entropy, jwk::KeySet, keyring::{Kept, KeyRing, State}, secret::MacKey, sign::SigningKey};

use super::*;
use crate::{Profile, Settings, consent, issue::Context, resource::ScopeEntry, stored::CodeDocument};

const ISSUER: &str = "https://id.example.com";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

struct Counting;
impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

fn client() -> Client {
    Client {
        client_id: "web".into(),
        redirect_uris: vec!["https://rp.example.com/cb".into()],
        scope: "openid profile read offline_access".into(),
        allowed_resources: vec!["https://api.example.com".into()],
        ..Client::default()
    }
}

fn server() -> ResourceServer {
    ResourceServer {
        identifier: "https://api.example.com".into(),
        scopes: vec![ScopeEntry { name: "read".into(), description: None }],
        ..ResourceServer::default()
    }
}

const GOOD: &str = "client_id=web&redirect_uri=https%3A%2F%2Frp.example.com%2Fcb&response_type=code&scope=openid+read&state=s\
    &code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn run(client: &Client, text: &str) -> Result<Request, (Caller, Refusal)> {
    run_at(Endpoint::Authorize, Profile::Standard, client, text)
}

fn run_at(endpoint: Endpoint, profile: Profile, client: &Client, text: &str) -> Result<Request, (Caller, Refusal)> {
    let params = Params::parse(text);
    let caller = recognise(&params, Some(client)).expect("recognised");
    let (server, keys) = (server(), KeySet::new(Vec::new()));
    let settings = Settings { profile, ..Settings::for_issuer(ISSUER) };
    let evidence = Evidence::default();
    let desk = Desk { client, settings: &settings, server: Some(&server), keys: &keys, evidence: &evidence };
    accept(endpoint, caller, &params, &desk).map_err(|b| *b)
}

fn request(more: &str) -> Request {
    run(&client(), &format!("{GOOD}{more}")).expect("accepted")
}

fn refusal(more: &str) -> Code {
    run(&client(), &format!("{GOOD}{more}")).expect_err("refused").1.code
}

fn without(name: &str) -> String {
    GOOD.split('&').filter(|p| !p.trim().starts_with(&format!("{name}="))).collect::<Vec<_>>().join("&")
}

fn ring() -> KeyRing {
    let kept = |alg| Kept { state: State::Current, key: SigningKey::generate(alg).expect("a key").0, changed_at: 0 };
    KeyRing::new(vec![kept(Alg::ES256), kept(Alg::RS256)])
}

fn context<'a>(settings: &'a Settings, keys: &'a KeyRing, mac: &'a MacKey, evidence: &'a Evidence) -> Context<'a> {
    Context { settings, keys, mac, entropy: &Counting, now_ms: 100_000, head: 7, evidence, slots: None }
}

/// What is said to a client under the usual settings.
fn told(client: &Client, say: impl FnOnce(Voice<'_>) -> Answer) -> Answer {
    let (settings, keys) = (Settings::for_issuer(ISSUER), KeyRing::new(Vec::new()));
    say(Voice { settings: &settings, client, keys: &keys, now: 100 })
}

fn session(auth_time: i64) -> Session {
    Session {
        id: "sid".into(),
        subject: "sub".into(),
        auth_time,
        amr: vec!["pwd".into()],
        created_at: 0,
        expires_at: i64::MAX,
        ended_at: None,
        document: Value::Null,
    }
}

fn consented(scopes: &[&str]) -> Consent {
    Consent { subject: "sub".into(), client_id: "web".into(), scopes: scopes.iter().map(|s| (*s).to_owned()).collect(), granted_at: 0 }
}

fn seen<'a>(session: Option<&'a Session>, consent: Option<&'a Consent>) -> Seen<'a> {
    Seen { session, consent, ..Seen::default() }
}

#[test]
fn a_good_request_keeps_what_it_asked() {
    let request = request(
        "&nonce=n&claims=%7B%22userinfo%22%3A%7B%22name%22%3A%7B%22essential%22%3Atrue%7D%7D%7D&foo=bar&acr_values=x&display=popup",
    );
    assert_eq!(request.scope, ["openid", "read"]);
    assert_eq!((request.resource.as_str(), request.nonce.as_deref()), ("https://api.example.com", Some("n")));
    assert_eq!(request.code_challenge.as_deref(), Some(CHALLENGE));
    assert_eq!(claims::names(request.claims.as_ref()), ["name"]);
    assert_eq!(Pending::of(&request).resume(Some(&client())), Some(request));
}

#[test]
fn a_waiting_request_does_not_survive_the_loss_of_its_redirect_uri() {
    let mut later = client();
    later.redirect_uris = vec!["https://rp.example.com/other".into()];
    assert_eq!(Pending::of(&request("")).resume(Some(&later)), None);
    assert_eq!(Pending::of(&request("")).resume(Some(&Client { disabled: true, ..client() })), None);
}

#[test]
fn a_bad_or_repeated_client_or_redirect_uri_is_a_page() {
    let page = |text: &str| recognise(&Params::parse(text), Some(&client())).is_err();
    assert!(page(&without("client_id")) && page(&without("redirect_uri")));
    assert!(page(&format!("{GOOD}&client_id=web")));
    assert!(page(&format!("{GOOD}&redirect_uri=https://rp.example.com/cb")));
    assert!(page("client_id=web&redirect_uri=https://evil.example/cb&response_type=code"));
    assert!(recognise(&Params::parse(GOOD), None).is_err());
    assert!(recognise(&Params::parse(GOOD), Some(&Client { disabled: true, ..client() })).is_err());
}

#[test]
fn every_other_mistake_is_redirected_with_its_code() {
    for (more, code) in [
        ("&foo=1&foo=2", Code::InvalidRequest),
        ("&x=%zz", Code::InvalidRequest),
        ("&response_mode=fragment", Code::InvalidRequest),
        ("&request_uri=urn:x", Code::RequestUriNotSupported),
        ("&registration=%7B%7D", Code::RegistrationNotSupported),
        ("&resource=https://other.example.com", Code::InvalidTarget),
        ("&resource=https://api.example.com&resource=https://api.example.com", Code::InvalidTarget),
        ("&prompt=none+login", Code::InvalidRequest),
        ("&prompt=unknown", Code::InvalidRequest),
        ("&max_age=-1", Code::InvalidRequest),
        ("&max_age=99999999999999999999", Code::InvalidRequest),
        ("&claims=%5B%5D", Code::InvalidRequest),
        ("&id_token_hint=x.y.z", Code::InvalidRequest),
    ] {
        assert_eq!(refusal(more), code, "{more}");
    }
    assert_eq!(run(&client(), &without("response_type")).unwrap_err().1.code, Code::InvalidRequest);
    assert_eq!(run(&client(), &GOOD.replace("=code&", "=token&")).unwrap_err().1.code, Code::UnsupportedResponseType);
    assert_eq!(run(&client(), &GOOD.replace("openid+read", "openid+admin")).unwrap_err().1.code, Code::InvalidScope);
}

#[test]
fn plain_or_missing_pkce_is_refused_and_only_a_confidential_client_may_go_without() {
    let none = without("code_challenge").replace("&code_challenge_method=S256", "").replace("code_challenge_method=S256&", "");
    assert!(run(&client(), &none).is_err());
    let relaxed = Client { require_pkce: false, ..client() };
    assert_eq!(run(&relaxed, &none).expect("accepted").code_challenge, None);
    let public = Client { token_endpoint_auth_method: "none".into(), ..relaxed };
    assert!(run(&public, &none).is_err());
    for bad in
        [GOOD.replace("S256", "plain"), GOOD.replace(CHALLENGE, "short"), without("code_challenge_method"), GOOD.replace("E9Mel", "E9M=l")]
    {
        assert_eq!(run(&client(), &bad).unwrap_err().1.code, Code::InvalidRequest, "{bad}");
    }
}

#[test]
fn an_error_travels_in_the_asked_mode_with_state_and_issuer_and_without_a_repeated_state() {
    let (caller, why) = run(&client(), &GOOD.replace("=code&", "=token&")).unwrap_err();
    let Answer::Redirect { location } = told(&client(), |voice| caller.back.refuse(voice, why)) else { panic!("redirects") };
    assert!(location.starts_with("https://rp.example.com/cb?error=unsupported_response_type&error_description="));
    assert!(location.ends_with("&state=s&iss=https%3A%2F%2Fid.example.com"));
    let (caller, why) = run(&client(), &format!("{GOOD}&state=t&response_mode=form_post")).unwrap_err();
    let Answer::FormPost { fields, .. } = told(&client(), |voice| caller.back.refuse(voice, why)) else { panic!("posts") };
    assert!(fields.iter().all(|(name, _)| *name != "state") && fields.iter().any(|(name, _)| *name == "iss"));
}

#[test]
fn a_state_of_128_characters_comes_back_untouched() {
    let state = "aA0-._~ %+/é\"<>".repeat(9);
    let encoded: String = url::form_urlencoded::byte_serialize(state.as_bytes()).collect();
    let request = run(&client(), &GOOD.replace("state=s", &format!("state={encoded}"))).expect("accepted");
    let Answer::Redirect { location } = told(&client(), |voice| request.back.give(voice, vec![("code", "c".into())])) else { panic!("redirects") };
    let url = url::Url::parse(&location).expect("a URL");
    assert!(url.query_pairs().any(|(name, value)| name == "state" && value == state));
}

#[test]
fn nobody_logged_in_means_login_or_login_required() {
    let (r, c) = (request(""), client());
    assert_eq!(next(&r, &c, Seen::default(), 100), Next::LogIn);
    let silent = request("&prompt=none");
    assert!(matches!(next(&silent, &c, Seen::default(), 100), Next::Refuse(why) if why.code == Code::LoginRequired));
}

#[test]
fn prompt_login_and_max_age_ask_again_once() {
    let (c, s, allowed) = (client(), session(50), consented(&["openid", "read"]));
    let now = seen(Some(&s), Some(&allowed));
    assert_eq!(next(&request("&prompt=login"), &c, now, 100), Next::LogIn);
    assert_eq!(next(&request("&max_age=10"), &c, now, 100), Next::LogIn);
    assert_eq!(next(&request("&max_age=0"), &c, now, 50), Next::LogIn);
    assert_eq!(next(&request("&max_age=51"), &c, now, 100), Next::Issue);
    let fresh = Seen { fresh: true, ..now };
    assert_eq!(next(&request("&prompt=login&max_age=0"), &c, fresh, 100), Next::Issue);
    assert!(matches!(next(&request("&prompt=none&max_age=10"), &c, now, 100), Next::Refuse(why) if why.code == Code::LoginRequired));
}

#[test]
fn another_person_than_the_hinted_one_has_to_log_in_and_is_then_refused() {
    let (c, s) = (client(), session(50));
    let mut r = request("");
    r.subject = Some("somebody else".into());
    assert_eq!(next(&r, &c, seen(Some(&s), None), 100), Next::LogIn);
    let fresh = Seen { fresh: true, ..seen(Some(&s), None) };
    assert!(matches!(next(&r, &c, fresh, 100), Next::Refuse(why) if why.code == Code::LoginRequired));
}

#[test]
fn select_account_asks_once() {
    let (c, s, allowed) = (client(), session(50), consented(&["openid", "read"]));
    let r = request("&prompt=select_account");
    assert_eq!(next(&r, &c, seen(Some(&s), Some(&allowed)), 100), Next::Choose);
    assert_eq!(next(&r, &c, Seen { chosen: true, ..seen(Some(&s), Some(&allowed)) }, 100), Next::Issue);
    assert_eq!(next(&r, &c, Seen::default(), 100), Next::LogIn);
}

#[test]
fn consent_is_remembered_per_scope_and_prompt_consent_asks_again() {
    let (c, s, part, all) = (client(), session(50), consented(&["openid"]), consented(&["openid", "read"]));
    assert_eq!(next(&request(""), &c, seen(Some(&s), None), 100), Next::Ask);
    assert_eq!(next(&request(""), &c, seen(Some(&s), Some(&part)), 100), Next::Ask);
    assert_eq!(next(&request(""), &c, seen(Some(&s), Some(&all)), 100), Next::Issue);
    assert_eq!(next(&request("&prompt=consent"), &c, seen(Some(&s), Some(&all)), 100), Next::Ask);
    assert_eq!(next(&request(""), &Client { first_party: true, ..c.clone() }, seen(Some(&s), None), 100), Next::Issue);
    let silent = request("&prompt=none");
    assert!(matches!(next(&silent, &c, seen(Some(&s), Some(&part)), 100), Next::Refuse(why) if why.code == Code::ConsentRequired));
}

#[test]
fn a_public_client_on_loopback_or_a_private_scheme_is_always_asked_for() {
    for uri in ["http://127.0.0.1/cb", "com.example.app:/cb"] {
        let public = Client { token_endpoint_auth_method: "none".into(), redirect_uris: vec![uri.into()], ..client() };
        let encoded: String = url::form_urlencoded::byte_serialize(uri.as_bytes()).collect();
        let r = run(&public, &GOOD.replace("https%3A%2F%2Frp.example.com%2Fcb", &encoded)).expect("accepted");
        let (s, all) = (session(50), consented(&["openid", "read"]));
        assert_eq!(next(&r, &public, seen(Some(&s), Some(&all)), 100), Next::Ask);
    }
}

#[test]
fn an_unchecked_scope_is_not_given_and_openid_cannot_be_dropped() {
    let r = request("");
    assert_eq!(consent::given(&r, |_| false), Some(vec!["openid".to_owned()]));
    let remembered = consent::remember(&r, "sub", &["openid".to_owned()], Some(&consented(&["profile", "read"])), 5);
    assert_eq!(remembered.scopes, ["openid", "profile"]);
    let bare = run(&client(), &GOOD.replace("openid+read", "read")).expect("accepted");
    assert_eq!(consent::given(&bare, |_| false), None);
}

#[test]
fn a_code_is_one_change_guarded_by_its_session() {
    let (r, c, s) = (request("&nonce=n"), client(), session(50));
    let settings = Settings { code_ttl: 600, ..Settings::for_issuer(ISSUER) };
    let issue = issue::Issue { request: &r, client: &c, session: &s, user: None, server: None, scope: &r.scope, consent: None };
    let (keys, mac, evidence) = (ring(), MacKey::new([1; 32]), Evidence::default());
    let ctx = context(&settings, &keys, &mac, &evidence);
    let issue::Given { change, pairs } = issue.given(&ctx).expect("given");
    let [("code", code), ..] = pairs.as_slice() else { panic!("a code") };
    let [Step::SessionLive { id, .. }, Step::StartGrant(grant), Step::Put(artefact)] = change.steps.as_slice() else {
        panic!("three steps")
    };
    assert_eq!((id.as_str(), grant.scope.as_str()), ("sid", "openid read"));
    assert_eq!((artefact.expires_at, artefact.grant.as_deref()), (160, Some(grant.id.as_str())));
    let document: CodeDocument = serde_json::from_str(&artefact.document).expect("a code's document");
    assert_eq!((document.nonce.as_deref(), document.redirect_uri.as_str()), (Some("n"), "https://rp.example.com/cb"));
    assert!(code.starts_with("dwc_") && !artefact.document.contains(code));
    assert!(change.events.iter().any(|e| e.kind.as_str() == "code.issued"));
}

#[test]
fn descriptions_use_only_the_characters_of_the_specification() {
    for more in
        ["&foo=1&foo=2", "&response_mode=x", "&request=x", "&prompt=x", "&max_age=x", "&claims=x", "&resource=x", "&id_token_hint=x"]
    {
        let (_, why) = run(&client(), &format!("{GOOD}{more}")).unwrap_err();
        assert!(why.hears.bytes().all(|b| matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)), "{}", why.hears);
    }
}

#[test]
fn the_matrix_has_no_empty_row() {
    assert!(steps::STEPS.iter().all(|s| (s.authorize.is_some() || s.par.is_some()) && !s.specification.is_empty()));
}
