//! Destination and format of log lines.

use anyhow::Context;
use tracing_subscriber::{EnvFilter, reload};

/// Format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, which may change while the program runs.
pub struct LogFilter(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error>>);

/// Starts logging to standard error.
///
/// # Errors
/// When `filter` is none.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<LogFilter> {
    let lines = tracing_subscriber::fmt().with_env_filter(parse(filter)?).with_writer(std::io::stderr);
    Ok(LogFilter(match format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let lines = lines.with_ansi(is_terminal).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let lines = lines.json().with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |filter| handle.reload(filter))
        }
    }))
}

impl LogFilter {
    /// Logs what `filter` says from now on.
    ///
    /// # Errors
    /// When it is none.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        Ok((self.0)(parse(filter)?)?)
    }
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter}: write `info`, or `warn,tidegate_admin=debug`"))
}
