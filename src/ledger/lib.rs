//! The spine: a state change, its events, and everything that reads them.
//!
//! Read in this order: [`change`] (what a decision asks of the database, as data), [`store`] (the port that
//! applies it in one transaction), [`event`] and [`chain`] (the append-only log written by that same
//! transaction), [`revocation`] (what every edge holds in memory), [`record`] and [`object`] (the rows).
pub mod chain;
pub mod change;
pub mod event;
pub mod listing;
pub mod object;
pub mod record;
pub mod revocation;
pub mod store;

pub use change::{Change, Guarded, Outcome, Step};
pub use event::{Event, EventKind, NewEvent};
pub use listing::Listings;
pub use object::{Mistake, Object, ObjectKind, Record};
pub use record::{Artefact, ArtefactKind, Consent, Grant, KeyRow, KeyState, Session};
pub use revocation::{Facts, Revocation, RevocationKind, RevocationSet};
pub use store::{Committed, Listener, Page, Store, StoreError};
