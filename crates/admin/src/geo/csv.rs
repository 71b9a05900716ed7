//! Lists of ranges and of blocks: `start,end,country`, with addresses or numbers, as Tor's geoip
//! files, ip-location-db, DB-IP Lite and IP2Location Lite write them; `block,country`, as ipinfo does;
//! and MaxMind's blocks with places.
//!
//! Empty lines and those that begin with `#` are skipped. The first line may name the columns
//! ([`Columns`]). Fields may be quoted. Further columns (a country's name) are ignored, unless they
//! make it doubtful which one is the country.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use csv::{ReaderBuilder, StringRecord};
use tidegate_policy::address::Prefix;

use super::columns::Columns;
use super::places::Places;
use super::ranges::{FileIndex, FileLine, RangeCollector};

/// Reads a file: of places into `places`, any other into `ranges`.
///
/// # Errors
/// The line, what is wrong with it, and what would be right.
pub(super) fn read(
    bytes: &[u8],
    file: FileIndex,
    ranges: &mut RangeCollector,
    places: &mut Places,
) -> Result<(), String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.iter().take(1_024).any(|byte| *byte == 0) {
        return Err(format!("neither a country database nor CSV: write lines of {FORMS}"));
    }
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).comment(Some(b'#')).from_reader(bytes);
    let (mut record, mut columns) = (StringRecord::new(), None);
    let (mut end, mut line_ends) = (0, 0);
    loop {
        let is_read = reader.read_record(&mut record);
        // The reader's own line numbers are off: they do not count skipped lines.
        let begin = end;
        end = usize::try_from(reader.position().byte()).unwrap_or(end);
        line_ends += bytes[begin..end].iter().filter(|byte| **byte == b'\n').count();
        let has_next_begun = bytes[..end].ends_with(b"\n");
        let line = u32::try_from(line_ends + usize::from(!has_next_begun)).unwrap_or(u32::MAX);
        let wrong = |why: &str| format!("line {line}: {why}");
        match is_read {
            Ok(true) => {}
            Ok(false) if ends_within_quotes(bytes) => return Err(wrong("a quote is not closed")),
            Ok(false) => return Ok(()),
            Err(_) => return Err(wrong("not UTF-8")),
        }
        // The reader would let a quoted field continue on the next line.
        if record.iter().any(|field| field.contains('\n')) {
            return Err(wrong("a quote is not closed"));
        }
        record.trim();
        let is_empty =
            record.iter().all(str::is_empty) || record.get(0).is_some_and(|it| it.starts_with('#'));
        if is_empty {
            continue;
        }
        let known = match columns {
            Some(known) => known,
            None => {
                let header = Columns::of_header(&record).map_err(|why| wrong(&why))?;
                columns = Some(header.unwrap_or(Columns::Unnamed));
                if header.is_some() {
                    continue;
                }
                Columns::Unnamed
            }
        };
        let at = FileLine { file, line };
        row(&record, known, at, ranges, places).map_err(|why| wrong(&why))?;
    }
}

/// Whether the last line has an unclosed quote: the file was cut there.
fn ends_within_quotes(bytes: &[u8]) -> bool {
    let last = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    !last.starts_with(b"#") && last.iter().filter(|byte| **byte == b'"').count() % 2 == 1
}

/// What a line may be.
const FORMS: &str = "start,end,country or block,country";

/// Reads a line's fields.
fn row(
    fields: &StringRecord,
    columns: Columns,
    at: FileLine,
    ranges: &mut RangeCollector,
    places: &mut Places,
) -> Result<(), String> {
    let missing = || format!("{} fields: write {FORMS}", fields.len());
    let field = |at: usize| fields.get(at).ok_or_else(missing);
    let ((first, last), code) = match columns {
        Columns::Place { number, country } => return places.add(field(number)?, field(country)?),
        Columns::BlockOfPlace { network, places: [users, registered] } => {
            (block(field(network)?)?, places.code(&[field(users)?, field(registered)?])?)
        }
        Columns::Block { network, country } => (block(field(network)?)?, field(country)?),
        Columns::Range { country } => (range(field(0)?, field(1)?)?, field(country)?),
        Columns::Unnamed => {
            let is_block = field(0)?.contains('/') || looks_like_a_country(field(1)?);
            let country = if is_block { 1 } else { 2 };
            let code = field(country)?;
            // DB-IP's larger files have the continent in this column: NA would become Namibia.
            if fields.get(country + 1).is_some_and(looks_like_a_country) {
                return Err(format!("two fields look like a country: keep {FORMS} only"));
            }
            (if is_block { block(field(0)?)? } else { range(field(0)?, field(1)?)? }, code)
        }
    };
    ranges.add(first, last, code, at)
}

fn looks_like_a_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic())
}

fn block(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let block: Prefix = text.parse().map_err(|error| format!("{error}"))?;
    Ok(block.ends())
}

fn range(first: &str, last: &str) -> Result<(IpAddr, IpAddr), String> {
    match (number(first), number(last)) {
        (Some(first), Some(last)) => Ok(numbers(first, last)),
        _ => Ok((address(first)?, address(last)?)),
    }
}

fn number(text: &str) -> Option<u128> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Numbers have no address family: those up to 2^32 - 1 are IPv4, because the IPv6 addresses in
/// that range are not assigned.
fn numbers(first: u128, last: u128) -> (IpAddr, IpAddr) {
    match (u32::try_from(first), u32::try_from(last)) {
        (Ok(first), Ok(last)) => (Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into()),
        _ => (Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into()),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        format!("`{shown}` is no address: write 192.0.2.0, 2001:db8:: or a number")
    })
}
