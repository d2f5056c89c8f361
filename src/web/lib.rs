//! The authorization server's HTTP surface: endpoints and pages.
//!
//! Read [`routes`] first (every path on one page), then [`app`] (what handlers share) and [`reply`] (how errors reach the wire).
//! A handler loads records, calls one decision of `protocol`, applies its change in one transaction, and answers.
pub mod account;
pub mod app;
pub mod catalog;
pub mod cookies;
pub(crate) mod credential;
pub mod csrf;
pub(crate) mod documents;
pub mod limits;
pub mod logout_delivery;
pub mod oauth;
pub mod pages;
pub(crate) mod ping;
mod policies;
pub mod quick;
pub mod relying;
pub mod reply;
pub mod routes;
pub mod sessions;
pub mod signals;
mod summary;
pub mod wire;

pub use app::{App, Parts, Peer};
pub use oauth::discovery::ready;
pub use routes::router;
