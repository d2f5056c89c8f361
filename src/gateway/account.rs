//! What was learned of a request on its way: from it the access log, the metrics and explanations are written. Holds no credential.
use std::{net::IpAddr, rc::Rc};

use edge::{Verdict, rules::Judgement};
use http::HeaderValue;
use schema::Fault;

use crate::{request_id::RequestId, seen::Believed};

/// The account of one request.
#[derive(Default)]
pub(crate) struct Account {
    /// Its route, by index in the table.
    pub route: Option<usize>,
    /// The normal path; empty if it has none.
    pub path: String,
    /// Whose request it is, where that is known.
    pub source: Option<IpAddr>,
    /// Whose credential was believed, also where it was not enough.
    pub who: Option<Rc<Believed>>,
    /// What the request is called.
    pub request_id: RequestId,
    /// Of a rehearsal: whose credential is taken for believed.
    pub assumed: Option<Rc<Believed>>,
    /// What the route's policy said.
    pub judged: Option<Judgement>,
    /// What would have been said by the policy that is only tried.
    pub tried: Option<Judgement>,
    /// What its quota said.
    pub verdict: Option<Verdict>,
    /// `RateLimit` and `RateLimit-Policy`.
    pub quota: Option<(HeaderValue, HeaderValue)>,
    /// What was found wrong with it when it was looked into.
    pub faults: Vec<Fault>,
}
