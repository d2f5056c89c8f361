//! Routes and admission as data and decisions.
pub mod limit;
