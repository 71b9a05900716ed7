//! Formats with an entry to a line: plain lists, also with scores.

use super::address::blocks;
use super::refusal::{BanDetails, Output, Refusal, RefusalCode, SkipReason};

/// Whether a line has no entry.
pub(super) fn is_nothing(line: &[u8]) -> bool {
    content(line).is_empty()
}

/// The line without its comment and the blanks around.
fn content(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b'#' | b';')).next().unwrap_or_default().trim_ascii()
}

/// The content as text; `None`: there is none, or it was refused.
fn text<'l>(number: u64, line: &'l [u8], out: &mut Output<'_>) -> Option<&'l str> {
    let content = content(line);
    if content.is_empty() {
        return None;
    }
    match checked(content) {
        Ok(text) => Some(text),
        Err(refusal) => {
            out.refuse(number, content, refusal);
            None
        }
    }
}

fn checked(content: &[u8]) -> Result<&str, Refusal> {
    if content.contains(&0) {
        return Err(nul_byte());
    }
    let ascii = str::from_utf8(content).ok().filter(|text| text.is_ascii());
    ascii.ok_or_else(|| {
        let why = "the entry has bytes that are not ASCII, which no address has";
        Refusal::new(RefusalCode::NotUtf8, why)
    })
}

pub(super) fn nul_byte() -> Refusal {
    Refusal::new(RefusalCode::NulByte, "the line has a NUL byte, which no text has")
}

/// An address, a block or a range.
pub(super) fn plain(number: u64, line: &[u8], out: &mut Output<'_>) {
    let Some(text) = text(number, line, out) else { return };
    match blocks(text) {
        Ok(blocks) => out.bans(number, blocks, &BanDetails::default()),
        Err(refusal) => out.refuse(number, text.as_bytes(), refusal),
    }
}

/// Whether the line is an address and a number.
pub(super) fn has_score(line: &[u8]) -> bool {
    let Ok(text) = checked(content(line)) else { return false };
    matches!(entry_and_score(text), (entry, Some(score)) if blocks(entry).is_ok() && score.parse::<f64>().is_ok())
}

fn entry_and_score(text: &str) -> (&str, Option<&str>) {
    match text.split_once(|c: char| c.is_ascii_whitespace()) {
        Some((entry, score)) => (entry, Some(score.trim())),
        None => (text, None),
    }
}

/// An entry and its score.
pub(super) fn scored(number: u64, line: &[u8], out: &mut Output<'_>) {
    let Some(text) = text(number, line, out) else { return };
    let (entry, score) = entry_and_score(text);
    match is_high_enough(score, out.min_score).and_then(|high| Ok((high, blocks(entry)?))) {
        Ok((true, blocks)) => out.bans(number, blocks, &BanDetails::default()),
        Ok((false, _)) => out.skip(SkipReason::BelowMinScore),
        Err(refusal) => out.refuse(number, text.as_bytes(), refusal),
    }
}

/// Whether a score is as high as wanted.
pub(super) fn is_high_enough(score: Option<&str>, min_score: Option<f64>) -> Result<bool, Refusal> {
    let bad = |why: String| Refusal::new(RefusalCode::BadScore, why);
    match (score, min_score) {
        (None, None) => Ok(true),
        (None, Some(_)) => Err(bad("there is no score, and `min_score` was given".to_owned())),
        (Some(score), min) => {
            let read = score.parse::<f64>().ok().filter(|score| score.is_finite());
            let read = read.ok_or_else(|| {
                let shown: String = score.chars().take(20).collect();
                bad(format!("the score `{shown}` is no number"))
            })?;
            Ok(min.is_none_or(|min| read >= min))
        }
    }
}
