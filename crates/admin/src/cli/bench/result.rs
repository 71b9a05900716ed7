//! The result of a measurement, and the file that it is saved in.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::times::Times;
use crate::cli::targets::{RequestTargets, Target};

/// The form of the file.
const FORMAT: &str = "tidegate-bench/1";
/// The kind of load.
const CLOSED: &str = "closed";

/// What a load showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchResult {
    /// [`FORMAT`].
    pub(super) format: String,
    /// `closed`: each connection sends its next request when the last one is answered.
    #[serde(rename = "loop")]
    pub(super) kind: String,
    /// What was asked.
    pub url: String,
    /// The host that was asked for, if it is another one than the URL's.
    pub host: Option<String>,
    /// When it began.
    pub began: String,
    /// How long it took.
    pub seconds: f64,
    /// Connections.
    pub connections: u64,
    /// Requests that were sent, or should have been.
    pub requests: u64,
    /// Whether the time was over before the number was reached.
    pub stopped_by_time: bool,
    /// Requests without a complete answer.
    pub errors: BTreeMap<ErrorKind, ErrorsOfKind>,
    /// Complete answers by status.
    pub status: BTreeMap<u16, u64>,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// Complete answers in a second.
    pub(super) requests_per_second: Option<f64>,
    /// Answers with a status below 400, of all requests, percent.
    pub(super) success_percent: Option<f64>,
    /// Times of complete answers, with connecting where it was needed.
    pub latency: Times,
    /// What the gate said of its own times, by part.
    pub gate: BTreeMap<String, Times>,
    /// How much of a processor the load itself used, at most 1; `null`: not known.
    pub load_cpu: Option<f64>,
    /// Whether the targets are met; `null`: not asked.
    pub targets: Option<Vec<Judged>>,
}

/// What a request without a complete answer failed at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Nobody took the connection.
    Connect,
    /// TLS failed.
    Tls,
    /// It took too long.
    Timeout,
    /// The connection broke before the answer was complete, or the answer was not HTTP.
    Broken,
}

impl ErrorKind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
        }
    }
}

/// Errors of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorsOfKind {
    /// How many.
    pub count: u64,
    /// The first of one connection, in words.
    pub first: String,
}

/// A figure beside its target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// `p50`, `p95`, `p99` or `success`.
    pub figure: String,
    /// As it was measured, with its unit; `-`: it was not.
    pub value: String,
    /// What it has to be.
    pub target: String,
    /// Whether it is.
    pub met: bool,
}

impl Default for BenchResult {
    fn default() -> Self {
        Self {
            format: FORMAT.to_owned(),
            kind: CLOSED.to_owned(),
            url: String::new(),
            host: None,
            began: String::new(),
            seconds: 0.0,
            connections: 0,
            requests: 0,
            stopped_by_time: false,
            errors: BTreeMap::new(),
            status: BTreeMap::new(),
            bytes: 0,
            requests_per_second: None,
            success_percent: None,
            latency: Times::new(),
            gate: BTreeMap::new(),
            load_cpu: None,
            targets: None,
        }
    }
}

impl BenchResult {
    /// Complete answers.
    pub fn answers(&self) -> u64 {
        self.status.values().sum()
    }

    /// Requests that were answered with a status below 400.
    pub fn successes(&self) -> u64 {
        self.status.range(..400).map(|(_, count)| count).sum()
    }

    /// Their share of all requests; `None`: there were none.
    pub fn success(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.successes() as f64 / self.requests as f64)
    }

    /// Complete answers in a second; `None`: it took no time.
    pub fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.answers() as f64 / self.seconds)
    }

    /// The same with the figures that follow from others.
    #[must_use]
    pub fn with_derived(mut self) -> Self {
        self.requests_per_second = self.rate();
        self.success_percent = self.success().map(|share| share * 100.0);
        self
    }

    /// Compares the figures with targets.
    pub fn judge(&mut self, targets: &RequestTargets) {
        let ms = |share| self.latency.quantile(share);
        let figures = [
            ("p50", ms(0.5), Target::UnderMs(targets.p50)),
            ("p95", ms(0.95), Target::UnderMs(targets.p95)),
            ("p99", ms(0.99), Target::UnderMs(targets.p99)),
            ("success", self.success().map(|share| share * 100.0), Target::OverPercent(targets.success)),
        ];
        let judged = figures.map(|(figure, value, target)| Judged {
            figure: figure.to_owned(),
            value: value.map_or_else(|| "-".to_owned(), |value| target.shown(value)),
            target: target.to_string(),
            met: value.is_some_and(|value| target.is_met(value)),
        });
        self.targets = Some(judged.into());
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let text = format!("{}\n", serde_json::to_string(self)?);
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When the file cannot be read or has another form. The message names the field.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::of_text(&text)
            .with_context(|| format!("{} is no result of `tidegate bench --save`", file.display()))
    }

    fn of_text(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text).context("it is no JSON")?;
        for (field, wanted) in [("format", FORMAT), ("loop", CLOSED)] {
            match value.get(field) {
                Some(found) if found == wanted => {}
                Some(found) => bail!("`{field}` is {found}, and should be \"{wanted}\""),
                None => bail!("`{field}` is missing, and should be \"{wanted}\""),
            }
        }
        let result: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            match error.path().to_string().as_str() {
                "." => anyhow!("{}", error.inner()),
                path => anyhow!("`{path}`: {}", error.inner()),
            }
        })?;
        let (answers, times) = (result.answers(), result.latency.count());
        if answers != times {
            bail!("`latency.count` is {times}, and `status` has {answers} answers");
        }
        let errors: u64 = result.errors.values().map(|of| of.count).fold(0, u64::saturating_add);
        if answers.checked_add(errors) != Some(result.requests) {
            bail!("`requests` is {}, and there are {answers} answers and {errors} errors", result.requests);
        }
        Ok(result)
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A result with these times of answers 200, microseconds.
    pub fn of_times(us: impl IntoIterator<Item = u64>) -> BenchResult {
        let mut result = BenchResult { seconds: 1.0, connections: 2, ..BenchResult::default() };
        us.into_iter().for_each(|us| result.latency.add(us));
        result.requests = result.latency.count();
        result.status = [(200, result.requests)].into();
        result.with_derived()
    }

    #[test]
    fn what_is_saved_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        let mut result = of_times([1_000, 2_000, 200_000]);
        result.judge(&RequestTargets { p50: 90.0, p95: 130.0, p99: 250.0, success: 99.9 });
        result.requests += 1;
        result.errors.insert(ErrorKind::Timeout, ErrorsOfKind { count: 1, first: "late".to_owned() });
        result.save(&file).unwrap();
        let read = BenchResult::read(&file).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&result).unwrap());
        let met: Vec<bool> = read.targets.unwrap().iter().map(|judged| judged.met).collect();
        assert_eq!(met, [true, false, true, true]);
    }

    #[test]
    fn no_answer_meets_no_target() {
        let mut result = BenchResult::default();
        result.judge(&RequestTargets { p50: 90.0, p95: 130.0, p99: 180.0, success: 99.9 });
        assert!(result.targets.unwrap().iter().all(|judged| !judged.met && judged.value == "-"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let right = serde_json::to_value(of_times([1_000])).unwrap();
        let wrong = |change: &dyn Fn(&mut Value), named: &str| {
            let mut value = right.clone();
            change(&mut value);
            let error = BenchResult::of_text(&value.to_string()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}, not {named}");
        };
        wrong(&|it| it["format"] = json!("oha/1"), "`format` is \"oha/1\"");
        wrong(&|it| drop(it.as_object_mut().unwrap().remove("format")), "`format` is missing");
        wrong(&|it| it["loop"] = json!("open"), "`loop`");
        wrong(&|it| drop(it.as_object_mut().unwrap().remove("latency")), "missing field `latency`");
        wrong(&|it| it["connections"] = json!(-1), "`connections`");
        wrong(&|it| it["latency"]["histogram_us"] = json!([[1]]), "`latency");
        wrong(&|it| it["status"] = json!({"OK": 1}), "`status");
        wrong(&|it| it["errors"] = json!({"lost": {"count": 1, "first": ""}}), "`errors");
        wrong(&|it| it["status"] = json!({"200": 2}), "`latency.count` is 1");
        wrong(&|it| it["requests"] = json!(7), "`requests` is 7");
        wrong(&|it| it["more"] = json!(1), "unknown field `more`");
        assert!(BenchResult::of_text("[]").unwrap_err().to_string().contains("`format` is missing"));
        assert!(BenchResult::of_text("{").unwrap_err().to_string().contains("no JSON"));
    }
}
