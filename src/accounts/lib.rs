//! People: their records, passwords and sessions.
pub mod password;
pub mod session;
pub mod throttle;
pub mod totp;
pub mod user;
pub use user::User;
