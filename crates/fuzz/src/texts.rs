//! Short texts: spans, moments, prefixes, patterns, header values.

use std::fmt::Display;
use std::str::FromStr;

use tidegate_admin::time::{parse_duration, parse_timestamp};
use tidegate_author::{Regex, Template};
use tidegate_policy::address::{Prefix, client_address};
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Ack, Gateway, Held};

/// Longest pattern that is compiled here: longer ones take their time, and no other code.
const MAX_PATTERN: usize = 64;

/// Reads `bytes` as each kind of text. What has a written form is read from it as the same.
pub fn run(bytes: &[u8]) -> bool {
    let mut read = client_address(bytes).is_some();
    let Ok(text) = std::str::from_utf8(bytes) else { return read };
    read |= parse_duration(text).is_some();
    read |= parse_timestamp(text).is_some();
    read |= text.parse::<Formats>().is_ok();
    if text.len() <= MAX_PATTERN {
        read |= Template::parse(text).is_ok();
        if let Ok(regex) = Regex::compile(text) {
            let _ = regex.is_match(bytes);
            read = true;
        }
    }
    read |= same_again::<Prefix>(text);
    read |= same_again::<Version>(text);
    read |= same_again::<Ack>(text);
    read |= same_again::<Gateway>(text);
    read | same_again::<Held>(text)
}

/// Whether `text` is a `T`; it is the same `T` again when it is written.
fn same_again<T: FromStr + Display + PartialEq>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    assert!(value.to_string().parse().is_ok_and(|again: T| again == value), "{text}");
    true
}
