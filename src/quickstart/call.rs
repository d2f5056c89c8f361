//! One HTTP request over a fresh loopback connection, measured.
use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

/// What came back, and how long it took.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; `Null` where it is not JSON.
    pub body: Value,
    /// From before the connection was opened until the last octet was read.
    pub took: Duration,
}

/// Who asks.
pub enum Credential<'a> {
    /// A client with its secret (RFC 6749 §2.3.1).
    Basic(&'a str, &'a str),
    /// A bearer token (RFC 6750 §2.1).
    Bearer(&'a str),
}

impl Credential<'_> {
    fn header(&self) -> String {
        match self {
            Self::Basic(id, secret) => format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))),
            Self::Bearer(token) => format!("Bearer {token}"),
        }
    }
}

/// Sends a form by `POST`, or nothing by `GET`.
///
/// # Errors
/// The other end does not answer within 10 seconds, or not with HTTP.
pub async fn call(at: SocketAddr, path: &str, who: Credential<'_>, form: Option<&[(&str, &str)]>) -> anyhow::Result<Answer> {
    let began = Instant::now();
    let answer = timeout(Duration::from_secs(10), send(at, path, who, form)).await.with_context(|| format!("{at}{path} did not answer"))?;
    let (status, body) = answer.with_context(|| format!("{at}{path}"))?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null), took: began.elapsed() })
}

async fn send(at: SocketAddr, path: &str, who: Credential<'_>, form: Option<&[(&str, &str)]>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header(header::HOST, at.to_string()).header(header::AUTHORIZATION, who.header());
    let request = match form {
        None => request.method(Method::GET).body(Full::new(Bytes::new())),
        Some(pairs) => {
            let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            let request = request.method(Method::POST).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            request.body(Full::new(Bytes::from(body)))
        }
    }?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), 256 * 1024).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    Ok((status, body.to_bytes()))
}
