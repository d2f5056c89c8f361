//! Authorization policy over Cedar: one question, one decision, asked by the gateway's routes and by the AuthZEN endpoint alike.
//!
//! Read in this order: [`record`] (a policy as an administrator writes it), [`compiled`] (all of them, ready to be asked),
//! [`question`] (who wants to do what to what), [`authzen`] (the same questions as the AuthZEN Authorization API asks them).
//!
//! Nothing is allowed that no policy allows; a policy that forbids wins; a policy that fails to evaluate decides nothing
//! and is told of in the [`Verdict`].
pub mod authzen;
pub mod compiled;
pub mod question;
pub mod record;
pub mod shape;

pub use compiled::{Compiled, Verdict};
pub use question::{Being, Question};
pub use record::Policy;
