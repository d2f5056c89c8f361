//! People: their records, passwords and sessions.
pub mod user;
pub use user::User;
