//! The API gateway: one file a phase.
