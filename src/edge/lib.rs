//! Routes and admission as data and decisions.
