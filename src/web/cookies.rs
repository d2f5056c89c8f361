//! The one cookie: a browser's session (RFC 6265bis, the `__Host-` prefix).
use http::{HeaderMap, HeaderValue, header::COOKIE};

/// How this issuer's cookie is called and marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    secure: bool,
}

impl Cookie {
    /// Behind https the cookie is bound to the host and never leaves TLS; on a loopback http issuer browsers would refuse that.
    #[must_use]
    pub fn of(issuer: &str) -> Self {
        Self { secure: issuer.starts_with("https://") }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        if self.secure { "__Host-doorward" } else { "doorward" }
    }

    /// Its value in a request. Several of that name mean that somebody else set one: none is believed.
    #[must_use]
    pub fn read(self, headers: &HeaderMap) -> Option<&str> {
        let mut found = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.name())
            .map(|(_, value)| value);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// `Set-Cookie` with a value; it lives as long as the browser runs, the row behind it decides.
    #[must_use]
    pub fn set(self, value: &str) -> Option<HeaderValue> {
        self.line(value, "")
    }

    /// `Set-Cookie` that removes it.
    #[must_use]
    pub fn remove(self) -> Option<HeaderValue> {
        self.line("", "; Max-Age=0")
    }

    fn line(self, value: &str, age: &str) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}", self.name())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_https_the_cookie_is_bound_to_the_host() {
        let cookie = Cookie::of("https://id.example.com");
        assert_eq!(cookie.set("x").unwrap(), "__Host-doorward=x; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(Cookie::of("http://127.0.0.1:8080").set("x").unwrap(), "doorward=x; Path=/; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn a_cookie_that_came_twice_is_not_believed() {
        let cookie = Cookie::of("http://127.0.0.1:8080");
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=b; doorward=one"));
        assert_eq!(cookie.read(&headers), Some("one"));
        headers.append(COOKIE, HeaderValue::from_static("doorward=two"));
        assert_eq!(cookie.read(&headers), None);
    }
}
