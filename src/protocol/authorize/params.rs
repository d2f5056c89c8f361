//! The parameters of an authorization request, as they arrived (RFC 6749 §3.1).
use super::{Code, Desk, Refusal, Request};
use crate::form::decode;

/// Names and values in order of arrival. Empty values count as absent (RFC 6749 §3.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    pairs: Vec<(String, String)>,
    malformed: bool,
    signed: bool,
}

impl Params {
    /// More parameters than anybody needs.
    const MOST: usize = 100;

    /// Reads `application/x-www-form-urlencoded` text. What cannot be decoded is left out and remembered.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut params = Self::default();
        for piece in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            match (decode(name.as_bytes()), decode(value.as_bytes())) {
                (Ok(name), Ok(value)) if params.pairs.len() < Self::MOST => params.pairs.push((name.into_owned(), value.into_owned())),
                _ => params.malformed = true,
            }
        }
        params
    }

    /// The members of a request object; `None` if there are too many.
    pub(super) fn of(pairs: Vec<(String, String)>) -> Option<Self> {
        let sane = pairs.len() <= Self::MOST && pairs.iter().all(|(name, value)| !name.contains('\0') && !value.contains('\0'));
        sane.then_some(Self { pairs, malformed: false, signed: false })
    }

    /// With what stands outside a request object and not inside (OpenID Connect Core §6.1).
    pub(super) fn over(mut self, outside: &Self) -> Self {
        let more = outside.iter().filter(|(name, _)| !matches!(*name, "request" | "request_uri") && self.all(name).next().is_none());
        let more: Vec<_> = more.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.pairs.extend(more);
        self.malformed |= outside.malformed;
        self
    }

    /// What a client signed; it was said outside which.
    pub(super) fn signed_by(self, client_id: &str) -> Self {
        Self { signed: true, ..self.naming(client_id) }
    }

    /// With the client that authenticated itself, where no parameter names it.
    #[must_use]
    pub fn naming(mut self, client_id: &str) -> Self {
        if self.all("client_id").all(str::is_empty) {
            self.pairs.retain(|(name, _)| name != "client_id");
            self.pairs.push(("client_id".to_owned(), client_id.to_owned()));
        }
        self
    }

    /// Whether its client signed it.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.signed
    }

    /// The one value of a parameter; `None` if absent or empty, a refusal if there are several.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut found = self.all(name);
        let first = found.next();
        if found.next().is_some() {
            return Err(Refusal::new(Code::InvalidRequest, "a parameter is given more than once"));
        }
        Ok(first.filter(|v| !v.is_empty()))
    }

    /// Every value of a parameter.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every pair.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Whether something in it could not be decoded, and was left out.
    #[must_use]
    pub const fn is_malformed(&self) -> bool {
        self.malformed
    }

    fn repeated(&self) -> bool {
        self.pairs.iter().enumerate().any(|(at, (name, _))| self.pairs.iter().skip(at + 1).any(|(other, _)| other == name))
    }
}

/// Step: each parameter once, and readable. Several `resource` values have an error of their own.
pub(super) fn one_of_each(params: &Params, _: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    if params.malformed {
        return Err(Refusal::new(Code::InvalidRequest, "a parameter is not encoded correctly"));
    }
    if params.all("resource").count() > 1 {
        return Err(Refusal::new(Code::InvalidTarget, "only one resource may be asked for at a time"));
    }
    if params.repeated() { Err(Refusal::new(Code::InvalidRequest, "a parameter is given more than once")) } else { Ok(()) }
}

/// Longest `state` or `nonce`, octets: both wait in the database while a person logs in.
const LONGEST: usize = 4096;

/// Step: `state` is kept as it is, by [`super::recognise`].
pub(super) fn state(params: &Params, _: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    match params.one("state")? {
        Some(state) if state.len() > LONGEST => Err(Refusal::new(Code::InvalidRequest, "state is too long")),
        _ => Ok(()),
    }
}

/// Step: `nonce` is kept as it is; an ID token from this endpoint needs one. Follows the step of `scope`.
pub(super) fn nonce(params: &Params, _: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let nonce = params.one("nonce")?;
    if nonce.is_some_and(|n| n.len() > LONGEST) {
        return Err(Refusal::new(Code::InvalidRequest, "nonce is too long"));
    }
    if request.response_type.id_token && !request.scope.iter().any(|s| s == "openid") {
        return Err(Refusal::new(Code::InvalidScope, "an ID token needs the scope openid"));
    }
    if nonce.is_none() && request.response_type.id_token {
        return Err(Refusal::new(Code::InvalidRequest, "nonce is required for an ID token from this endpoint"));
    }
    request.nonce = nonce.map(str::to_owned);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_is_absent_and_a_second_value_is_refused() {
        let p = Params::parse("a=&b=1&c=x&c=x&d=%20+%C3%A9");
        assert_eq!(p.one("a"), Ok(None));
        assert_eq!(p.one("b"), Ok(Some("1")));
        assert!(p.one("c").is_err());
        assert_eq!(p.one("d"), Ok(Some("  é")));
        assert!(p.repeated() && !p.malformed);
    }

    #[test]
    fn bad_escapes_and_bad_utf8_are_malformed() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff", "%f=1", "a=%00"] {
            assert!(Params::parse(text).malformed, "{text}");
        }
    }
}
