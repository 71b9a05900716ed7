//! The dashboard in a real Chromium, before a real Envoy with the filter that ships and the real admin service.
//!
//! `cargo xtask test --only browser` sets where those are; Chromium and its WebDriver server are found by
//! `tidegate_stack::chromium`. A scenario fails at its end if the browser's log has an error or a violation of the
//! Content-Security-Policy, or if a page asked another host for anything.

mod accessible;
mod all_pages;
mod bans;
mod browser;
mod chromium;
mod documents;
mod filled;
mod flags;
mod log;
mod odd_input;
mod part;
mod pictures;
mod roles;
mod rollouts;
mod scene;
mod sessions;
