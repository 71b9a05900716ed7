//! A result in words.

use super::result::BenchResult;
use super::times::Times;
use crate::cli::output::{markdown_table, plain, table};

const FIGURES: [&str; 2] = ["figure", "value"];
const TIMES: [&str; 7] = ["ms", "count", "P50", "P90", "P95", "P99", "max"];
const TARGETS: [&str; 4] = ["figure", "is", "target", "met"];
/// What the gate times, in the order in which it is shown.
const GATE: [(&str, &str); 6] = [
    ("own", "the gate's own, at most"),
    ("route", "route"),
    ("ip", "bans"),
    ("geo", "country"),
    ("recording", "recording"),
    ("total", "to the response's headers"),
];
/// How much of a processor a load may use before its own slowness is in the times.
const BUSY: f64 = 0.9;
/// Requests of which the 99th percentile is more than the last few of them.
const MANY: u64 = 1_000;

/// For a terminal.
pub fn text(result: &BenchResult) -> String {
    let notes: String = notes(result).iter().map(|note| format!("{note}\n")).collect();
    let targets = target_rows(result);
    let targets = if targets.is_empty() { String::new() } else { table(TARGETS, targets) };
    let (figures, times) = (table(FIGURES, figure_rows(result)), table(TIMES, time_rows(result)));
    format!("{}\n{figures}{times}{targets}{notes}", heading(result))
}

/// For a ticket.
pub fn markdown(result: &BenchResult) -> String {
    let notes: String = notes(result).iter().map(|note| format!("- {note}\n")).collect();
    let targets = target_rows(result);
    let targets =
        if targets.is_empty() { String::new() } else { format!("{}\n", markdown_table(TARGETS, targets)) };
    let (figures, times) =
        (markdown_table(FIGURES, figure_rows(result)), markdown_table(TIMES, time_rows(result)));
    format!("### {}\n\n{figures}\n{times}\n{targets}{notes}", heading(result))
}

fn heading(result: &BenchResult) -> String {
    let host = result.host.as_ref().map(|host| format!(" for the host {host}")).unwrap_or_default();
    plain(&format!("{}{host}, from {}", result.url, result.began))
}

fn figure_rows(result: &BenchResult) -> Vec<[String; 2]> {
    let status: Vec<String> =
        result.status.iter().map(|(status, count)| format!("{count} times {status}")).collect();
    let errors: Vec<String> = result
        .errors
        .iter()
        .map(|(kind, of)| format!("{} {} ({})", of.count, kind.name(), of.first))
        .collect();
    let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let rows = [
        (
            "requests",
            format!("{} over {} connections in {:.3} s", result.requests, result.connections, result.seconds),
        ),
        ("requests/s", result.rate().map_or_else(dash, |rate| format!("{rate:.1}"))),
        ("success", result.success().map_or_else(dash, percent)),
        ("statuses", or_none(status)),
        ("errors", plain(&or_none(errors))),
        ("bytes of bodies", result.bytes.to_string()),
    ];
    rows.map(|(name, value)| [name.to_owned(), value]).into()
}

/// A share in percent; what is not all of them does not look like it.
pub fn percent(share: f64) -> String {
    if share < 1.0 { format!("{:.3} %", (share * 100.0).min(99.999)) } else { "100 %".to_owned() }
}

fn time_rows(result: &BenchResult) -> Vec<[String; 7]> {
    let gate = GATE.iter().filter_map(|(part, name)| Some((*name, result.gate.get(*part)?)));
    [("whole", &result.latency)].into_iter().chain(gate).map(|(name, times)| time_row(name, times)).collect()
}

fn time_row(name: &str, times: &Times) -> [String; 7] {
    let ms = |share| times.quantile(share).map_or_else(dash, |ms| format!("{ms:.3}"));
    [name.to_owned(), times.count().to_string(), ms(0.5), ms(0.9), ms(0.95), ms(0.99), ms(1.0)]
}

fn target_rows(result: &BenchResult) -> Vec<[String; 4]> {
    let judged = result.targets.iter().flatten();
    let row = judged.map(|judged| {
        let met = if judged.met { "yes" } else { "no" };
        [judged.figure.clone(), judged.value.clone(), judged.target.clone(), met.to_owned()]
    });
    row.collect()
}

/// What a reader has to know of the figures.
fn notes(result: &BenchResult) -> Vec<String> {
    let mut notes = vec![
        "Closed loop, HTTP/1.1: each connection sends its next request when the last one is answered, so that a slow \
         gate is asked less. Nothing is corrected for that: a client with a schedule of its own would wait longer."
            .to_owned(),
        "Success is a status below 400. Times are of complete answers; the first of each connection has connecting in it."
            .to_owned(),
    ];
    if !result.gate.is_empty() {
        notes.push(
            "The gate's own part is the sum of its checks and of recording: at most, as checks that are asked at once take \
             each other's time."
                .to_owned(),
        );
    }
    if result.stopped_by_time {
        notes.push("The time was over before the number of requests was reached (--for).".to_owned());
    }
    let answers = result.answers();
    if (1..MANY).contains(&answers) {
        notes.push(format!("Of {answers} answers the P99 is one of the last few: {MANY} say more."));
    }
    if let Some(busy) = result.load_cpu.filter(|busy| *busy > BUSY) {
        notes.push(format!(
            "The load itself used {:.0} % of its processor: the times may be its own rather than the gate's.",
            busy * 100.0
        ));
    }
    notes
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::result::tests::of_times;
    use super::super::result::{ErrorKind, ErrorsOfKind};
    use super::*;

    #[test]
    fn a_result_says_what_it_is_of_and_how_it_was_made() {
        let mut result = of_times([1_000; 50]);
        result.requests += 1;
        let first = "a\u{1b}[2Jb|c".to_owned();
        result.errors.insert(ErrorKind::Broken, ErrorsOfKind { count: 1, first });
        result.load_cpu = Some(0.95);
        let text = text(&result);
        for said in [
            "51 over 2 connections",
            "50 times 200",
            "98.039 %",
            r"1 broken (a\u{1b}[2Jb|c)",
            "Closed loop",
            "95 %",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        let markdown = markdown(&result);
        assert!(markdown.contains(r"\u{1b}[2Jb\|c") && markdown.contains("| P50"), "{markdown}");
        assert!(!text.contains("TARGET"), "nobody asked for targets");
    }

    #[test]
    fn what_is_not_all_does_not_look_like_it() {
        assert_eq!([0.0, 0.5, 0.999_999_9, 1.0].map(percent), ["0.000 %", "50.000 %", "99.999 %", "100 %"]);
    }
}
