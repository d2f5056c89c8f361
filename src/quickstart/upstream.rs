//! The demo upstream: a small API that says what reached it, and the demo application's redirect address.
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use crate::listen::{Bounds, Listener, Shutdown, Timed, serve_http};

/// Starts it on a free loopback port.
///
/// # Errors
/// No port is free.
pub fn start(shutdown: &Shutdown) -> std::io::Result<SocketAddr> {
    let listener = Listener::bind("demo", SocketAddr::from(([127, 0, 0, 1], 0)), None, Bounds { most: 256, ..Bounds::default() })?;
    let at = listener.at;
    let serving = listener.accept(shutdown.clone(), |accepted| serve_http(accepted, |request, _| async move { answer(&request) }));
    tokio::spawn(serving);
    Ok(at)
}

fn answer(request: &Request<Timed>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/callback" => callback(request.uri().query().unwrap_or_default()),
        _ => echo(request),
    }
}

/// What the upstream was told: the request and the identity that the gateway vouches for.
fn echo(request: &Request<Timed>) -> Response<Full<Bytes>> {
    let identity: Map<String, Value> = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-doorward-"))
        .map(|(name, value)| (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned())))
        .collect();
    let body = json!({
        "message": "hello from the upstream",
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "identity": identity,
        "authorization_header_seen": request.headers().contains_key(header::AUTHORIZATION),
    });
    reply(StatusCode::OK, "application/json", body.to_string())
}

/// Where the browser comes back to: says what to do with the code.
fn callback(query: &str) -> Response<Full<Bytes>> {
    let value = |name: &str| url::form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, v)| v.into_owned());
    let text = match (value("code"), value("error")) {
        (Some(code), _) => {
            format!("Logged in. Put this code into the second command of the quickstart within a minute:\n\n{code}\n")
        }
        (None, Some(error)) => format!("The authorization server said: {error}\n"),
        (None, None) => "This is where the browser comes back to.\n".to_owned(),
    };
    reply(StatusCode::OK, "text/plain; charset=utf-8", text)
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
