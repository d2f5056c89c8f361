//! What a route bounds of its requests and answers: sizes, times, how many at once.
use http::{HeaderMap, Uri};
use ledger::Mistake;
use serde::{Deserialize, Serialize};

use crate::{
    Refusal,
    framing::{MAX_FIELDS, MAX_HEADERS, MAX_TARGET, Violation},
    rate::LimitKey,
};

/// How long a body may pause where the route does not say.
pub const IDLE_BODY_S: i64 = 30;
const LONGEST_S: i64 = 30 * 86_400;

/// Limits of a route's own. None is wider than the gateway's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body in octets (413 beyond).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<u64>,
    /// Octets of all header fields together (431 beyond), at most 32768.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<usize>,
    /// Number of header fields (431 beyond), at most 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_fields: Option<usize>,
    /// Octets of path and query (414 beyond), at most 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<usize>,
    /// Within which the whole request has to be there, from the end of its head (408).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_time: Option<String>,
    /// How long the request's body may pause (408), at most `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_body: Option<String>,
    /// Within which the head of the answer has to be there, retries included (504).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_time: Option<String>,
    /// How long an answer's body, an event stream or a WebSocket may go on; then it is ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_time: Option<String>,
    /// Requests of the route at once in this process, until the end of their answers (429).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Requests at once by what they are counted by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// How many at once, counted by what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// As of `rate_limit`.
    pub key: String,
    pub most: u32,
}

/// The limits made ready; what is absent is not bounded here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    pub header_bytes: Option<usize>,
    pub header_fields: Option<usize>,
    pub url: Option<usize>,
    pub request_ms: Option<u64>,
    pub idle_ms: Option<u64>,
    pub response_ms: Option<u64>,
    pub stream_ms: Option<u64>,
    pub concurrent: Option<u32>,
    pub concurrency: Option<(LimitKey, u32)>,
}

impl Limits {
    /// Made ready; `None` if it bounds nothing but the body's size.
    #[must_use]
    pub fn ready(&self) -> Option<Box<Bounds>> {
        let ms = |text: &Option<String>| text.as_deref().and_then(tokens::duration::parse).and_then(|s| u64::try_from(s * 1000).ok());
        let bounds = Bounds {
            header_bytes: self.header_bytes,
            header_fields: self.header_fields,
            url: self.url,
            request_ms: ms(&self.request_time),
            idle_ms: ms(&self.idle_body),
            response_ms: ms(&self.response_time),
            stream_ms: ms(&self.stream_time),
            concurrent: self.concurrent,
            concurrency: self.concurrency.as_ref().and_then(|c| Some((LimitKey::parse(&c.key)?, c.most))),
        };
        (bounds != Bounds::default()).then(|| Box::new(bounds))
    }

    pub(crate) fn mistakes(&self, has_auth: bool, out: &mut Vec<Mistake>) {
        for (member, given, most) in [
            ("header_bytes", self.header_bytes, MAX_HEADERS),
            ("header_fields", self.header_fields, MAX_FIELDS),
            ("url", self.url, MAX_TARGET),
        ] {
            if given.is_some_and(|n| n == 0 || n > most) {
                out.push(Mistake::new(format!("limits.{member}"), format!("must be 1 to {most}: the gateway itself takes no more")));
            }
        }
        for (member, given, most) in [
            ("request_time", &self.request_time, LONGEST_S),
            ("idle_body", &self.idle_body, IDLE_BODY_S),
            ("response_time", &self.response_time, LONGEST_S),
            ("stream_time", &self.stream_time, LONGEST_S),
        ] {
            if given.as_ref().is_some_and(|text| tokens::duration::parse(text).is_none_or(|s| s > most)) {
                let why = format!("a duration such as \"5s\", at most {}, is needed", tokens::duration::text(most));
                out.push(Mistake::new(format!("limits.{member}"), why));
            }
        }
        if self.concurrent == Some(0) {
            out.push(Mistake::new("limits.concurrent", "must be at least 1"));
        }
        if let Some(concurrency) = &self.concurrency {
            match LimitKey::parse(&concurrency.key) {
                None => out.push(Mistake::new("limits.concurrency.key", "must be one of the keys of rate_limit")),
                Some(key) if key.needs_caller() && !has_auth => {
                    out.push(Mistake::new("limits.concurrency.key", "a route without auth does not know who calls"));
                }
                Some(_) => {}
            }
            if concurrency.most == 0 {
                out.push(Mistake::new("limits.concurrency.most", "must be at least 1"));
            }
        }
    }
}

impl Bounds {
    /// Whether the head of a request is within them.
    ///
    /// # Errors
    /// 414 or 431.
    pub fn head(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.url.is_some_and(|most| uri.path_and_query().is_some_and(|target| target.as_str().len() > most)) {
            return Err(Refusal::Framing(Violation::TargetTooLong));
        }
        let many = self.header_fields.is_some_and(|most| headers.len() > most);
        let size = || headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
        if many || self.header_bytes.is_some_and(|most| size() > most) {
            return Err(Refusal::Framing(Violation::HeadersTooLarge));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    #[test]
    fn no_limit_is_wider_than_the_gateways() {
        let wide = json!({"header_bytes": 32769, "header_fields": 101, "url": 8193, "request_time": "0s", "idle_body": "31s", "response_time": "x",
            "stream_time": "31d", "concurrent": 0, "concurrency": {"key": "client", "most": 0}});
        let limits: Limits = serde_json::from_value(wide).unwrap();
        let mut out = Vec::new();
        limits.mistakes(false, &mut out);
        let at: Vec<&str> = out.iter().map(|m| m.at.as_str().trim_start_matches("limits.")).collect();
        let all = ["header_bytes", "header_fields", "url", "request_time", "idle_body", "response_time", "stream_time", "concurrent"];
        assert_eq!(at, all.into_iter().chain(["concurrency.key", "concurrency.most"]).collect::<Vec<_>>());
        assert_eq!(Limits { body: Some(5), ..Limits::default() }.ready(), None);
    }

    #[test]
    fn a_head_is_measured() {
        let bounds = Bounds { header_bytes: Some(30), header_fields: Some(2), url: Some(6), ..Bounds::default() };
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1234567890"));
        assert_eq!(bounds.head(&"/12?56".parse().unwrap(), &headers), Ok(()));
        assert_eq!(bounds.head(&"/12?567".parse().unwrap(), &headers).unwrap_err().status(), 414);
        headers.insert("b", HeaderValue::from_static("1234567890"));
        assert_eq!(bounds.head(&"/".parse().unwrap(), &headers), Ok(()));
        headers.insert("b", HeaderValue::from_static("12345678901"));
        assert_eq!(bounds.head(&"/".parse().unwrap(), &headers).unwrap_err().status(), 431);
        headers.clear();
        for name in ["a", "b", "c"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(""));
        }
        assert_eq!(bounds.head(&"/".parse().unwrap(), &headers).unwrap_err().status(), 431);
    }
}
