//! The service as its clients see it: both listeners on free ports, a database of
//! its own in a temporary directory, and nothing in between that is made up.

mod auth;
mod bans;
mod bodies;
mod docs;
mod gateways;
mod refresh;
mod routes;
mod running;
mod state;
mod stopping;
