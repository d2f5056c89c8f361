//! DPoP at the authorization server (RFC 9449): token endpoint, userinfo, introspection, refresh. Named after the modules of the FAPI 2.0 suite
//! where one asks the same.
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::dpop::Holder;
use crate::kit::fapi;
use crate::kit::http::{Go, claims, client, now, random};
use crate::kit::seed::{API, APP, Id, MACHINE, SAFE, VAULT, standard};
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Upstream, Visitor};

const SECRET: &str = "bound-secret-5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d";
/// Its tokens are bound to a DPoP key, always.
const BOUND: Id = Id { id: "bound", secret: SECRET, method: "client_secret_basic", redirect: "", scope: "read" };
/// The same with a person.
const KEYED: Id = Id {
    id: "keyed",
    secret: SECRET,
    method: "client_secret_basic",
    redirect: "https://keyed.example.com/cb",
    scope: "openid offline_access read",
};
/// The same with opaque tokens.
const OPAQUE: Id = Id { id: "bound-opaque", scope: "open", ..BOUND };

fn start(configure: impl FnOnce(&mut House)) -> (Server, Upstream) {
    let (upstream, mut house) = (Upstream::start(), House::new());
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().unwrap();
    for (who, resource) in [(BOUND, API), (OPAQUE, VAULT)] {
        clients.push(json!({
            "client_id": who.id, "client_secret": SECRET, "grant_types": ["client_credentials"], "scope": who.scope,
            "allowed_resources": [resource], "dpop_bound_access_tokens": true,
        }));
    }
    clients.push(json!({
        "client_id": KEYED.id, "client_secret": SECRET, "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "redirect_uris": [KEYED.redirect], "scope": KEYED.scope, "allowed_resources": [API], "first_party": true,
        "dpop_bound_access_tokens": true,
    }));
    house.seed(&seed);
    (house.serve(), upstream)
}

fn server() -> &'static Server {
    static STAGE: OnceLock<(Server, Upstream)> = OnceLock::new();
    &STAGE.get_or_init(|| start(|_| {})).0
}

const MACHINES: [(&str, &str); 1] = [("grant_type", "client_credentials")];

/// `POST /token` with these DPoP header lines.
fn asked(server: &Server, who: &Id, form: &[(&str, &str)], proofs: &[String]) -> crate::kit::Answer {
    let mut request = who.post(&server.url("/token"), form);
    for proof in proofs {
        request = request.header("dpop", proof);
    }
    request.go()
}

/// The code flow up to the code, and the form that redeems it.
fn code(server: &Server, who: &Id, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut ask = Ask::new(who);
    for (name, value) in more {
        ask = ask.with(name, value);
    }
    let code = Visitor::new().walk(server, &ask, "alice").code(server, &ask);
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", who.redirect), ("code_verifier", &ask.verifier)];
    form.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()
}

fn borrowed(form: &[(String, String)]) -> Vec<(&str, &str)> {
    form.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

#[test]
fn a_token_asked_for_with_a_proof_is_bound_to_its_key() {
    let (server, holder) = (server(), Holder::new());
    for (who, format) in [(&BOUND, "jwt"), (&OPAQUE, "opaque")] {
        let token = holder.machine_token(server, who);
        if format == "jwt" {
            assert_eq!(claims(&token)["cnf"], json!({"jkt": holder.jkt()}));
        }
        let told = server.introspect(&token);
        assert_eq!(
            (&told["active"], &told["token_type"], &told["cnf"]["jkt"]),
            (&json!(true), &json!("DPoP"), &json!(holder.jkt())),
            "{told}"
        );
    }
    // A client that need not may.
    let free = holder.machine_token(server, &MACHINE);
    assert_eq!(claims(&free)["cnf"]["jkt"], json!(holder.jkt()));
    let plain = server.token(&SAFE, &MACHINES).expect(200).json();
    assert_eq!(plain["token_type"], "Bearer");
    assert!(server.introspect(&text(&plain, "access_token")).get("cnf").is_none());
}

#[test]
fn ensure_holder_of_key_required() {
    let server = server();
    server.token(&BOUND, &MACHINES).expect_error(400, "invalid_dpop_proof");
    let form = code(server, &KEYED, &[]);
    server.token(&KEYED, &borrowed(&form)).expect_error(400, "invalid_dpop_proof");
    // The code is not spent by the refusal.
    Holder::new().token(server, &KEYED, &borrowed(&form)).expect(200);
}

#[test]
fn check_dpop_proof_nbf_exp() {
    let (server, holder, at) = (server(), Holder::new(), now());
    let url = server.url("/token");
    let with = |name: &'static str, value: i64| holder.changed("POST", &url, None, |_, claims| claims[name] = json!(value));
    asked(server, &BOUND, &MACHINES, &[with("exp", at + 60)]).expect(200);
    asked(server, &BOUND, &MACHINES, &[with("nbf", at - 60)]).expect(200);
    asked(server, &BOUND, &MACHINES, &[with("exp", at - 3600)]).expect_error(400, "invalid_dpop_proof");
    asked(server, &BOUND, &MACHINES, &[with("nbf", at + 3600)]).expect_error(400, "invalid_dpop_proof");
}

#[test]
fn ensure_dpopproof_with_iat_10seconds_before_and_after_succeeds_and_a_minute_does_not() {
    let (server, holder) = (server(), Holder::new());
    let url = server.url("/token");
    let at = |offset: i64| holder.changed("POST", &url, None, |_, claims| claims["iat"] = json!(now() + offset));
    for offset in [-10, 0, 10] {
        asked(server, &BOUND, &MACHINES, &[at(offset)]).expect(200);
    }
    for offset in [-3600, -70, 70, 3600] {
        asked(server, &BOUND, &MACHINES, &[at(offset)]).expect_error(400, "invalid_dpop_proof");
    }
}

#[test]
fn wrong_proofs_are_invalid_dpop_proof_and_say_no_more() {
    let (server, holder, other) = (server(), Holder::new(), Holder::new());
    let url = server.url("/token");
    let changed = |change: &dyn Fn(&mut Value, &mut Value)| holder.changed("POST", &url, None, |h, c| change(h, c));
    let good = holder.proof("POST", &url, None);
    let mut wrong: Vec<Vec<String>> = [
        changed(&|h, _| h["typ"] = json!("JWT")),
        changed(&|h, _| drop(h.as_object_mut().unwrap().remove("typ"))),
        changed(&|h, _| h["alg"] = json!("none")),
        changed(&|h, _| h["alg"] = json!("HS256")),
        changed(&|h, _| drop(h.as_object_mut().unwrap().remove("jwk"))),
        changed(&|h, _| h["jwk"] = other.jwk()),
        changed(&|h, _| h["jwk"]["d"] = json!("AAAA")),
        changed(&|_, c| c["htm"] = json!("GET")),
        changed(&|_, c| c["htu"] = json!(server.url("/userinfo"))),
        changed(&|_, c| c["htu"] = json!("https://elsewhere.example.com/token")),
        changed(&|_, c| drop(c.as_object_mut().unwrap().remove("jti"))),
        changed(&|_, c| drop(c.as_object_mut().unwrap().remove("iat"))),
        "nonsense".to_owned(),
        String::new(),
        format!("{good}x"),
    ]
    .map(|one| vec![one])
    .to_vec();
    wrong.push(vec![holder.proof("POST", &url, None), holder.proof("POST", &url, None)]);
    let mut bodies = Vec::new();
    for proofs in wrong {
        bodies.push(asked(server, &BOUND, &MACHINES, &proofs).expect_error(400, "invalid_dpop_proof").text());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let query = holder.changed("POST", &url, None, |_, c| c["htu"] = json!(format!("{url}?a=b#c")));
    asked(server, &BOUND, &MACHINES, &[query]).expect(200);
}

#[test]
fn a_proof_counts_once_also_at_the_same_time() {
    let (server, holder) = (server(), Holder::new());
    let proof = holder.proof("POST", &server.url("/token"), None);
    let given: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..6).map(|_| scope.spawn(|| asked(server, &BOUND, &MACHINES, std::slice::from_ref(&proof)).status)).collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(given.iter().filter(|s| **s == 200).count(), 1, "{given:?}");
    asked(server, &BOUND, &MACHINES, &[proof]).expect_error(400, "invalid_dpop_proof");
}

#[test]
fn ensure_token_endpoint_fails_with_mismatched_dpop_jkt() {
    let (server, holder, other) = (server(), Holder::new(), Holder::new());
    let form = code(server, &KEYED, &[("dpop_jkt", &holder.jkt())]);
    other.token(server, &KEYED, &borrowed(&form)).expect_error(400, "invalid_dpop_proof");
    let tokens = holder.token(server, &KEYED, &borrowed(&form)).expect(200).json();
    assert_eq!(claims(&text(&tokens, "access_token"))["cnf"]["jkt"], json!(holder.jkt()));
    // A client that need not use proofs, and bound its code to a key all the same.
    let form = code(server, &APP, &[("dpop_jkt", &holder.jkt())]);
    server.token(&APP, &borrowed(&form)).expect_error(400, "invalid_dpop_proof");
    holder.token(server, &APP, &borrowed(&form)).expect(200);
}

#[test]
fn refresh_token_of_a_confidential_client_takes_a_new_key_and_stays() {
    let (server, holder, new) = (server(), Holder::new(), Holder::new());
    let tokens = holder.token(server, &KEYED, &borrowed(&code(server, &KEYED, &[]))).expect(200).json();
    let refresh = text(&tokens, "refresh_token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    server.token(&KEYED, &form).expect_error(400, "invalid_dpop_proof");
    for key in [&new, &holder, &new] {
        let answer = key.token(server, &KEYED, &form).expect(200).json();
        assert_eq!(answer["token_type"], "DPoP");
        assert_eq!(claims(&text(&answer, "access_token"))["cnf"]["jkt"], json!(key.jkt()));
        assert_eq!(answer["refresh_token"], json!(refresh), "it is not rotated");
    }
    server.revoke(&KEYED, &refresh);
    holder.token(server, &KEYED, &form).expect_error(400, "invalid_grant");
}

#[test]
fn a_kept_refresh_token_lives_on_because_it_is_used() {
    let (server, _upstream) = start(|house| {
        house.text("lifetimes.refresh_idle", "4s");
    });
    let holder = Holder::new();
    let tokens = holder.token(&server, &KEYED, &borrowed(&code(&server, &KEYED, &[]))).expect(200).json();
    let refresh = text(&tokens, "refresh_token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(2_200));
        holder.token(&server, &KEYED, &form).expect(200);
    }
    std::thread::sleep(std::time::Duration::from_millis(5_200));
    holder.token(&server, &KEYED, &form).expect_error(400, "invalid_grant");
}

#[test]
fn refresh_token_of_a_public_client_stays_with_its_key_and_rotates() {
    let (server, holder, other) = (server(), Holder::new(), Holder::new());
    let tokens = holder.token(server, &APP, &borrowed(&code(server, &APP, &[]))).expect(200).json();
    let first = text(&tokens, "refresh_token");
    let form = |token: &str| vec![("grant_type".to_owned(), "refresh_token".to_owned()), ("refresh_token".to_owned(), token.to_owned())];
    server.token(&APP, &borrowed(&form(&first))).expect_error(400, "invalid_dpop_proof");
    other.token(server, &APP, &borrowed(&form(&first))).expect_error(400, "invalid_dpop_proof");
    let next = holder.token(server, &APP, &borrowed(&form(&first))).expect(200).json();
    assert_eq!(next["token_type"], "DPoP");
    let second = text(&next, "refresh_token");
    assert_ne!(first, second);
    // The spent one comes again from whoever holds the key: the family ends.
    holder.token(server, &APP, &borrowed(&form(&first))).expect_error(400, "invalid_grant");
    holder.token(server, &APP, &borrowed(&form(&second))).expect_error(400, "invalid_grant");
}

#[test]
fn userinfo_takes_a_bound_token_with_its_proof_only() {
    let (server, holder, other) = (server(), Holder::new(), Holder::new());
    let tokens = holder.token(server, &KEYED, &borrowed(&code(server, &KEYED, &[]))).expect(200).json();
    let (token, url) = (text(&tokens, "access_token"), server.url("/userinfo"));
    for scheme in ["DPoP", "dpop", "DPOP"] {
        let request = client().get(&url).header("authorization", format!("{scheme} {token}"));
        request.header("dpop", holder.proof("GET", &url, Some(&token))).go().expect(200);
    }
    let posted =
        client().post(&url).header("authorization", format!("DPoP {token}")).header("dpop", holder.proof("POST", &url, Some(&token)));
    posted.go().expect(200);
    let plain = client().get(&url).bearer_auth(&token).go().expect(401);
    assert!(plain.header("www-authenticate").starts_with("DPoP ") && plain.header("www-authenticate").contains("algs=\"ES256"));
    let bare = client().get(&url).header("authorization", format!("DPoP {token}"));
    assert!(bare.go().expect(401).header("www-authenticate").starts_with("DPoP "));
    other.get(&url, &token).go().expect(401);
    let (without, elsewhere) = (holder.proof("GET", &url, None), holder.proof("GET", &url, Some("another")));
    for proof in [without, elsewhere, holder.proof("POST", &url, Some(&token))] {
        let request = client().get(&url).header("authorization", format!("DPoP {token}")).header("dpop", proof);
        assert_eq!(request.go().expect(401).json()["error"], "invalid_dpop_proof");
    }
    let proof = holder.proof("GET", &url, Some(&token));
    let request = || client().get(&url).header("authorization", format!("DPoP {token}")).header("dpop", &proof);
    request().go().expect(200);
    request().go().expect_error(401, "invalid_dpop_proof");
    // A token that is bound to nothing is no DPoP token.
    let free = text(&server.person_tokens(&APP, "alice"), "access_token");
    holder.get(&url, &free).go().expect(401);
    client().get(&url).bearer_auth(&free).go().expect(200);
}

#[test]
fn the_administration_takes_no_bound_token_for_a_bearer_token() {
    let (server, holder) = (server(), Holder::new());
    let token = holder.machine_token(server, &BOUND);
    let url = format!("http://{}/admin/v1/users", server.listener("admin"));
    client().get(url).bearer_auth(token).go().expect(401);
}

#[test]
fn with_nonces_a_proof_without_one_is_told_which() {
    let (server, _upstream) = start(|house| {
        house.set("server.dpop_nonce", "true");
    });
    let (holder, url) = (Holder::new(), server.url("/token"));
    let told = asked(&server, &BOUND, &MACHINES, &[holder.proof("POST", &url, None)]).expect_error(400, "use_dpop_nonce");
    let nonce = told.header("dpop-nonce").to_owned();
    assert!(!nonce.is_empty());
    let with = |nonce: &str| holder.changed("POST", &url, None, |_, c| c["nonce"] = json!(nonce));
    let answer = asked(&server, &BOUND, &MACHINES, &[with(&nonce)]).expect(200);
    assert!(!answer.header("dpop-nonce").is_empty());
    for wrong in ["", "x", &random()] {
        asked(&server, &BOUND, &MACHINES, &[with(wrong)]).expect_error(400, "use_dpop_nonce");
    }
    // At the gateway a nonce of its own.
    let token = text(&answer.json(), "access_token");
    let api = server.through("/api/x");
    let told = holder.get(&api, &token).go().expect(401);
    assert!(told.header("www-authenticate").contains("use_dpop_nonce"), "{:?}", told.headers);
    let own = told.header("dpop-nonce").to_owned();
    let call = |nonce: &str| {
        let proof = holder.changed("GET", &api, Some(&token), |_, c| c["nonce"] = json!(nonce));
        client().get(&api).header("authorization", format!("DPoP {token}")).header("dpop", proof).go().status
    };
    assert_eq!((call(&own), call(&nonce)), (200, 401));
}

#[test]
fn metadata_names_the_algorithms_of_proofs() {
    let told = client().get(server().url("/.well-known/oauth-authorization-server")).go().expect(200).json();
    assert_eq!(told["dpop_signing_alg_values_supported"], json!(["ES256", "ES384", "PS256", "EdDSA"]));
}

#[test]
fn under_fapi2_every_token_is_bound() {
    let who = fapi::Client::new("fapi", "https://fapi.example.com/cb");
    let mut object = who.object();
    (object["grant_types"], object["dpop_bound_access_tokens"], object["scope"]) =
        (json!(["client_credentials"]), json!(false), json!("read"));
    let stage = fapi::stage(vec![object], |house| {
        house.text("server.profile", "fapi2");
    });
    let form = MACHINES.map(|(n, v)| (n.to_owned(), v.to_owned()));
    who.post(&stage, "/token", &form, &[]).expect_error(400, "invalid_request");
    let answer = who.token(&stage, &MACHINES).expect(200).json();
    assert_eq!(answer["token_type"], "DPoP", "{answer}");
    let told = client().get(stage.url("/.well-known/oauth-authorization-server")).go().expect(200).json();
    assert_eq!(told["dpop_signing_alg_values_supported"], json!(["ES256", "PS256", "EdDSA"]));
    // The server's own administration goes on.
    stage.admin("GET", "/users").go().expect(200);
}

#[test]
fn a_proof_is_for_the_host_that_the_request_was_sent_to() {
    let (server, holder) = (server(), Holder::new());
    let own = server.url("/token");
    let asked = |host: &str, htu: &str| {
        BOUND.post(&own, &MACHINES).header("host", host).header("dpop", holder.proof("POST", htu, None)).go().status
    };
    let here = own.trim_start_matches("http://").trim_end_matches("/token");
    assert_eq!(asked(here, &own), 200);
    assert_eq!(asked("evil.example", &own), 400);
    assert_eq!(asked("evil.example", "http://evil.example/token"), 400, "and nobody else's address is ours");
}
