//! OAuth and OpenID Connect as decisions: `(records, request, settings, now) -> Result<Outcome, Error>`. No I/O, no clock.
//!
//! Read in this order: [`client`], [`resource`] and [`stored`] (the records), [`form`] and [`client_auth`] (who asks, what for),
//! [`grants`] (what they get), [`issue`] (what it looks like), [`error`] (the one table of what they hear instead).
pub mod acr;
pub mod authorize;
pub mod backchannel_logout;
pub mod ciba;
pub mod client;
pub mod client_auth;
pub mod consent;
pub mod discovery;
mod engine;
pub mod error;
pub mod evidence;
pub mod form;
pub mod frontchannel_logout;
pub mod grants;
pub mod id_token;
pub mod introspect;
pub mod introspect_jwt;
pub mod issue;
pub mod logout;
pub mod pairwise;
pub mod policy;
pub mod registration;
pub mod resource;
pub mod revoke;
pub mod scope;
pub mod session_state;
pub mod settings;
pub mod signals;
pub mod signing;
pub mod status_list;
pub mod stored;
pub mod userinfo;
pub mod visible;

pub use client::Client;
pub use client_auth::AuthenticatedClient;
pub use error::{Code, OAuthError};
pub use evidence::Evidence;
pub use form::Form;
pub use resource::ResourceServer;
pub use scope::Scope;
pub use settings::{Profile, Settings};
