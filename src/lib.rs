//! Joins the wings.
