//! What a gate says of its own times: the headers `x-performance-*`, or `Server-Timing` where those were removed on the
//! way.

use std::collections::BTreeMap;

use hyper::HeaderMap;

use super::times::Times;

/// What the gate times, with the headers: `total` is until the response's headers, and has the upstream's time in it.
const PARTS: [(&str, &str); 5] = [
    ("total", "x-performance-total"),
    ("route", "x-performance-route"),
    ("ip", "x-performance-ip"),
    ("geo", "x-performance-geo"),
    ("recording", "x-performance-recording"),
];
/// The checks and recording together, for each request: what the gate adds, at most, as checks that are asked at once
/// take each other's time.
pub const OWN: &str = "own";

/// Adds what one response says. Responses without all of it say nothing.
pub fn add(times: &mut BTreeMap<String, Times>, headers: &HeaderMap) {
    let said = PARTS.map(|(name, header)| {
        headers.get(header).and_then(|value| microseconds(value.to_str().ok()?)).map(|us| (name, us))
    });
    let said = all(said).or_else(|| all(PARTS.map(|(name, _)| Some((name, server_timing(headers, name)?)))));
    let Some(said) = said else { return };
    let own = said.iter().filter(|(name, _)| *name != "total").map(|(_, us)| us).sum();
    for (name, us) in said.into_iter().chain([(OWN, own)]) {
        times.entry(name.to_owned()).or_insert_with(Times::new).add(us);
    }
}

fn all<T, const N: usize>(of: [Option<T>; N]) -> Option<Vec<T>> {
    of.into_iter().collect()
}

/// A metric's duration in `Server-Timing` (W3C): the last one, as the gate adds its line behind others.
fn server_timing(headers: &HeaderMap, name: &str) -> Option<u64> {
    let lines = headers.get_all("server-timing").iter().filter_map(|line| line.to_str().ok());
    let metrics = lines.flat_map(|line| line.split(','));
    let mut durations = metrics.filter_map(|metric| {
        let mut parts = metric.split(';').map(str::trim);
        (parts.next() == Some(name)).then_some(())?;
        microseconds(parts.find_map(|part| part.strip_prefix("dur="))?)
    });
    durations.next_back()
}

/// Milliseconds as text.
fn microseconds(text: &str) -> Option<u64> {
    let ms: f64 = text.trim().parse().ok()?;
    (ms >= 0.0 && ms.is_finite()).then(|| (ms * 1_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(headers: &[(&'static str, &str)]) -> BTreeMap<String, f64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut times = BTreeMap::new();
        add(&mut times, &map);
        times.into_iter().map(|(name, times)| (name, times.longest().unwrap())).collect()
    }

    #[test]
    fn the_gates_own_part_is_the_sum_of_checks_and_recording() {
        let headers = PARTS.map(|(_, header)| header);
        let values = ["1.500", "0.010", "0.020", "0.030", "0.040"];
        let direct: Vec<_> = headers.into_iter().zip(values).collect();
        let wanted =
            [("geo", 0.03), ("ip", 0.02), (OWN, 0.1), ("recording", 0.04), ("route", 0.01), ("total", 1.5)];
        let wanted: BTreeMap<_, _> = wanted.map(|(name, ms)| (name.to_owned(), ms)).into();
        assert_eq!(said(&direct), wanted);
        let line = "total;dur=1.5, route;dur=0.010, ip;desc=\"x\";dur=0.020, geo;dur=0.030, recording;dur=0.040, cache";
        assert_eq!(said(&[("server-timing", "total;dur=9, db;dur=3"), ("server-timing", line)]), wanted);
    }

    #[test]
    fn what_others_say_is_not_the_gates() {
        assert!(said(&[("server-timing", "total;dur=5, db;dur=3")]).is_empty());
        assert!(said(&[("x-performance-total", "soon"), ("x-performance-route", "1")]).is_empty());
        assert!(said(&[]).is_empty());
    }
}
