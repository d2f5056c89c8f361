//! Routes and admission as data and decisions.
//!
//! Read in this order: [`route`], [`upstream`] and [`issuer`] (what an administrator writes), [`table`] (all of it, checked
//! and ready), [`framing`], [`host`], [`path`] and [`headers`] (what a request may look like), [`forwarded`], [`credentials`] and
//! [`identity`] (who calls), [`admission`] (whether it may), [`limit`] (how often), [`refusal`] (what is said if not),
//! [`version`] and [`version_match`] (how an API ends), [`canary`] (who tries its next upstream).
pub mod admission;
pub mod api_key;
pub mod assertion;
pub mod balance;
pub mod bounds;
pub mod breaker;
pub mod canary;
pub mod certificate;
pub mod cors;
pub mod credentials;
pub mod exchange;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod host;
pub mod id_token;
pub mod identity;
pub mod introspection;
pub mod issuer;
pub mod limit;
pub mod login;
pub mod memory;
pub mod path;
pub mod rate;
pub mod refusal;
pub mod resilience;
pub mod route;
pub mod rules;
pub mod session;
pub mod step_up;
pub mod table;
pub mod upstream;
pub mod upstream_tls;
pub mod validation;
pub mod version;
pub mod version_match;

pub use admission::Permit;
pub use issuer::TrustedIssuer;
pub use limit::{Counters, Quota, Verdict, gcra};
pub use refusal::Refusal;
pub use route::Route;
pub use table::RouteTable;
pub use upstream::Upstream;
