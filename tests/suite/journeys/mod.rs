//! Stories from a person's side, in a real browser.
mod browser;
mod entrance;
mod origins;
mod sessions;
