//! The pages as a browser meets them.
mod browser;
mod login;
mod logout;
mod races;
mod store;
