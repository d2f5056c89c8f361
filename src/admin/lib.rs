//! The administration API and declarative seeds.
