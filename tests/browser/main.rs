//! The whole way of a page: Debian's Chromium, Apache as the portal has it, a
//! user's nginx and an app behind mutual TLS.
#![allow(
    clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr
)]
#![forbid(unsafe_code)]

mod app;
mod confined;
mod cross_site;
mod desktop;
mod error_pages;
mod jupyter;
mod pages;
mod portal;
mod starting;
mod webdriver;
