//! Which version of an API a request asks for, by a header or a media type.
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE},
};
use ledger::Mistake;
use serde::{Deserialize, Serialize};

use crate::table::Entry;

/// Which version a request has to ask for, by a header of its own or a media type. By path: `match.path_prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VersionMatch {
    /// The header that names the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The media type in `Accept` or `Content-Type` that does, with `{version}` in its place: `application/vnd.shop.{version}+json`, or
    /// `application/vnd.shop+json;version={version}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The version this route is for.
    pub value: String,
    /// Whether it is also for requests that name none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
}

impl VersionMatch {
    /// What is wrong with it.
    pub fn mistakes(&self, out: &mut Vec<Mistake>) {
        match (&self.header, &self.media_type) {
            (Some(_), None) | (None, Some(_)) => {}
            _ => out.push(Mistake::new("match.version", "say header or media_type, one of them (by path: match.path_prefix)")),
        }
        if self.header.as_ref().is_some_and(|name| name.contains('_') || HeaderName::from_bytes(name.as_bytes()).is_err()) {
            out.push(Mistake::new("match.version.header", "a header name without '_' is needed (RFC 9110 §5.1)"));
        }
        if self.media_type.as_ref().is_some_and(|text| Template::parse(text).is_none()) {
            out.push(Mistake::new(
                "match.version.media_type",
                "a media type with {version} once, in the subtype or as a parameter's value, is needed",
            ));
        }
        if self.value.is_empty() || !self.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            out.push(Mistake::new("match.version.value", "letters, digits, '.', '-' and '_' are needed"));
        }
    }
}

/// Where a media type names its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Template {
    /// What comes before and after the version in the type, in lower case; `after` is the rest of the type.
    before: String,
    after: String,
    /// The parameter that holds it instead, in lower case.
    parameter: Option<String>,
}

impl Template {
    fn parse(text: &str) -> Option<Self> {
        const MARK: &str = "{version}";
        if text.matches(MARK).count() != 1 || !text.is_ascii() {
            return None;
        }
        let (kind, parameter) = match text.split_once(';') {
            Some((kind, parameter)) => (kind.trim(), Some(parameter.trim())),
            None => (text.trim(), None),
        };
        let good = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+/".contains(&b));
        let one_slash = kind.bytes().filter(|b| *b == b'/').count() == 1;
        let kind = kind.to_ascii_lowercase();
        match (parameter, kind.split_once(MARK)) {
            (None, Some((before, after))) if one_slash && before.contains('/') && good(before) && good(after) => {
                Some(Self { before: before.into(), after: after.into(), parameter: None })
            }
            (Some(parameter), None) if one_slash && good(&kind) => {
                let name = parameter.strip_suffix(MARK)?.strip_suffix('=')?.trim();
                let fit =
                    !name.is_empty() && !name.eq_ignore_ascii_case("q") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                fit.then(|| Self { before: kind.clone(), after: String::new(), parameter: Some(name.to_ascii_lowercase()) })
            }
            _ => None,
        }
    }

    /// The version a media range names, if it is of this kind.
    fn version<'a>(&self, range: &'a str) -> Option<&'a str> {
        let mut parts = range.split(';');
        let kind = parts.next()?.trim();
        let Some(parameter) = &self.parameter else {
            let rest = kind.get(self.before.len()..).filter(|_| starts(kind, &self.before))?;
            let at = rest.len().checked_sub(self.after.len())?;
            let (version, after) = rest.split_at_checked(at)?;
            return after.eq_ignore_ascii_case(&self.after).then_some(version);
        };
        if !kind.eq_ignore_ascii_case(&self.before) {
            return None;
        }
        parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case(parameter).then(|| value.trim().trim_matches('"'))
        })
    }
}

fn starts(text: &str, with: &str) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
}

/// By what a request names its version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    Header(HeaderName),
    MediaType(Template),
}

/// The version of a route made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    by: By,
    value: String,
    default: bool,
}

/// What a request names.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    None,
    One(&'a str),
    /// Two, or something that is none: no route is for it.
    Unclear,
}

impl<'a> Named<'a> {
    fn and(self, other: Option<&'a str>) -> Self {
        match (self, other) {
            (Named::None, Some(other)) => Named::One(other),
            (Named::One(one), Some(other)) if one != other => Named::Unclear,
            (named, _) => named,
        }
    }
}

impl Selector {
    /// A route's selector; `None` if it does not read.
    #[must_use]
    pub fn new(given: &VersionMatch) -> Option<Self> {
        let by = match (&given.header, &given.media_type) {
            (Some(name), None) => By::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
            (None, Some(text)) => By::MediaType(Template::parse(text)?),
            _ => return None,
        };
        Some(Self { by, value: given.value.clone(), default: given.default })
    }

    /// Whether a request with these headers asks for this version. One that names another, or two, never gets the default.
    #[must_use]
    pub fn takes(&self, headers: &HeaderMap) -> bool {
        match self.named(headers) {
            Named::None => self.default,
            Named::One(version) => version == self.value,
            Named::Unclear => false,
        }
    }

    fn named<'a>(&self, headers: &'a HeaderMap) -> Named<'a> {
        match &self.by {
            By::Header(name) => {
                let mut values = headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (None, _) => Named::None,
                    (Some(one), None) => one.to_str().map_or(Named::Unclear, |one| Named::One(one.trim())),
                    _ => Named::Unclear,
                }
            }
            By::MediaType(template) => {
                let mut named = Named::None;
                for value in headers.get_all(ACCEPT).iter().chain(headers.get_all(CONTENT_TYPE)) {
                    let Ok(text) = value.to_str() else { return Named::Unclear };
                    for range in text.split(',') {
                        named = named.and(template.version(range));
                    }
                }
                named
            }
        }
    }

    /// What answers vary by.
    #[must_use]
    pub fn vary(&self) -> HeaderValue {
        match &self.by {
            By::Header(name) => HeaderValue::from_str(name.as_str()).unwrap_or_else(|_| HeaderValue::from_static("*")),
            By::MediaType(_) => HeaderValue::from_static("accept, content-type"),
        }
    }

    /// What it is, for the order of routes and for saying that two match the same.
    #[must_use]
    pub fn rank(&self) -> (String, bool, String) {
        let by = match &self.by {
            By::Header(name) => name.as_str().to_owned(),
            By::MediaType(t) => format!("{}\u{0}{}\u{0}{}", t.before, t.after, t.parameter.as_deref().unwrap_or_default()),
        };
        (by, !self.default, self.value.clone())
    }
}

/// What is wrong with routes of one prefix that choose among versions: who leaves the version out, or names an unknown one, must not
/// reach a route that says nothing of versions. The entries are in the order of the table.
#[must_use]
pub fn clashes(entries: &[Entry]) -> Vec<Mistake> {
    let mut out = Vec::new();
    for group in entries.chunk_by(|a, b| a.prefix == b.prefix).filter(|group| group.iter().any(|entry| entry.selector.is_some())) {
        for (n, entry) in group.iter().enumerate() {
            for other in group.iter().skip(n + 1).filter(|other| entry.shares_hosts(other)) {
                let wrong = match (&entry.selector, &other.selector) {
                    (Some(one), Some(two)) if one.by != two.by => Some((&other.id, "routes of one prefix name their versions in one way")),
                    (Some(one), Some(two)) if one.default && two.default && entry.shares_requests(other) => {
                        Some((&other.id, "only one version is for requests that name none"))
                    }
                    (Some(_), None) => Some((&other.id, "another route of this prefix is for one version: say which this one is for")),
                    (None, Some(_)) => Some((&entry.id, "another route of this prefix is for one version: say which this one is for")),
                    _ => None,
                };
                out.extend(wrong.map(|(id, why)| Mistake::new(format!("routes[{id}].match.version"), why)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn selector(value: Value) -> Selector {
        Selector::new(&serde_json::from_value(value).unwrap()).unwrap()
    }

    #[test]
    fn who_names_no_version_gets_the_default_and_who_names_another_does_not() {
        let headers = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            headers
        };
        let one = selector(json!({"header": "Api-Version", "value": "1", "default": true}));
        assert!(one.takes(&headers(&[])) && one.takes(&headers(&[("api-version", "1")])));
        for other in [&[("api-version", "2")][..], &[("api-version", "")], &[("api-version", "1"), ("api-version", "1")]] {
            assert!(!one.takes(&headers(other)), "{other:?}");
        }
        let two = selector(json!({"media_type": "application/vnd.shop.{version}+json", "value": "v2"}));
        assert!(two.takes(&headers(&[("accept", "text/html;q=0.1, Application/VND.shop.v2+json;q=1")])));
        assert!(two.takes(&headers(&[("content-type", "application/vnd.shop.v2+json"), ("accept", "*/*")])));
        for other in [
            &[("accept", "application/vnd.shop.v1+json, application/vnd.shop.v2+json")][..],
            &[("accept", "application/vnd.shop.v2+json"), ("content-type", "application/vnd.shop.v1+json")],
            &[("accept", "*/*")],
            &[("accept", "application/vnd.shop.v2+xml")],
        ] {
            assert!(!two.takes(&headers(other)), "{other:?}");
        }
        let parameter = selector(json!({"media_type": "application/vnd.shop+json; version={version}", "value": "2", "default": true}));
        assert!(parameter.takes(&headers(&[("accept", "application/vnd.shop+json;q=0.5;Version=\"2\"")])));
        assert!(parameter.takes(&headers(&[("accept", "application/json;version=3")])), "another media type names nothing here");
        assert!(!parameter.takes(&headers(&[("accept", "application/vnd.shop+json;version=3")])));
        for bad in ["application/json", "{version}", "a/{version}/{version}", "a/b;q={version}", "a/b;{version}", "a b/{version}"] {
            assert!(Template::parse(bad).is_none(), "{bad}");
        }
    }
}
