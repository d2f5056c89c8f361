//! Counters in this process: those of the edge.
pub use edge::memory::Memory;
