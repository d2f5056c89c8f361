//! OAuth and OpenID Connect as decisions: `(records, request, settings, now) -> Result<Outcome, Error>`. No I/O, no clock.
pub mod client;
pub mod resource;
pub mod settings;
pub mod stored;

pub use client::Client;
pub use resource::ResourceServer;
pub use settings::Settings;
