//! The gateway as relying party, as decisions: which requests begin a login, what is asked of whom, and what may come back
//! (OpenID Connect Core §3.1, RFC 9700 §2.1, RFC 9207).
use http::{HeaderMap, HeaderName, Method, header::ACCEPT};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokens::Alg;
use url::{Host, Url, form_urlencoded};

use crate::session::opens_websocket;

const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// The longest address a login leads back to, octets; a longer one leads to the start page.
const MAX_RETURN: usize = 2048;
/// The longest code, state or error looked at, octets.
const MAX_VALUE: usize = 4096;

/// Whether a browser shows the answer to this request as a page: then its person may be sent to log in. A request that a
/// script or a frame makes is never answered with somebody else's page.
#[must_use]
pub fn navigates(method: &Method, headers: &HeaderMap) -> bool {
    if *method != Method::GET || opens_websocket(headers) || headers.contains_key(REQUESTED_WITH) {
        return false;
    }
    if headers.get(FETCH_DEST).is_some_and(|dest| dest != "document") {
        return false;
    }
    match headers.get(FETCH_MODE) {
        Some(mode) => mode == "navigate",
        None => shows_pages(headers),
    }
}

/// Whether whoever asks wants a page rather than a document for programs.
#[must_use]
pub fn shows_pages(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    listed.into_iter().any(|range| range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html")))
}

/// Where the person is led after the login: path and query of the request, on the host that it came to. Never another host's.
#[must_use]
pub fn return_address(path: &str, query: Option<&str>) -> String {
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if is_return_address(&whole) { whole } else { "/".to_owned() }
}

/// Whether a text leads to a place on the same host, whoever reads it: one slash, and no character that some reader takes for another.
#[must_use]
pub fn is_return_address(text: &str) -> bool {
    text.len() <= MAX_RETURN
        && text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'<' | b'>'))
}

/// What of an issuer's metadata a relying party needs (OpenID Connect Discovery §3, RFC 8414 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub issuer: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub jwks_uri: String,
    /// RFC 9126.
    pub par_endpoint: Option<String>,
    /// RFC 7009.
    pub revocation_endpoint: Option<String>,
    pub end_session_endpoint: Option<String>,
    pub userinfo_endpoint: Option<String>,
    /// Whether every authorization response names its issuer (RFC 9207).
    pub names_itself: bool,
    /// What ID tokens may be signed with.
    pub algorithms: Vec<Alg>,
    /// Whether a client's secret may only travel in the form.
    pub secret_in_form: bool,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    pushed_authorization_request_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    id_token_signing_alg_values_supported: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
}

impl Provider {
    /// Reads the metadata of exactly this issuer. Endpoints are https; those of an issuer on loopback without TLS are there too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(document: &[u8], issuer: &str) -> Result<Self, &'static str> {
        let told: Metadata = serde_json::from_slice(document).map_err(|_| "the metadata does not read")?;
        if told.issuer != issuer {
            return Err("the metadata is another issuer's");
        }
        if told.code_challenge_methods_supported.as_ref().is_some_and(|methods| !methods.iter().any(|m| m == "S256")) {
            return Err("the issuer does not know PKCE with S256");
        }
        let plain = issuer.starts_with("http://");
        let good = |url: &String| endpoint(url, plain);
        let all = [&told.authorization_endpoint, &told.token_endpoint, &told.jwks_uri];
        if !all.into_iter().all(good) {
            return Err("an endpoint is not https");
        }
        let algorithms: Vec<Alg> = match told.id_token_signing_alg_values_supported.as_slice() {
            [] => Alg::ALL.to_vec(),
            named => named.iter().filter_map(|name| Alg::read(name)).collect(),
        };
        if algorithms.is_empty() {
            return Err("no algorithm of its ID tokens is known here");
        }
        let methods = &told.token_endpoint_auth_methods_supported;
        let takes = |name: &str| methods.iter().any(|m| m == name);
        Ok(Self {
            par_endpoint: told.pushed_authorization_request_endpoint.filter(good),
            revocation_endpoint: told.revocation_endpoint.filter(good),
            end_session_endpoint: told.end_session_endpoint.filter(good),
            userinfo_endpoint: told.userinfo_endpoint.filter(good),
            names_itself: told.authorization_response_iss_parameter_supported,
            secret_in_form: !takes("client_secret_basic") && takes("client_secret_post"),
            algorithms,
            issuer: told.issuer,
            authorization_endpoint: told.authorization_endpoint,
            token_endpoint: told.token_endpoint,
            jwks_uri: told.jwks_uri,
        })
    }
}

/// Whether an address may be spoken to: https, or loopback without TLS where the issuer itself is such.
fn endpoint(text: &str, plain: bool) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return false;
    }
    url.scheme() == "https" || (plain && url.scheme() == "http" && is_loopback(text))
}

/// Whether a URL's host is this very machine.
#[must_use]
pub fn is_loopback(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// What is asked of the authorization endpoint (Core §3.1.2.1, RFC 7636 §4.3).
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub client_id: &'a str,
    pub redirect_uri: &'a str,
    pub scope: &'a str,
    pub state: &'a str,
    pub nonce: &'a str,
    pub verifier: &'a str,
    pub resource: Option<&'a str>,
    /// Classes of authentication a route demands.
    pub acr_values: &'a [String],
    /// How long ago the login may be, seconds.
    pub max_age: Option<i64>,
}

impl Request<'_> {
    /// Its parameters.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut out = vec![
            ("response_type", "code".to_owned()),
            ("client_id", self.client_id.to_owned()),
            ("redirect_uri", self.redirect_uri.to_owned()),
            ("scope", self.scope.to_owned()),
            ("state", self.state.to_owned()),
            ("nonce", self.nonce.to_owned()),
            ("code_challenge", tokens::hash::s256(self.verifier)),
            ("code_challenge_method", "S256".to_owned()),
        ];
        out.extend(self.resource.map(|resource| ("resource", resource.to_owned())));
        if !self.acr_values.is_empty() {
            out.push(("acr_values", self.acr_values.join(" ")));
        }
        out.extend(self.max_age.map(|age| ("max_age", age.to_string())));
        out
    }
}

/// An endpoint with these parameters after those it has.
#[must_use]
pub fn address(endpoint: &str, parameters: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(endpoint).ok()?;
    url.query_pairs_mut().extend_pairs(parameters);
    Some(url.into())
}

/// A form's body.
#[must_use]
pub fn form(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// What the browser brought back (RFC 6749 §4.1.2), not believed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub state: String,
    pub code: Option<String>,
    pub error: Option<String>,
    pub iss: Option<String>,
}

impl Answer {
    /// Reads a query. A parameter that comes twice makes it none, as does one that is too long.
    #[must_use]
    pub fn read(query: &str) -> Option<Self> {
        let mut out = Self::default();
        let mut state = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "code" => &mut out.code,
                "error" => &mut out.error,
                "iss" => &mut out.iss,
                _ => continue,
            };
            if slot.is_some() || value.len() > MAX_VALUE {
                return None;
            }
            *slot = Some(value.into_owned());
        }
        out.state = state?;
        Some(out)
    }

    /// The code, if this is the answer of that issuer (RFC 9207 §2.4), and else the OAuth code of what went wrong. An answer of somebody
    /// else's is not looked at further.
    ///
    /// # Errors
    /// What went wrong.
    pub fn code(&self, provider: &Provider) -> Result<&str, Failed> {
        match &self.iss {
            Some(iss) if *iss != provider.issuer => return Err(Failed::new("invalid_request", "issuer_mixed_up")),
            None if provider.names_itself => return Err(Failed::new("invalid_request", "issuer_missing")),
            _ => {}
        }
        match (&self.code, &self.error) {
            (Some(code), None) if !code.is_empty() => Ok(code),
            (None, Some(error)) => Err(Failed { code: known(error), why: "refused_by_issuer" }),
            _ => Err(Failed::new("invalid_request", "answer_unclear")),
        }
    }
}

/// Why nobody is logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// What the person sees: an OAuth code.
    pub code: &'static str,
    /// What the log sees.
    pub why: &'static str,
}

impl Failed {
    /// A failure.
    #[must_use]
    pub const fn new(code: &'static str, why: &'static str) -> Self {
        Self { code, why }
    }

    /// The status of its page.
    #[must_use]
    pub fn status(self) -> u16 {
        match self.code {
            "access_denied" => 403,
            "temporarily_unavailable" => 503,
            "slow_down" => 429,
            "server_error" => 502,
            _ => 400,
        }
    }

    /// A sentence for the person.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self.code {
            "access_denied" => "The login was refused or cancelled.",
            "temporarily_unavailable" => "The login server cannot be reached right now. Try again in a moment.",
            "slow_down" => "Too many logins were begun. Wait a while and try again.",
            "server_error" => "The login server gave no usable answer.",
            _ => "This login is not valid, has expired or was already used. Go back to the page you wanted and start again.",
        }
    }
}

/// The errors that are shown by their names (RFC 6749 §4.1.2.1, Core §3.1.2.6); whatever else comes is not repeated.
fn known(error: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "access_denied",
        "invalid_request",
        "unauthorized_client",
        "unsupported_response_type",
        "invalid_scope",
        "invalid_target",
        "temporarily_unavailable",
        "login_required",
        "interaction_required",
        "consent_required",
        "account_selection_required",
        "unmet_authentication_requirements",
    ];
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("server_error")
}

/// The one value of a form field; nothing if it is missing or comes twice.
#[must_use]
pub fn field(form: &[u8], name: &str) -> Option<String> {
    let mut found = form_urlencoded::parse(form).filter(|(given, _)| given == name).map(|(_, value)| value.into_owned());
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// A path that configuration gives to an endpoint of ours: plain, and not the start page.
#[must_use]
pub fn is_own_path(path: &str) -> bool {
    path.len() > 1
        && path.len() <= 256
        && !path.ends_with('/')
        && crate::path::normalise(path).is_ok_and(|normal| normal == path)
        && percent_decode_str(path).decode_utf8().is_ok_and(|text| text == path)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_what_a_person_sees_begins_a_login() {
        let get = |pairs: &[(&'static str, &'static str)]| navigates(&Method::GET, &headers(pairs));
        assert!(get(&[("accept", "text/html,application/xhtml+xml;q=0.9")]));
        assert!(get(&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]));
        for other in [
            &[][..],
            &[("accept", "application/json")],
            &[("accept", "*/*")],
            &[("accept", "text/html"), ("sec-fetch-mode", "cors")],
            &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")],
            &[("accept", "text/html"), ("upgrade", "websocket")],
            &[("accept", "text/html"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        ] {
            assert!(!get(other), "{other:?}");
        }
        for method in [Method::POST, Method::HEAD, Method::OPTIONS] {
            assert!(!navigates(&method, &headers(&[("accept", "text/html")])), "{method}");
        }
    }

    #[test]
    fn a_login_leads_back_to_the_same_host_only() {
        assert_eq!(return_address("/app/x", Some("a=%2F&b")), "/app/x?a=%2F&b");
        for bad in
            ["//evil.example", "/\\evil.example", "https://evil.example", "", "evil", "/a b", "/a\r\nLocation: x", "/\u{e9}", "/\"><"]
        {
            assert!(!is_return_address(bad), "{bad:?}");
            assert_eq!(return_address(bad, None), "/", "{bad:?}");
        }
        assert_eq!(return_address("/x", Some(&"q".repeat(3000))), "/");
    }

    fn metadata(change: &[(&str, Value)]) -> Vec<u8> {
        let mut document = json!({"issuer": "https://i.example", "authorization_endpoint": "https://i.example/authorize",
            "token_endpoint": "https://i.example/token", "jwks_uri": "https://i.example/jwks",
            "pushed_authorization_request_endpoint": "https://i.example/par", "authorization_response_iss_parameter_supported": true,
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256"]});
        for (name, value) in change {
            document[*name] = value.clone();
        }
        document.to_string().into_bytes()
    }

    #[test]
    fn metadata_is_of_that_issuer_and_its_endpoints_are_https() {
        let provider = Provider::read(&metadata(&[]), "https://i.example").unwrap();
        assert_eq!(provider.algorithms, [Alg::RS256, Alg::ES256]);
        assert!(provider.par_endpoint.is_some() && provider.names_itself && !provider.secret_in_form);
        assert!(Provider::read(&metadata(&[]), "https://other.example").is_err());
        for (name, value) in [
            ("token_endpoint", json!("http://i.example/token")),
            ("jwks_uri", json!("http://127.0.0.1/jwks")),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("token_endpoint", json!("https://u:p@i.example/token")),
            ("code_challenge_methods_supported", json!(["plain"])),
            ("id_token_signing_alg_values_supported", json!(["HS256", "none"])),
        ] {
            assert!(Provider::read(&metadata(&[(name, value)]), "https://i.example").is_err(), "{name}");
        }
        let loopback = json!({"issuer": "http://127.0.0.1:1", "authorization_endpoint": "http://127.0.0.1:1/a", "token_endpoint": "http://127.0.0.1:1/t",
            "jwks_uri": "http://127.0.0.1:1/j", "revocation_endpoint": "http://elsewhere.example/r"});
        let provider = Provider::read(loopback.to_string().as_bytes(), "http://127.0.0.1:1").unwrap();
        assert_eq!(provider.revocation_endpoint, None, "what may not be spoken to is not known");
    }

    #[test]
    fn an_answer_of_another_issuer_is_not_looked_at() {
        let provider = Provider::read(&metadata(&[]), "https://i.example").unwrap();
        let code = |query: &str| Answer::read(query).map(|answer| answer.code(&provider).map(str::to_owned).map_err(|failed| failed.why));
        assert_eq!(code("state=s&code=c&iss=https%3A%2F%2Fi.example"), Some(Ok("c".into())));
        assert_eq!(code("state=s&code=c&iss=https%3A%2F%2Fevil.example"), Some(Err("issuer_mixed_up")));
        assert_eq!(code("state=s&error=access_denied&iss=https%3A%2F%2Fevil.example"), Some(Err("issuer_mixed_up")));
        assert_eq!(code("state=s&code=c"), Some(Err("issuer_missing")));
        assert_eq!(code("state=s&code=c&error=x&iss=https%3A%2F%2Fi.example"), Some(Err("answer_unclear")));
        for twice in ["state=s&state=s&code=c", "state=s&code=c&code=d", "code=c", "state=s&code=c&iss=a&iss=b"] {
            assert_eq!(code(twice), None, "{twice}");
        }
        assert_eq!(known("<script>"), "server_error");
    }

    #[test]
    fn a_request_has_a_challenge_and_what_the_route_demands() {
        let request = Request {
            client_id: "c",
            redirect_uri: "https://a.example/.doorward/callback",
            scope: "openid",
            state: "s",
            nonce: "n",
            verifier: "v",
            resource: None,
            acr_values: &["urn:x".into()],
            max_age: Some(60),
        };
        let parameters = request.parameters();
        let of = |name: &str| parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(
            (of("code_challenge_method"), of("acr_values"), of("max_age"), of("resource")),
            (Some("S256"), Some("urn:x"), Some("60"), None)
        );
        assert_eq!(of("code_challenge"), Some(tokens::hash::s256("v").as_str()));
        assert_eq!(address("https://i.example/a?x=1", &[("a b", "&")]).as_deref(), Some("https://i.example/a?x=1&a+b=%26"));
    }

    #[test]
    fn a_path_of_ours_is_plain() {
        assert!(is_own_path("/.doorward/callback"));
        for bad in ["/", "", "x", "/a/", "/a//b", "/a/../b", "/a?b", "/%61", "/a b"] {
            assert!(!is_own_path(bad), "{bad}");
        }
    }
}
