//! The dashboard: pages that the admin service serves under `/ui/`, made on the server.
//!
//! It is a client of the admin API within the process ([`api`]): what a page shows is what the API answers, and
//! what a form does is a request of the API, so roles, checks, audit and errors are the API's. The crate knows
//! neither the database nor the service.
//!
//! From the ground up: [`show`] (how a time, a number or a text of somebody else is written), [`chart`], [`api`],
//! [`session`], [`dashboard`] (what pages share), [`html_document`], [`error`], [`visitor`] (who asks), [`body`], [`form`],
//! [`file_form`], [`page`] (what is around each page), [`timeline`], [`editor`], [`stream`], [`pages`], [`live`] (their parts, again
//! and again), [`sign_in`], [`router`].

mod answers;
pub mod api;
mod assets;
mod body;
mod chart;
mod dashboard;
mod editor;
mod enforced;
mod error;
mod file_form;
mod flag_state;
mod form;
mod html_document;
mod live;
mod page;
mod pager;
mod pages;
mod part;
mod query;
mod redirect;
mod role;
mod router;
mod session;
mod show;
mod sign_in;
mod stream;
mod timeline;
mod visitor;

pub use api::{Answer, ApiService, Caller, SignIn, TokenHash};
pub use dashboard::Dashboard;
pub use router::router;
pub use session::{LINK_FOR, NotBegun, Sessions};
