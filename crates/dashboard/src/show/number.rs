//! Numbers for people. The exact one is told on hover where it is shortened.

use maud::{Markup, html};

/// `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a unit: `12.3 M`. Below 10,000 the number itself.
pub fn short(number: u64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    if number < 10_000 {
        return grouped(number);
    }
    let value = as_float(number);
    // What would be rounded up to 1000 of a unit is 1 of the next.
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| value >= unit * 0.9995).unwrap_or(UNITS[3]);
    format!("{} {name}", three_digits(value / unit))
}

/// [`short`] on the page, with all digits on hover.
pub fn count(number: u64) -> Markup {
    let (text, all) = (short(number), grouped(number));
    if text == all {
        html! { (text) }
    } else {
        html! { span title=(all) { (text) } }
    }
}

/// Bytes with a binary unit: `1.5 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1_024 {
        return format!("{number} B");
    }
    let mut value = as_float(number) / 1_024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A share of 1 as percent, rounded down from 99.9 on: what is not whole is not called so.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    match value {
        v if v >= 100.0 => "100 %".to_owned(),
        v if v > 99.9 => format!("{:.3} %", (v * 1_000.0).floor() / 1_000.0),
        v if v > 0.0 && v < 0.1 => "< 0.1 %".to_owned(),
        v => format!("{v:.1} %"),
    }
}

/// Milliseconds with three digits: `0.12 ms`, `12.3 ms`, `1.23 s`.
pub fn millis(value: f64) -> String {
    match value {
        v if v >= 999.5 => format!("{} s", three_digits(v / 1_000.0)),
        v if v < 0.01 => "< 0.01 ms".to_owned(),
        v => format!("{} ms", three_digits(v)),
    }
}

/// [`millis`], or a dash where there is none.
pub fn optional_millis(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), millis)
}

/// Events in a second.
pub fn rate(value: f64) -> String {
    format!("{}/s", if value == 0.0 { "0".to_owned() } else { three_digits(value) })
}

/// About three digits, without a fraction of zeros.
fn three_digits(value: f64) -> String {
    let text = match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [9_999, 10_000, 999_499, 999_600, 1_234_567, 12_000_000_000].map(short),
            ["9,999", "10 k", "999 k", "1 M", "1.23 M", "12 G"]
        );
        assert_eq!([5, 1_024, 1_500_000, 1_048_570].map(bytes), ["5 B", "1 KiB", "1.43 MiB", "1 MiB"]);
        assert_eq!(short(u64::MAX), "18446744 T");
    }

    #[test]
    fn what_is_not_whole_is_not_called_so() {
        let shares = [1.0, 0.999_999_9, 0.9995, 0.5, 0.000_1, 0.0];
        assert_eq!(shares.map(percent), ["100 %", "99.999 %", "99.950 %", "50.0 %", "< 0.1 %", "0.0 %"]);
    }

    #[test]
    fn times_have_three_digits() {
        let times = [0.001, 0.123_4, 12.34, 180.0, 999.6, 12_345.0];
        assert_eq!(times.map(millis), ["< 0.01 ms", "0.12 ms", "12.3 ms", "180 ms", "1 s", "12.3 s"]);
        assert_eq!([0.0, 0.5, 1234.5].map(rate), ["0/s", "0.50/s", "1234/s"]);
    }
}
