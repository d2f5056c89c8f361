//! Pages of other origins: preflights are answered here, before anything is authenticated, and never forwarded (Fetch §3.2).
use edge::{
    Refusal, RouteTable,
    cors::{Preflight, Ready},
    host::Host,
    path,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};

use crate::body::AnswerBody;

/// The answer to a preflight, with its route; `None` if this is none, or no route with rules is for what it asks about.
pub(crate) fn preflight(table: &RouteTable, parts: &Parts) -> Option<(usize, Result<Response<AnswerBody>, Refusal>)> {
    let asked = Preflight::of(&parts.method, &parts.headers)?;
    let host = Host::parse(parts.headers.get(header::HOST)?.as_bytes()).ok()?;
    let path = path::normalise(parts.uri.path()).ok()?;
    let (at, _, rules) = table.preflight(host.name, &path, &asked)?;
    Some((at, rules.preflight(&asked, &parts.headers).map(answer).map_err(Refusal::Cors)))
}

fn answer(told: HeaderMap) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::none());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    *answer.headers_mut() = told;
    Ready::vary_preflight(answer.headers_mut());
    answer
}

/// What the answer to a page has to say of origins.
#[derive(Debug, Default)]
pub(crate) enum Page {
    /// Nothing: the route has no rules.
    #[default]
    Unasked,
    /// That it depends on the question; it is one that was refused.
    Preflight,
    /// What the rules say of this origin.
    Of(Option<HeaderValue>),
}

impl Page {
    /// Of a request that found a route.
    pub(crate) fn of(rules: Option<&Ready>, headers: &HeaderMap) -> Self {
        let Some(_) = rules else { return Self::Unasked };
        let mut origins = headers.get_all(header::ORIGIN).iter();
        // Two origins are nobody's.
        Self::Of(origins.next().filter(|_| origins.next().is_none()).cloned())
    }

    /// Says it on the answer.
    pub(crate) fn tell(&self, rules: Option<&Ready>, answer: &mut HeaderMap) {
        match (self, rules) {
            (Self::Of(origin), Some(rules)) => rules.decorate(answer, origin.as_ref()),
            (Self::Preflight, _) => Ready::vary_preflight(answer),
            _ => {}
        }
    }
}
