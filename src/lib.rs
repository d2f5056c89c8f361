//! Doorward: an authorization server and an API gateway in one binary. This package joins the wings.
//!
//! Read in this order: [`cli`] (what can be asked), [`config`] (what can be chosen), [`foundation`] (database, keys, revocations),
//! [`server`] (where the wings meet), [`serve`] and [`listen`] (a running process), [`jobs`] (the clock-driven work).
pub mod cli;
pub mod clock;
pub mod config;
mod descriptors;
pub mod devices;
pub mod explain;
pub mod foundation;
pub mod inward;
pub mod jobs;
pub mod key_uses;
pub mod keys;
pub mod listen;
mod log_bounds;
pub mod logins;
pub mod observer;
pub mod operations;
pub mod own_tokens;
pub mod priority;
pub mod proxied;
pub mod quickstart;
pub mod readiness;
pub mod restored;
pub mod routes;
pub mod routes_file;
pub mod scoped;
pub mod serve;
pub mod server;
pub mod settled;
pub mod telemetry;
pub mod tls;
