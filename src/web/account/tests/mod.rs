//! The pages as a browser meets them.
mod browser;
mod carried;
mod login;
mod logout;
mod races;
mod store;
