//! Envoy's counters and gauges, as its admin interface tells them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::http::{self, Request};

/// Counters and gauges by name, at one moment. Histograms and texts are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// Reads them from Envoy's admin interface.
    ///
    /// # Errors
    /// It does not answer.
    pub fn read(envoy_admin: SocketAddr) -> Result<Self> {
        let answer = http::send(envoy_admin, &Request::get("/stats"))?;
        ensure!(answer.status == 200, "Envoy's /stats answered {}", answer.status);
        Ok(Self::parse(&answer.text()))
    }

    fn parse(text: &str) -> Self {
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(values.collect())
    }

    /// One value; `None`: Envoy does not have it (yet).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// The sum over all names that `wanted` takes.
    pub fn sum(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        self.matching(wanted).map(|(_, value)| value).sum()
    }

    /// All names that `wanted` takes, with their values, in order.
    pub fn matching(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().filter(move |(name, _)| wanted(name)).map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_the_rest_is_left() {
        let stats = Stats::parse("a.b: 3\nlistener.[::1]_80.x: 4\nh: P0(nan,1)\nt: \"text\"\n");
        assert_eq!(
            (stats.get("a.b"), stats.get("listener.[::1]_80.x"), stats.get("h")),
            (Some(3), Some(4), None)
        );
        assert_eq!(stats.sum(|name| name.ends_with('x') || name.ends_with('b')), 7);
    }
}
