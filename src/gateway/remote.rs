//! A gateway process of its own.
