//! Whose form is this? A posted form must come from a page of ours, in the browser that was shown it.
//!
//! Three fences: the cookie is `SameSite=Lax`; a request that names another origin, or that the browser calls cross-site, is refused;
//! and every form carries a MAC over its browser's binding, its purpose and its session, which nobody else can make.
use http::{HeaderMap, header::ORIGIN};
use tokens::{b64, hash, secret::MacKey};

const DOMAIN: &str = "form";

/// The value of a form's hidden field.
#[must_use]
pub fn token(mac: &MacKey, binding: &str, purpose: &str, about: &str) -> String {
    b64::encode(&mac.mac(DOMAIN, format!("{binding}\0{purpose}\0{about}").as_bytes()))
}

/// Whether a posted value is that of this browser's form.
#[must_use]
pub fn matches(mac: &MacKey, binding: &str, purpose: &str, about: &str, posted: &str) -> bool {
    hash::eq(token(mac, binding, purpose, about).as_bytes(), posted.as_bytes())
}

/// Whether a POST comes from another site. Browsers always say; what says nothing is no browser and has no cookies to abuse.
#[must_use]
pub fn is_cross_site(headers: &HeaderMap, issuer: &str) -> bool {
    let fetch_site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    if matches!(fetch_site, Some(b"cross-site" | b"same-site")) {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => false,
        (Some(_), Some(_)) => true,
        (Some(one), None) => one.to_str().ok() != Some(origin(issuer)),
    }
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(after..).and_then(|rest| rest.find(['/', '?', '#'])).map_or(url.len(), |at| after + at);
    url.get(..end).unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ISSUER: &str = "https://id.example.com/tenant";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn another_origin_is_cross_site_whatever_its_look() {
        assert!(!is_cross_site(&headers(&[]), ISSUER));
        assert!(!is_cross_site(&headers(&[("origin", "https://id.example.com")]), ISSUER));
        for evil in
            ["https://evil.example", "http://id.example.com", "https://id.example.com.evil.example", "https://id.example.com:444", "null"]
        {
            assert!(is_cross_site(&headers(&[("origin", evil)]), ISSUER), "{evil}");
        }
        assert!(is_cross_site(&headers(&[("sec-fetch-site", "cross-site")]), ISSUER));
        assert!(is_cross_site(&headers(&[("origin", "null"), ("sec-fetch-site", "same-origin")]), ISSUER));
    }

    #[test]
    fn a_form_belongs_to_one_browser_one_purpose_and_one_session() {
        let mac = MacKey::new([1; 32]);
        let form = token(&mac, "browser", "consent", "sid");
        assert!(matches(&mac, "browser", "consent", "sid", &form));
        assert!(!matches(&mac, "other", "consent", "sid", &form));
        assert!(!matches(&mac, "browser", "login", "sid", &form));
        assert!(!matches(&mac, "browser", "consent", "sid2", &form));
    }
}
