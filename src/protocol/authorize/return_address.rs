//! The address an answer returns to: exactly a registered redirect URI (RFC 9700 §2.1, RFC 8252 §7.3).

/// A redirect URI that matched a registered one. Nothing else can be redirected to, so an open redirect does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnAddress {
    uri: String,
}

/// The loopback IP literals whose port the client's system chooses (RFC 8252 §7.3). `localhost` is a name, not one of them.
const LOOPBACK: [&str; 2] = ["http://127.0.0.1", "http://[::1]"];

impl ReturnAddress {
    /// The address, if `asked` is one of the `registered`: the same text, or the same loopback literal at another port.
    #[must_use]
    pub fn matched(asked: &str, registered: &[String]) -> Option<Self> {
        let sane = asked.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'\\')) && !runs_here(asked);
        (sane && registered.iter().any(|known| known == asked || same_but_port(known, asked))).then(|| Self { uri: asked.to_owned() })
    }

    /// Exactly as asked.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The address with further parameters in its query; the registered query stays.
    #[must_use]
    pub fn with(&self, pairs: &[(&str, &str)]) -> String {
        let mut uri = self.uri.clone();
        for (name, value) in pairs {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str(name);
            uri.push('=');
            uri.extend(url::form_urlencoded::byte_serialize(value.as_bytes()));
        }
        uri
    }

    /// The address with parameters in its fragment.
    #[must_use]
    pub fn with_fragment(&self, pairs: &[(&str, &str)]) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("{}#{query}", self.uri)
    }

    /// Whether another program on the person's machine could take it: a loopback address or a private-use scheme (RFC 8252 §8.6).
    #[must_use]
    pub fn is_claimable(&self) -> bool {
        let web = self.uri.starts_with("https://") || self.uri.starts_with("http://");
        !web || self.uri.starts_with("http://")
    }

    /// How a Content-Security-Policy names it as a form target. An IPv6 literal has no name there but its scheme.
    #[must_use]
    pub fn source(&self) -> String {
        let scheme = self.uri.split(':').next().unwrap_or_default();
        match self.uri.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) {
            Some(rest) if matches!(scheme, "http" | "https") => {
                let host = rest.split(['/', '?']).next().unwrap_or_default();
                let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'));
                if plain { format!("{scheme}://{host}") } else { format!("{scheme}:") }
            }
            _ => format!("{}:", scheme.chars().filter(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c)).collect::<String>()),
        }
    }
}

/// Schemes that a browser would run or show as this page's own.
fn runs_here(uri: &str) -> bool {
    let scheme = uri.split(':').next().unwrap_or_default().to_ascii_lowercase();
    matches!(scheme.as_str(), "javascript" | "data" | "vbscript" | "blob" | "about" | "file")
}

fn same_but_port(known: &str, asked: &str) -> bool {
    LOOPBACK.iter().any(|base| match (after_port(known, base), after_port(asked, base)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    })
}

/// What follows `base` and an optional port; `None` if `uri` is not at that base.
fn after_port<'a>(uri: &'a str, base: &str) -> Option<&'a str> {
    let rest = uri.strip_prefix(base)?;
    let rest = match rest.strip_prefix(':') {
        None => rest,
        Some(port) => {
            let digits = port.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = port.split_at_checked(digits)?;
            number.parse::<u16>().ok().filter(|n| *n != 0)?;
            rest
        }
    };
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched(asked: &str, registered: &str) -> bool {
        ReturnAddress::matched(asked, &[registered.to_owned()]).is_some()
    }

    #[test]
    fn only_the_exact_text_matches() {
        let registered = "https://rp.example.com/cb?a=1";
        assert!(matched(registered, registered));
        for other in [
            "https://rp.example.com/cb",
            "https://rp.example.com/cb?a=1&b=2",
            "https://rp.example.com/cb?a=1/",
            "https://RP.example.com/cb?a=1",
            "https://rp.example.com:443/cb?a=1",
            "https://rp.example.com/./cb?a=1",
            "https://rp.example.com@evil.example/cb?a=1",
            "https://rp.example.com/cb?a=1#x",
            "http://rp.example.com/cb?a=1",
            "https://rp.example.com/cb?a=%31",
            " https://rp.example.com/cb?a=1",
            "",
        ] {
            assert!(!matched(other, registered), "{other}");
        }
    }

    #[test]
    fn a_loopback_literal_matches_at_any_port_and_localhost_does_not() {
        assert!(matched("http://127.0.0.1:51004/cb", "http://127.0.0.1/cb"));
        assert!(matched("http://127.0.0.1/cb", "http://127.0.0.1:9/cb"));
        assert!(matched("http://[::1]:51004/cb?x=1", "http://[::1]:1/cb?x=1"));
        for (asked, registered) in [
            ("http://localhost:5/cb", "http://localhost/cb"),
            ("http://127.0.0.2:5/cb", "http://127.0.0.1/cb"),
            ("https://127.0.0.1:5/cb", "https://127.0.0.1/cb"),
            ("http://127.0.0.1:5/cb/", "http://127.0.0.1/cb"),
            ("http://127.0.0.1:5@evil.example/cb", "http://127.0.0.1/cb"),
            ("http://127.0.0.1.evil.example/cb", "http://127.0.0.1/cb"),
            ("http://127.0.0.1:99999/cb", "http://127.0.0.1/cb"),
            ("http://127.0.0.1:0/cb", "http://127.0.0.1/cb"),
            ("http://127.0.0.1:/cb", "http://127.0.0.1/cb"),
            ("http://[::1]:5/cb", "http://127.0.0.1/cb"),
        ] {
            assert!(!matched(asked, registered), "{asked}");
        }
    }

    #[test]
    fn a_scheme_that_runs_in_the_page_never_matches_even_if_registered() {
        for uri in ["javascript:alert(1)", "data:text/html,x", "JavaScript:alert(1)"] {
            assert!(!matched(uri, uri));
        }
    }

    #[test]
    fn a_registered_query_is_kept() {
        let address = ReturnAddress::matched("https://rp/cb?a=1", &["https://rp/cb?a=1".to_owned()]).expect("registered");
        assert_eq!(address.with(&[("code", "x y"), ("state", "&=")]), "https://rp/cb?a=1&code=x+y&state=%26%3D");
    }

    #[test]
    fn a_form_target_is_named_by_its_origin_or_its_scheme() {
        let source = |uri: &str| ReturnAddress::matched(uri, &[uri.to_owned()]).expect("registered").source();
        assert_eq!(source("https://rp.example.com:8443/cb?x"), "https://rp.example.com:8443");
        assert_eq!(source("http://[::1]:3000/cb"), "http:");
        assert_eq!(source("com.example.app:/cb"), "com.example.app:");
        assert_eq!(source("https://rp;script-src/cb"), "https:");
    }

    proptest! {
        #[test]
        fn nothing_but_the_registered_text_matches_an_https_address(asked in ".{0,60}") {
            let registered = "https://rp.example.com/cb";
            prop_assert_eq!(matched(&asked, registered), asked == registered);
        }

        #[test]
        fn only_the_port_of_a_loopback_literal_may_differ(port in "[0-9:@./a-z]{0,8}") {
            let asked = format!("http://127.0.0.1{port}/cb");
            let expected = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0));
            prop_assert_eq!(matched(&asked, "http://127.0.0.1/cb"), expected);
        }

        #[test]
        fn a_location_starts_with_the_registered_text_and_has_no_control_character(value in ".{0,40}") {
            let address = ReturnAddress::matched("https://rp/cb", &["https://rp/cb".to_owned()]).expect("registered");
            let location = address.with(&[("state", &value)]);
            prop_assert!(location.starts_with("https://rp/cb?state=") && location.bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}
