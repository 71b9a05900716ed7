//! What the service counts of itself, and pages of figures in the text format that
//! Prometheus reads (OpenMetrics 1.0). Nothing in them is made from what a client
//! sends: labels have values of fixed sets.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The media type of a page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// Where a request came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// The people's.
    People,
    /// The gateways'.
    Gateways,
}

/// What is counted as it happens. A clone counts into the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Arc<Family<Labels, Counter>>,
}

impl Metrics {
    /// A request was answered; `endpoint` is the pattern of its path, empty where there
    /// is none.
    pub fn answered(&self, listener: Listener, method: &Method, endpoint: &str, status: StatusCode) {
        let listener = match listener {
            Listener::People => "people",
            Listener::Gateways => "gateways",
        };
        let class = match status.as_u16() {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let labels = vec![
            ("listener", listener.into()),
            ("method", known(method).into()),
            ("endpoint", Cow::Owned(if endpoint.is_empty() { "none" } else { endpoint }.to_owned())),
            ("class", class.into()),
        ];
        self.requests.get_or_create(&labels).inc();
    }

    /// Those counts.
    pub fn requests(&self) -> Family<Labels, Counter> {
        Family::clone(&self.requests)
    }
}

/// The method, if it is one that anything here takes: clients may make up others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Figures as they are at one moment.
#[derive(Default)]
pub struct Page(Registry);

impl Page {
    /// Adds something that counts by itself. A counter's name gets `_total`.
    pub fn metric(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// Adds a figure that only grows; its name gets `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.metric(name, help, ConstCounter::new(value));
    }

    /// Adds figures that only grow, told apart by labels.
    pub fn counters<const L: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; L],
        values: impl IntoIterator<Item = ([&'static str; L], u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (at, value) in values {
            family.get_or_create(&labelled(labels, at)).inc_by(value);
        }
        self.metric(name, help, family);
    }

    /// Adds a figure that goes up and down.
    #[expect(clippy::cast_precision_loss, reason = "over 2^53 the last digits do not matter")]
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.fraction(name, help, value as f64);
    }

    /// Adds a figure that need not be whole.
    pub fn fraction(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.metric(name, help, ConstGauge::new(value));
    }

    /// Adds whether something is so.
    pub fn whether(&mut self, name: &'static str, help: &'static str, value: bool) {
        self.gauge(name, help, value.into());
    }

    /// Adds figures that go up and down, told apart by a label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, usize)>,
    ) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (at, value) in values {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            family.get_or_create(&labelled([label], [at])).set(value);
        }
        self.metric(name, help, family);
    }

    /// Adds a text, as the label of a 1; its name gets `_info`.
    pub fn text(&mut self, name: &'static str, help: &'static str, label: &'static str, text: String) {
        self.metric(name, help, Info::new(vec![(label, text)]));
    }

    /// The page as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut page, &self.0);
        page
    }
}

fn labelled<const L: usize>(labels: [&'static str; L], values: [&'static str; L]) -> Labels {
    labels.into_iter().zip(values.map(Cow::Borrowed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_clients_make_up_share_a_label() {
        let metrics = Metrics::default();
        for method in ["GET", "BREW", "MELT"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            metrics.answered(Listener::People, &method, "", StatusCode::NOT_FOUND);
        }
        let mut page = Page::default();
        page.metric("requests", "help", metrics.requests());
        let text = page.encode();
        let line = |method: &str, count: u32| {
            format!(
                "requests_total{{listener=\"people\",method=\"{method}\",endpoint=\"none\",class=\"4xx\"}} {count}\n"
            )
        };
        assert!(text.contains(&line("GET", 1)) && text.contains(&line("other", 2)), "{text}");
        assert!(!text.contains("BREW"), "{text}");
    }
}
