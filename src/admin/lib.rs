//! The administration API and declarative seeds.
//!
//! Read in this order: [`operations`] (the table of everything that can be asked), [`rest`] (the router made from it),
//! [`objects`] (the one way to change an administered object) with [`draft`], [`schema`], [`secrets`] and [`links`],
//! then [`revocations`], [`seed`] and [`openapi`].
#![recursion_limit = "256"]
mod actions;
mod api_keys;
mod backchannel;
mod call;
mod collections;
pub mod declared;
mod devices;
pub mod draft;
mod dry_run;
mod explanations;
pub mod json;
mod lifecycle;
pub mod limit_shapes;
pub mod links;
pub mod objects;
pub mod openapi;
pub mod operations;
mod problem;
mod reads;
mod rest;
pub mod revocations;
pub mod schema;
mod second_factor;
pub mod secrets;
pub mod seed;
mod shapes;
mod state;

pub use objects::{Failure, Objects};
pub use problem::Problem;
pub use rest::router;
pub use state::{Access, Actor, AdminAuth, AdminState, Explains, KeyControl, KeyRefused, Principal, Refused, Stats, StatsSource};

#[cfg(test)]
mod tests;
