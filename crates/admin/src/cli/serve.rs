//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::MAX_BAN_BASE;
use tokio::signal::unix::{SignalKind, signal};

use super::logging::{self, LogFilter};
use super::tls_args::TlsArgs;
use super::{Command, settings};
use crate::serve::{Config, Service, limits};
use crate::store::sqlite::Options;

/// Options of `tidegate serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// A file with settings that count where neither the command line nor the environment says
    /// otherwise: TOML, with the options' names (`gateway_listen = "127.0.0.1:9071"`). `tidegate
    /// config` prints them all.
    #[arg(long = "config", env = "TIDEGATE_SERVE_CONFIG", value_name = "PATH")]
    serve_config: Option<PathBuf>,
    /// The database, a SQLite file; it is created if it does not exist.
    #[arg(long, env = "TIDEGATE_DB", value_name = "PATH", default_value = "tidegate.db")]
    db: PathBuf,
    /// Address of the API for people (tokens of the roles `read`, `operate` and `admin`).
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9070")]
    listen: SocketAddr,
    /// Address for gateways: tables and events (tokens of the role `gateway`).
    #[arg(long, env = "TIDEGATE_GATEWAY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9071")]
    gateway_listen: SocketAddr,
    /// Allow listeners without TLS at addresses other than loopback: whoever can read the network
    /// there can read the tokens.
    #[arg(
        long,
        alias = "allow-public",
        env = "TIDEGATE_INSECURE_LISTEN",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    insecure_listen: bool,
    #[command(flatten)]
    tls: TlsArgs,
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
    /// token of that role. A missing directory is made, and a missing file written with
    /// a new token.
    #[arg(long, env = "TIDEGATE_TOKENS", value_name = "DIR")]
    tokens: Option<PathBuf>,
    /// A directory with the files that sources of bans name: lists (`path`), and keys (`credentials`). Sources
    /// can name no others.
    #[arg(long, env = "TIDEGATE_SOURCE_FILES", value_name = "DIR")]
    source_files: Option<PathBuf>,
    /// Format of log lines.
    #[arg(long, env = "TIDEGATE_LOG_FORMAT", value_enum, default_value_t = logging::LogFormat::Text)]
    log_format: logging::LogFormat,
    /// What is logged: a level, or directives like `warn,tidegate_admin=debug`.
    #[arg(long, env = "TIDEGATE_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs the service until SIGTERM or SIGINT; SIGHUP makes it read its files again.
///
/// # Errors
/// When it cannot start: an address is taken, another service has the database, a token or a
/// certificate is invalid.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let log = logging::init(args.log_format, &args.log)?;
    let tls = args.tls.files()?;
    for (option, address, has_tls) in [
        ("--listen", args.listen, tls.people.is_some()),
        ("--gateway-listen", args.gateway_listen, tls.gateways.is_some()),
    ] {
        anyhow::ensure!(
            has_tls || args.insecure_listen || address.ip().is_loopback(),
            "{option} {address} is not loopback, and has no TLS; give it a certificate (`--{}tls-cert` and \
             `--{0}tls-key`), or add --insecure-listen if that network is trusted",
            option.trim_start_matches("--").trim_end_matches("listen")
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
        source_files: args.source_files.clone(),
        table_limit: MAX_BAN_BASE,
        tls,
    };
    limits::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // The signal handlers are installed before the service starts: a signal during the start
        // stops it, too.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        // At a limit on the size of files a write fails, which health says. Without a handler the
        // signal would end the process.
        let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        let service = tokio::select! {
            service = Service::start(config) => service?,
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
        };
        let name = loop {
            tokio::select! {
                _ = term.recv() => break "SIGTERM",
                _ = int.recv() => break "SIGINT",
                _ = hangup.recv() => {
                    tracing::info!(signal = "SIGHUP", "reading files again");
                    if let Err(error) = args.log_again(&log) {
                        tracing::error!("what is logged stays as it was: {error:#}");
                    }
                    service.reload().await;
                }
            }
        };
        tracing::info!(signal = name, "stopping");
        service.stop().await.context("stop")?;
        tracing::info!("stopped");
        Ok(())
    })
}

impl ServeArgs {
    /// Reads the settings again, and logs what they say by now.
    fn log_again(&self, log: &LogFilter) -> anyhow::Result<()> {
        let args: Vec<_> = std::env::args_os().collect();
        let Command::Serve(again) = settings::parse(&args)?.cli.command else { return Ok(()) };
        log.set(&again.log)?;
        if format!("{:?}", Self { log: self.log.clone(), ..again }) != format!("{self:?}") {
            tracing::warn!("settings besides `log` have changed: they count from the next start on");
        }
        Ok(())
    }
}
