//! The one cookie: a browser's session (RFC 6265bis, the `__Host-` prefix).
use http::{HeaderMap, HeaderValue, header::COOKIE};

/// Tickets believed in one request.
pub const MOST_TICKETS: usize = 16;

/// Characters of the hash in a ticket's name.
const MARK: usize = 8;
/// The longest value looked at; ours have 43 characters.
const LONGEST_TICKET: usize = 64;

/// What a browser presents as a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    mark: String,
    value: String,
}

impl Ticket {
    /// Its value, if its name is that of the value.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        (mark(&self.value) == self.mark).then_some(self.value.as_str())
    }
}

/// What a ticket's name says of its value.
fn mark(value: &str) -> String {
    let mut hash = tokens::hash::left_half(value);
    hash.truncate(MARK);
    hash
}

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
        only(headers, self.name())
    }

    /// The tickets in a request: what waiting requests of a browser without a session are bound to. Each has a cookie of its own, so
    /// that two tabs that come at once do not take each other's away. Whether a name is its value's is not looked at yet ([`Ticket::value`]).
    #[must_use]
    pub fn tickets(self, headers: &HeaderMap) -> Vec<Ticket> {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let own = pairs.filter_map(|(name, value)| Some((name.strip_prefix(self.name())?.strip_prefix('-')?, value)));
        let own = own.filter(|(mark, value)| mark.len() == MARK && value.len() <= LONGEST_TICKET);
        own.map(|(mark, value)| Ticket { mark: mark.to_owned(), value: value.to_owned() }).collect()
    }

    /// `Set-Cookie` with a ticket for so many seconds.
    #[must_use]
    pub fn ticket(self, value: &str, seconds: i64) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        let name = self.ticket_name(value);
        HeaderValue::try_from(format!("{name}={value}; Max-Age={}; Path=/; HttpOnly; SameSite=Lax{secure}", seconds.max(1))).ok()
    }

    fn ticket_name(self, value: &str) -> String {
        format!("{}-{}", self.name(), mark(value))
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

/// The one cookie of that name. Several mean that somebody else set one: none is believed.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(given, _)| *given == name).map(|(_, value)| value);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The cookie that clients of other sites are answered by, where that was chosen (OpenID Connect Session Management 1.0 §3.2): the only one
/// a browser sends along from another site. It is worth the state of a login and nothing else.
pub mod elsewhere {
    use http::{HeaderMap, HeaderValue};

    const NAME: &str = "__Host-doorward-state";

    /// Its value in a request.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<&str> {
        super::only(headers, NAME)
    }

    /// `Set-Cookie` with a value.
    #[must_use]
    pub fn set(value: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{NAME}={value}; Path=/; HttpOnly; SameSite=None; Secure")).ok()
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
    fn tickets_of_two_tabs_live_side_by_side() {
        let cookie = Cookie::of("https://id.example.com");
        let mut headers = HeaderMap::new();
        for value in ["one", "two"] {
            let line = cookie.ticket(value, 60).unwrap().to_str().unwrap().to_owned();
            assert!(line.starts_with("__Host-doorward-") && line.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{line}");
            headers.append(COOKIE, HeaderValue::try_from(line.split(';').next().unwrap()).unwrap());
        }
        headers.append(COOKIE, HeaderValue::from_static("__Host-doorward-AAAAAAAA=planted; __Host-doorward=x"));
        let tickets = cookie.tickets(&headers);
        assert_eq!(tickets.iter().filter_map(super::Ticket::value).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(cookie.read(&headers), Some("x"));
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
