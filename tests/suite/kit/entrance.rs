//! A gateway that sends browsers to log in, and a person who goes through it.
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use super::http::{Answer, client};
use super::seed::{API, PASSWORD, route};
use super::server::{Server, free_port};
use super::{House, Landing, Stage, Upstream, Visitor};

/// The gateway's client at its authorization server.
pub const CLIENT: &str = "gateway-session";
pub const SECRET: &str = "gateway-session-secret-5b1d7f3c9a2e4860b8c6d4e2f0a19375";
pub const COOKIE: &str = "doorward-gateway";

/// The gateway's client, with what else is wanted of it.
pub fn gateway_client(gateway: &str, more: Value) -> Value {
    let mut object = json!({
        "client_id": CLIENT, "client_secret": SECRET, "first_party": true, "token_endpoint_auth_method": "client_secret_basic",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "scope": "openid profile email offline_access read", "allowed_resources": [API],
        "redirect_uris": [format!("http://{gateway}/.doorward/callback")],
        "post_logout_redirect_uris": [format!("http://{gateway}/public/bye")],
        "backchannel_logout_uri": format!("http://{gateway}/.doorward/backchannel-logout"),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            object[name] = value.clone();
        }
    }
    object
}

/// Routes of every kind of use of a session.
pub fn routes() -> Value {
    let session = json!({"accept": ["session"]});
    let with = |id: &str, prefix: &str, auth: Value, member: &str, value: Value| {
        let mut route = route(id, prefix, "echo", auth);
        route[member] = value;
        route
    };
    let claims = json!({"headers": {"X-Doorward-Subject": "sub", "X-User": "preferred_username", "X-Roles": "roles", "X-Sid": "sid", "X-Scope": "scope"}});
    json!([
        with("app", "/app/", session.clone(), "identity", claims),
        route("mixed", "/mixed/", "echo", json!({"accept": ["jwt", "session"], "audience": API, "scopes": ["read"]})),
        route("writer", "/writer/", "echo", json!({"accept": ["session"], "scopes": ["write"]})),
        route("maybe", "/maybe/", "echo", json!({"accept": ["session", "none"]})),
        route("asked", "/asked/", "echo", json!({"accept": ["session"], "freshness": "introspect"})),
        route("recent", "/recent/", "echo", json!({"accept": ["session"], "max_age": "1h"})),
        with("forward", "/forward/", session.clone(), "session", json!({"forward_access_token": true})),
        with("free", "/free/", session.clone(), "session", json!({"csrf": "off"})),
        with("friend", "/friend/", session, "session", json!({"trusted_origins": ["https://friend.example.com"]})),
    ])
}

/// The configuration of sessions; the gateway's address.
pub fn configure(house: &mut House, scope: &str) -> String {
    let gateway = format!("127.0.0.1:{}", free_port());
    house.text("server.gateway_listen", &gateway);
    house.text("gateway.session.client_id", CLIENT).text("gateway.session.client_secret", SECRET);
    house.text("gateway.session.scope", scope);
    house.set("outbound.allow", &format!("[\"{gateway}\"]"));
    gateway
}

/// A server with an entrance; `more` of the gateway's client, `change` of the configuration.
pub fn stage(scope: &str, more: Value, change: impl FnOnce(&mut House)) -> Stage {
    let upstream = Upstream::start();
    let mut house = House::new();
    let gateway = configure(&mut house, scope);
    change(&mut house);
    house.bootstrap();
    house.seed(&super::standard(&upstream.url()));
    house.seed(&json!({"clients": [gateway_client(&gateway, more)], "routes": routes()}));
    let server = house.serve();
    Stage { house, server, upstream }
}

/// A page is asked for, as a browser does.
#[track_caller]
pub fn page(who: &mut Visitor, url: &str) -> Answer {
    who.once(client().get(url).header("accept", "text/html,application/xhtml+xml"))
}

/// A script asks, from a page of the same host or of another.
#[track_caller]
pub fn script(who: &mut Visitor, method: &str, url: &str, origin: Option<&str>) -> Answer {
    let mut request = client().request(Method::from_bytes(method.as_bytes()).unwrap(), url).header("accept", "application/json");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    who.once(request)
}

/// The gateway's origin.
pub fn origin(server: &Server) -> String {
    format!("http://{}", server.listener("gateway"))
}

/// Where the login server leads back to, once the person has logged in there.
#[track_caller]
pub fn at_login_server(who: &mut Visitor, to: &str, username: &str) -> Url {
    let mut landing = who.open(to);
    for _ in 0..3 {
        landing = match landing {
            Landing::Page(page) if page.kind() == "login" => who.login(&page, username, PASSWORD),
            Landing::Page(page) if page.kind() == "consent" => who.send(&page.press("consent-approve")),
            Landing::Away(url) => return url,
            Landing::Page(page) => panic!("{} ({}): {}", page.url, page.status(), page.answer.text()),
        };
    }
    panic!("the login does not end");
}

/// Goes to a page, logs in, and sees what is there.
#[track_caller]
pub fn enter(server: &Server, who: &mut Visitor, path: &str, username: &str) -> Answer {
    let sent = page(who, &server.through(path)).expect(302);
    let back = at_login_server(who, sent.header("location"), username);
    let led = page(who, back.as_str()).expect(302);
    page(who, &server.through(led.header("location")))
}
