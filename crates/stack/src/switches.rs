//! Faults in front of the admin service, switched while a stack runs, through Envoy's
//! runtime: for stacks that were started with [`Faults`](crate::faults::Faults).

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::faults::{Call, STAT_PREFIX};
use crate::http::{self, Method, Request};
use crate::stack::Stack;
use crate::wait;

impl Stack {
    /// From now on this share of the calls, in percent, is answered with `status`
    /// and a body that nobody expects, and does not reach the admin service.
    /// 0: none.
    ///
    /// # Errors
    /// The stack was started without [`Faults`], or Envoy does not answer.
    pub fn abort_calls(&self, call: Call, percent: u8, status: u16) -> Result<()> {
        self.set_runtime(&[
            (call.key("abort_status"), status.into()),
            (call.key("abort_percent"), percent.into()),
        ])
    }

    /// From now on every such call takes this much longer. Zero: none does.
    ///
    /// # Errors
    /// The stack was started without [`Faults`], or Envoy does not answer.
    pub fn delay_calls(&self, call: Call, by: Duration) -> Result<()> {
        let percent = if by.is_zero() { 0 } else { 100 };
        let millis = u64::try_from(by.as_millis()).context("a delay of ages")?;
        self.set_runtime(&[(call.key("delay_ms"), millis.max(1)), (call.key("delay_percent"), percent)])
    }

    /// From now on the gate's tables stay as they are, flags included, whatever the
    /// database says, until [`Stack::thaw_tables`]. The gate counts as lost
    /// meanwhile, and nothing that is waited for is applied.
    ///
    /// # Errors
    /// The stack was started without [`Faults`], or the gate goes on polling.
    pub fn freeze_tables(&self) -> Result<()> {
        let aborted = || -> Result<u64> {
            let name = format!("http.{STAT_PREFIX}.fault.aborts_injected");
            Ok(self.stats()?.get(&name).unwrap_or(0))
        };
        let before = aborted()?;
        self.abort_calls(Call::Sync, 100, 503)?;
        // The poll that is open still carries the next change: one that changes no
        // decision, so that the poll after it is the first refused one.
        self.sql()?.run(&format!(
            "INSERT OR REPLACE INTO ip_monitor (ip, status, updated_at) \
             VALUES ('{WATCHED}', 'watched', strftime('%Y-%m-%d %H:%M:%f', 'now'))"
        ))?;
        wait::until("a poll of the gate is refused", Duration::from_secs(30), || {
            Ok((aborted()? > before).then_some(()))
        })
    }

    /// Ends what [`Stack::freeze_tables`] began; the tables follow within seconds.
    ///
    /// # Errors
    /// As [`Stack::abort_calls`].
    pub fn thaw_tables(&self) -> Result<()> {
        self.abort_calls(Call::Sync, 0, 503)
    }

    fn set_runtime(&self, values: &[(String, u64)]) -> Result<()> {
        ensure!(self.options().faults.is_some(), "this stack was started without Options.faults");
        let query: Vec<_> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let request = Request::new(Method::POST, &format!("/runtime_modify?{}", query.join("&")));
        let answer = http::send(self.envoy_admin(), &request)?;
        if answer.status != 200 {
            bail!("Envoy's /runtime_modify answered {}: {}", answer.status, answer.text());
        }
        Ok(())
    }
}

/// An address of documentation that no test sends from.
const WATCHED: &str = "192.0.2.255";
