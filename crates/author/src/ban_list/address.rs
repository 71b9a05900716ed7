//! An address, a block or a range, as lists have them.

use std::net::IpAddr;

use tidegate_policy::address::{Prefix, PrefixError};

use super::refusal::{Refusal, RefusalCode};

/// The widest IPv4 block that a list may ban.
const WIDEST_V4: u8 = 8;
/// The widest IPv6 block.
const WIDEST_V6: u8 = 19;
/// Characters of a text that a message repeats.
const MAX_SHOWN: usize = 60;

/// The blocks that `text` means: one, or those that a range is made of. Quotes and a comma around it,
/// brackets, a dot at its end and blanks around the dash of a range are passed over.
pub(super) fn blocks(text: &str) -> Result<Vec<Prefix>, Refusal> {
    let text = text.trim().trim_end_matches(',').trim_matches(['"', '\'']).trim();
    let blocks = match text.split_once('-') {
        Some((first, last)) => range(text, first, last)?,
        None => vec![block(text)?],
    };
    match blocks.iter().find(|block| is_too_wide(block)) {
        None => Ok(blocks),
        Some(wide) => {
            let why = format!(
                "{wide} is wider than /{WIDEST_V4} (IPv4) or /{WIDEST_V6} (IPv6): no list should have it"
            );
            Err(Refusal::new(RefusalCode::TooWide, why))
        }
    }
}

fn is_too_wide(block: &Prefix) -> bool {
    let widest = if block.as_v4().is_some() { WIDEST_V4 } else { WIDEST_V6 };
    block.len() < widest
}

fn range(text: &str, first: &str, last: &str) -> Result<Vec<Prefix>, Refusal> {
    let [first, last] = [address(first, text)?, address(last, text)?];
    let blocks = Prefix::range(first, last).map(Iterator::collect);
    blocks.ok_or_else(|| {
        let why = format!("{first} to {last} is no range: write the lower address first, of one family");
        Refusal::new(RefusalCode::BadRange, why)
    })
}

fn address(text: &str, whole: &str) -> Result<IpAddr, Refusal> {
    bare(text.trim())?.parse().map_err(|_| not_an_address(whole))
}

fn block(text: &str) -> Result<Prefix, Refusal> {
    bare(text)?.parse::<Prefix>().map_err(|error| match error {
        PrefixError::Address(_) => not_an_address(text),
        PrefixError::Length { .. } => Refusal::new(RefusalCode::BadLength, error.to_string()),
    })
}

/// The address without what people write around it.
fn bare(text: &str) -> Result<&str, Refusal> {
    if text.contains('%') {
        let why = "an address with a zone means something on one machine only: leave the entry out";
        return Err(Refusal::new(RefusalCode::ZoneId, why));
    }
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Ok(inside.strip_suffix('.').unwrap_or(inside))
}

fn not_an_address(text: &str) -> Refusal {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    let why = format!(
        "`{shown}` is neither an address, a block nor a range: write it like 203.0.113.7, 203.0.113.0/24, \
         2001:db8::/64 or 203.0.113.7-203.0.113.20, with comments behind # or ;"
    );
    Refusal::new(RefusalCode::NotAnAddress, why)
}
