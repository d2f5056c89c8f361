//! What a token is and how one is believed.
pub mod clock;
pub use clock::{Clock, Entropy};
