//! What a page in Prometheus' text format exports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tidegate_stack::http::{self, Request};

/// A series' labels, and its value.
type Series = (BTreeMap<String, String>, f64);

/// Series of one page or of several: by name, each with its labels and its value.
#[derive(Debug, Default)]
pub struct Scraped(BTreeMap<String, Vec<Series>>);

impl Scraped {
    /// Adds a page.
    pub fn read(&mut self, address: SocketAddr, target: &str) -> Result<()> {
        let answer = http::send(address, &Request::get(target))?;
        ensure!(answer.status == 200, "{target} answered {}", answer.status);
        for line in answer.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("no value in {line}"))?;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| {
                let (key, value) = label.split_once("=\"")?;
                Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
            });
            let value = value.parse().with_context(|| format!("no number in {line}"))?;
            self.0.entry(name.to_owned()).or_default().push((labels.collect(), value));
        }
        Ok(())
    }

    /// The labels that some series of this name has; `None`: there is no series.
    pub fn labels(&self, name: &str) -> Option<BTreeSet<&str>> {
        let all = self.0.get(name)?;
        Some(all.iter().flat_map(|(labels, _)| labels.keys().map(String::as_str)).collect())
    }

    /// The value of `name{key="value",...}`, its labels in the order of their keys.
    pub fn value(&self, series: &str) -> Option<f64> {
        let (name, _) = series.split_once('{').unwrap_or((series, ""));
        self.0.get(name)?.iter().find(|(labels, _)| written(name, labels) == series).map(|(_, value)| *value)
    }

    /// Every series whose name `wanted` takes, as a person writes it.
    pub fn series(&self, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let some = self.0.iter().filter(|(name, _)| wanted(name));
        some.flat_map(|(name, all)| all.iter().map(|(labels, _)| written(name, labels))).collect()
    }
}

fn written(name: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}
