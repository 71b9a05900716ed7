//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::MAX_BAN_BASE;
use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use crate::serve::{Config, Service, limits};
use crate::store::sqlite::Options;

/// Options of `tidegate serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// The database, a SQLite file; it is created if it does not exist.
    #[arg(long, env = "TIDEGATE_DB", value_name = "PATH", default_value = "tidegate.db")]
    db: PathBuf,
    /// Address of the API for people (tokens of the roles `read`, `operate` and `admin`).
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9070")]
    listen: SocketAddr,
    /// Address for gateways: tables and events (tokens of the role `gateway`).
    #[arg(long, env = "TIDEGATE_GATEWAY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9071")]
    gateway_listen: SocketAddr,
    /// Allow addresses other than loopback. There is no TLS: whoever can read the network can
    /// read the tokens.
    #[arg(long, env = "TIDEGATE_ALLOW_PUBLIC", value_parser = clap::builder::FalseyValueParser::new())]
    allow_public: bool,
    /// Bytes that events may take in the database; beyond that the oldest are removed. Bans, routes
    /// and the log of their changes come on top.
    #[arg(long, env = "TIDEGATE_EVENTS_MAX_BYTES", value_name = "BYTES", default_value_t = Options::default().events_max_bytes)]
    events_max_bytes: u64,
    /// A name in backendRefs for which the gateways' Envoys have a cluster; may be repeated. With
    /// at least one, routes that name another backend cause a warning.
    #[arg(long = "cluster", env = "TIDEGATE_CLUSTERS", value_name = "NAME", value_delimiter = ',')]
    clusters: Vec<String>,
    /// A network that bans by the API spare unless they say `force`, besides loopback and the
    /// addresses that gateways connect from; may be repeated.
    #[arg(long, env = "TIDEGATE_PROTECT", value_name = "CIDR", value_delimiter = ',')]
    protect: Vec<Prefix>,
    /// A directory with the files `admin-token` and `gateway-token`, whose content becomes a
    /// token of that role. A missing file is written with a new token.
    #[arg(long, env = "TIDEGATE_TOKENS", value_name = "DIR")]
    tokens: Option<PathBuf>,
    /// Format of log lines.
    #[arg(long, env = "TIDEGATE_LOG_FORMAT", value_enum, default_value_t = logging::LogFormat::Text)]
    log_format: logging::LogFormat,
    /// What is logged: a level, or directives like `warn,tidegate_admin=debug`.
    #[arg(long, env = "TIDEGATE_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs the service until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: an address is taken, another service has the database, a token is
/// invalid.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    logging::init(args.log_format, &args.log)?;
    for (option, address) in [("--listen", args.listen), ("--gateway-listen", args.gateway_listen)] {
        let public = !address.ip().is_loopback();
        anyhow::ensure!(
            args.allow_public || !public,
            "{option} {address} is not loopback, and there is no TLS; add --allow-public if that network is trusted"
        );
    }
    let config = Config {
        db: args.db.clone(),
        people: args.listen,
        gateways: args.gateway_listen,
        store: Options { events_max_bytes: args.events_max_bytes, ..Options::default() },
        clusters: args.clusters.iter().cloned().collect(),
        protect: args.protect.clone(),
        tokens: args.tokens.clone(),
        table_limit: MAX_BAN_BASE,
    };
    limits::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // The signal handlers are installed before the service starts: a signal during the start
        // stops it, too.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // At a limit on the size of files a write fails, which health says. Without a handler the
        // signal would end the process.
        let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        let service = tokio::select! {
            service = Service::start(config) => service?,
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
        };
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        service.stop().await.context("stop")?;
        tracing::info!("stopped");
        Ok(())
    })
}
