//! People and devices: their records; passwords and sessions.
pub mod device;
pub mod password;
pub mod session;
pub mod throttle;
pub mod totp;
pub mod user;
pub use device::Device;
pub use user::User;
