//! The rules of authorization requests, one by one.
use ledger::{Consent, Session, Step};
use serde_json::Value;
use tokens::{
    Alg, Entropy,
    jwk::KeySet,
    keyring::{Kept, KeyRing, State},
    secret::MacKey,
    sign::SigningKey,
};

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
    let caller = recognise(&params, Some(client), profile).expect("recognised");
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
    assert_eq!(Pending::of(&request).resume(Some(&client()), ISSUER), Some(request));
}

#[test]
fn a_waiting_request_does_not_survive_the_loss_of_its_redirect_uri() {
    let mut later = client();
    later.redirect_uris = vec!["https://rp.example.com/other".into()];
    assert_eq!(Pending::of(&request("")).resume(Some(&later), ISSUER), None);
    let narrower = Client { scope: "openid".into(), ..client() };
    assert_eq!(Pending::of(&request("")).resume(Some(&narrower), ISSUER).map(|r| r.scope), Some(vec!["openid".to_owned()]));
    for taken in [
        Client { scope: "profile".into(), ..client() },
        Client { response_types: vec!["id_token".into()], ..client() },
        Client { grant_types: vec!["client_credentials".into()], ..client() },
        Client { allowed_resources: Vec::new(), ..client() },
    ] {
        assert_eq!(Pending::of(&request("")).resume(Some(&taken), ISSUER), None, "{taken:?}");
    }
    assert_eq!(Pending::of(&request("")).resume(Some(&Client { disabled: true, ..client() }), ISSUER), None);
}

#[test]
fn a_bad_or_repeated_client_or_redirect_uri_is_a_page() {
    let page = |text: &str| recognise(&Params::parse(text), Some(&client()), Profile::Standard).is_err();
    assert!(page(&without("client_id")) && page(&without("redirect_uri")));
    assert!(page(&format!("{GOOD}&client_id=web")));
    assert!(page(&format!("{GOOD}&redirect_uri=https://rp.example.com/cb")));
    assert!(page("client_id=web&redirect_uri=https://evil.example/cb&response_type=code"));
    assert!(recognise(&Params::parse(GOOD), None, Profile::Standard).is_err());
    assert!(recognise(&Params::parse(GOOD), Some(&Client { disabled: true, ..client() }), Profile::Standard).is_err());
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
        ("&claims=%7B%22userinfo%22%3A%7B%22name%22%3Anull%2C%22name%22%3Anull%7D%7D", Code::InvalidRequest),
        ("&id_token_hint=x.y.z", Code::InvalidRequest),
    ] {
        assert_eq!(refusal(more), code, "{more}");
    }
    assert_eq!(run(&client(), &without("response_type")).unwrap_err().1.code, Code::InvalidRequest);
    assert_eq!(run(&client(), &GOOD.replace("=code&", "=token&")).unwrap_err().1.code, Code::UnsupportedResponseType);
    assert_eq!(run(&client(), &GOOD.replace("openid+read", "openid+admin")).unwrap_err().1.code, Code::InvalidScope);
}

#[test]
fn a_code_comes_in_a_fragment_where_fragments_are_offered() {
    let asked = |profile, mode: &str| {
        let text = format!("{GOOD}&response_mode={mode}");
        run_at(Endpoint::Authorize, profile, &client(), &text).map(|request| request.back.mode).map_err(|(caller, _)| caller.back.mode)
    };
    assert_eq!(asked(Profile::OidcDynamic, "fragment"), Ok(ResponseMode::Fragment));
    assert_eq!(asked(Profile::OidcDynamic, "fragment.jwt"), Ok(ResponseMode::FragmentJwt));
    assert_eq!(asked(Profile::OidcDynamic, "query"), Ok(ResponseMode::Query));
    assert_eq!(asked(Profile::Standard, "fragment"), Err(ResponseMode::Query));
}

#[test]
fn two_references_are_told_on_the_way_back() {
    let twice = format!("{GOOD}&request_uri={0}a&request_uri={0}b", pushed::PREFIX);
    assert_eq!(pushed::named(&Params::parse(&twice)), None);
    assert_eq!(run(&client(), &twice).unwrap_err().1.code, Code::InvalidRequest);
}

#[test]
fn only_what_has_the_times_of_an_id_token_is_a_hint() {
    let key = SigningKey::generate(Alg::ES256).unwrap().0;
    let keys = KeySet::new(vec![key.verifying()]);
    let whole = serde_json::json!({"iss": ISSUER, "sub": "u1", "aud": "web", "exp": 5, "iat": 1});
    let believed = |claims: &Value| hint::believe(&key.sign_jwt("JWT", claims).unwrap(), ISSUER, &keys).map(|h| h.subject);
    assert_eq!(believed(&whole).as_deref(), Some("u1"), "expired or not");
    for missing in ["exp", "iat"] {
        let mut claims = whole.clone();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(believed(&claims), None, "{missing}");
    }
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
    let Answer::Redirect { location } = told(&client(), |voice| request.back.give(voice, vec![("code", "c".into())])) else {
        panic!("redirects")
    };
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

#[test]
fn a_pushed_request_is_used_up_by_its_answer_and_only_by_its_client_in_time() {
    let (settings, mac) = (Settings::for_issuer(ISSUER), MacKey::new([1; 32]));
    let (change, uri) = pushed::push(&request("&nonce=n"), &settings, 100_000, &Counting, &mac);
    let [Step::Put(row)] = change.steps.as_slice() else { panic!("one row") };
    assert!(uri.starts_with(pushed::PREFIX) && !row.document.contains(&uri["urn:ietf:params:oauth:request_uri:dwp_".len() + 30..]));
    let presented = pushed::presented(&uri, &mac).expect("ours");
    let taken = pushed::take(Some(row), &presented, "web", 110).expect("in time").resume(Some(&client()), ISSUER).expect("the client's");
    assert_eq!((taken.nonce.as_deref(), taken.pushed.is_some()), (Some("n"), true));
    assert!(matches!(pushed::consume(&taken, 110), Some(Step::Consume { id, .. }) if id == row.id));
    assert_eq!(pushed::consume(&request(""), 110), None);
    let used = ledger::Artefact { consumed_at: Some(105), ..row.clone() };
    for (row, client, now) in [(Some(row), "other", 110), (Some(row), "web", 160), (Some(&used), "web", 110), (None, "web", 110)] {
        assert_eq!(pushed::take(row, &presented, client, now).unwrap_err().code, Code::InvalidRequestUri);
    }
    for bad in ["urn:ietf:params:oauth:request_uri:", "urn:ietf:params:oauth:request_uri:dwp_x", "urn:x", ""] {
        assert!(pushed::presented(bad, &mac).is_err(), "{bad}");
    }
}

#[test]
fn where_requests_are_pushed_first_a_plain_one_is_refused() {
    let pushing = Client { require_pushed_authorization_requests: true, ..client() };
    let code = |endpoint, profile, client: &Client| run_at(endpoint, profile, client, GOOD).err().map(|e| e.1.code);
    assert_eq!(code(Endpoint::Authorize, Profile::Standard, &pushing), Some(Code::InvalidRequest));
    assert_eq!(code(Endpoint::Par, Profile::Standard, &pushing), None);
    let keyed = Client { token_endpoint_auth_method: "private_key_jwt".into(), ..client() };
    assert_eq!(code(Endpoint::Authorize, Profile::Fapi2, &keyed), Some(Code::InvalidRequest));
    assert_eq!(code(Endpoint::Par, Profile::Fapi2, &keyed), None);
    assert_eq!(code(Endpoint::Par, Profile::Fapi2, &client()), Some(Code::UnauthorizedClient), "a plain secret");
    let public = Client { token_endpoint_auth_method: "none".into(), ..client() };
    assert_eq!(code(Endpoint::Par, Profile::Fapi2, &public), Some(Code::UnauthorizedClient));
    let signing = Client { require_signed_request_object: true, ..client() };
    assert_eq!(code(Endpoint::Par, Profile::Standard, &signing), Some(Code::InvalidRequest), "unsigned");
}

#[test]
fn fapi_asks_for_pkce_whatever_is_registered() {
    let keyed = Client { token_endpoint_auth_method: "private_key_jwt".into(), require_pkce: false, ..client() };
    let none = without("code_challenge").replace("&code_challenge_method=S256", "").replace("code_challenge_method=S256&", "");
    assert!(run_at(Endpoint::Par, Profile::Standard, &keyed, &none).is_ok());
    assert!(run_at(Endpoint::Par, Profile::Fapi2, &keyed, &none).is_err());
}

fn implicit() -> Client {
    let all = ResponseType::names().map(str::to_owned).collect();
    Client { grant_types: vec!["authorization_code".into(), "implicit".into()], response_types: all, ..client() }
}

#[test]
fn tokens_through_the_browser_only_where_the_profile_and_the_registration_say_so() {
    let asked = |kind: &str, more: &str| GOOD.replace("response_type=code", &format!("response_type={kind}")) + more;
    let run = |profile, client: &Client, kind: &str, more: &str| run_at(Endpoint::Authorize, profile, client, &asked(kind, more));
    let code = |r: Result<Request, (Caller, Refusal)>| r.unwrap_err().1.code;
    for kind in ["id_token", "code+id_token", "id_token+token", "code+id_token+token", "token+code"] {
        assert_eq!(code(run(Profile::Standard, &implicit(), kind, "&nonce=n")), Code::UnsupportedResponseType, "{kind}");
        assert_eq!(code(run(Profile::OidcDynamic, &client(), kind, "&nonce=n")), Code::UnauthorizedClient, "{kind}");
        let given = run(Profile::OidcDynamic, &implicit(), kind, "&nonce=n").expect("accepted");
        assert_eq!(given.back.mode, ResponseMode::Fragment);
        assert_eq!(code(run(Profile::OidcDynamic, &implicit(), kind, "&nonce=n&response_mode=query")), Code::InvalidRequest);
        assert!(run(Profile::OidcDynamic, &implicit(), kind, "&nonce=n&response_mode=form_post").is_ok());
    }
    assert_eq!(code(run(Profile::OidcDynamic, &implicit(), "code+id_token", "")), Code::InvalidRequest, "no nonce");
    assert!(run(Profile::OidcDynamic, &implicit(), "code+token", "").is_ok());
    assert_eq!(code(run(Profile::OidcDynamic, &implicit(), "token", "&nonce=n")), Code::UnsupportedResponseType);
    let bound = Client { dpop_bound_access_tokens: true, ..implicit() };
    assert_eq!(code(run(Profile::OidcDynamic, &bound, "code+token", "&nonce=n")), Code::UnauthorizedClient);
}

#[test]
fn a_hybrid_answer_has_hashes_of_what_stands_beside_its_id_token() {
    let text = GOOD.replace("response_type=code", "response_type=code+id_token+token");
    let r = run_at(Endpoint::Authorize, Profile::OidcDynamic, &implicit(), &format!("{text}&nonce=n")).expect("accepted");
    let (c, s, user) = (implicit(), session(50), accounts::User { id: "sub".into(), ..accounts::User::default() });
    let (settings, keys, mac, evidence) = (Settings::for_issuer(ISSUER), ring(), MacKey::new([1; 32]), Evidence::default());
    let ctx = context(&settings, &keys, &mac, &evidence);
    let (server, scope) = (server(), r.scope.clone());
    let issue =
        issue::Issue { request: &r, client: &c, session: &s, user: Some(&user), server: Some(&server), scope: &scope, consent: None };
    let issue::Given { change, pairs } = issue.given(&ctx).expect("given");
    let of = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    let parsed =
        tokens::jws::Parsed::parse(&of("id_token")).map(|p| p.verify(keys.keys().find(p.kid.as_deref(), Alg::RS256).unwrap()).unwrap());
    let claims = parsed.expect("a JWT");
    let hash = |text: &str| Value::from(tokens::hash::left_half(text));
    assert_eq!((claims.get("c_hash"), claims.get("at_hash")), (Some(&hash(&of("code"))), Some(&hash(&of("access_token")))));
    assert_eq!((claims.get("s_hash"), claims.get("nonce")), (Some(&hash("s")), Some(&Value::from("n"))));
    assert_eq!((of("token_type").as_str(), of("expires_in").as_str()), ("Bearer", "300"));
    assert!(change.events.iter().any(|e| e.kind.as_str() == "token.issued"));
    assert!(change.steps.iter().any(|s| matches!(s, Step::StartGrant(g) if g.expires_at >= 400)), "the grant lives as long as the token");
}

#[test]
fn a_signed_answer_stands_alone_and_says_who_to_whom_and_until_when() {
    let r = request("&response_mode=jwt");
    let (c, keys, settings) = (client(), ring(), Settings::for_issuer(ISSUER));
    let voice = Voice { settings: &settings, client: &c, keys: &keys, now: 100 };
    let Answer::Redirect { location } = r.back.give(voice, vec![("code", "c".into())]) else { panic!("redirects") };
    let url = url::Url::parse(&location).expect("a URL");
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let [(name, jwt)] = pairs.as_slice() else { panic!("one parameter: {pairs:?}") };
    let parsed = tokens::jws::Parsed::parse(jwt).expect("a JWT");
    assert_eq!((name.as_str(), parsed.alg), ("response", Alg::RS256));
    let claims = parsed.verify(keys.keys().find(parsed.kid.as_deref(), Alg::RS256).unwrap()).expect("ours");
    let of = |name: &str| claims.get(name).cloned().unwrap_or_default();
    assert_eq!((of("iss"), of("aud"), of("code"), of("state")), (ISSUER.into(), "web".into(), "c".into(), "s".into()));
    assert_eq!(of("exp"), Value::from(400));
    let fapi = Client { require_signed_request_object: true, ..client() };
    let voice = Voice { client: &fapi, ..voice };
    let Answer::Redirect { location } = r.back.refuse(voice, Refusal::new(Code::AccessDenied, "no")) else { panic!("redirects") };
    assert!(location.starts_with("https://rp.example.com/cb?response=") && !location.contains("error="));
    let jwt = location.split_once("response=").map(|(_, jwt)| jwt.to_owned()).unwrap_or_default();
    assert_eq!(tokens::jws::Parsed::parse(&jwt).expect("a JWT").alg, Alg::ES256);
}

#[test]
fn wanted_classes_come_from_the_claim_the_parameter_or_the_registration() {
    let acr = |more: &str| {
        let r = request(more);
        (r.acr_values, r.acr_essential)
    };
    assert_eq!(acr("&acr_values=b+a"), (vec!["b".to_owned(), "a".to_owned()], false));
    let claim = |wish: &str| format!("&acr_values=x&claims=%7B%22id_token%22%3A%7B%22acr%22%3A{wish}%7D%7D");
    assert_eq!(acr(&claim("%7B%22essential%22%3Atrue%2C%22values%22%3A%5B%22m%22%5D%7D")), (vec!["m".to_owned()], true));
    assert_eq!(acr(&claim("%7B%22essential%22%3Atrue%7D")), (vec!["x".to_owned()], false));
    let usual = Client { default_acr_values: vec!["d".into()], ..client() };
    assert_eq!(run(&usual, GOOD).expect("accepted").acr_values, ["d"]);
}

#[test]
fn a_code_is_bound_to_the_key_that_was_named_or_proved() {
    let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    assert_eq!(request(&format!("&dpop_jkt={jkt}")).dpop_jkt.as_deref(), Some(jkt));
    assert_eq!(refusal("&dpop_jkt=short"), Code::InvalidRequest);
}
