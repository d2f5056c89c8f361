//! Authorization policy.
