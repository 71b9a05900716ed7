//! The service through its API: both listeners on free ports, and a database of its own in a
//! temporary directory. Nothing is replaced by a double.

mod allow_list;
mod audit;
mod auth;
mod backends;
mod backup;
mod bans;
mod bodies;
mod check;
mod command_line;
mod commands;
mod connections;
mod docs;
mod explain;
mod file_limits;
mod flags;
mod formats;
mod gateways;
mod geo;
mod health;
mod limits;
mod listeners;
mod metrics;
mod named_documents;
mod recording;
mod refresh;
mod roles;
mod route_files;
mod routes;
mod stopping;
mod synchronous_recording;
mod test_gateway;
mod test_process;
mod test_service;
mod tokens;
