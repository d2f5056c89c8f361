//! The authorization server's HTTP surface: endpoints and pages.
