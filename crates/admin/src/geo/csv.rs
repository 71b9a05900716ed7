//! Lines of `start,end,country`: addresses or numbers, IPv4 or IPv6, as Tor's geoip files,
//! ip-location-db, DB-IP Lite and IP2Location Lite write them.
//!
//! Empty lines and those that begin with `#` are skipped, and so is a first line without an
//! address. Fields may be quoted. Further columns (a country's name) are ignored, unless they
//! make it doubtful what the third one is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use csv::{ReaderBuilder, StringRecord};

use super::ranges::{FileIndex, FileLine, RangeCollector};

/// Reads a file.
///
/// # Errors
/// The line, what is wrong with it, and what would be right.
pub(super) fn read(bytes: &[u8], file: FileIndex, ranges: &mut RangeCollector) -> Result<(), String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.iter().take(1_024).any(|byte| *byte == 0) {
        return Err("neither a country database nor CSV: write lines of start,end,country".to_owned());
    }
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).comment(Some(b'#')).from_reader(bytes);
    let (mut record, mut is_first) = (StringRecord::new(), true);
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
        if is_empty || (std::mem::take(&mut is_first) && is_header(&record)) {
            continue;
        }
        let (first, last, code) = range(&record).map_err(|why| wrong(&why))?;
        ranges.add(first, last, code, FileLine { file, line }).map_err(|why| wrong(&why))?;
    }
}

/// Whether the last line has an unclosed quote: the file was cut there.
fn ends_within_quotes(bytes: &[u8]) -> bool {
    let last = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    !last.starts_with(b"#") && last.iter().filter(|byte| **byte == b'"').count() % 2 == 1
}

fn is_header(fields: &StringRecord) -> bool {
    let is_name = |field: &str| !field.contains(|c: char| c.is_ascii_digit() || c == ':');
    fields.len() >= 3 && fields.iter().take(2).all(is_name)
}

fn range(fields: &StringRecord) -> Result<(IpAddr, IpAddr, &str), String> {
    let (Some(first), Some(last), Some(code)) = (fields.get(0), fields.get(1), fields.get(2)) else {
        return Err(format!("{} fields: write start,end,country", fields.len()));
    };
    // DB-IP's larger files have the continent in this column: NA would become Namibia.
    if fields.get(3).is_some_and(|next| next.len() == 2 && next.bytes().all(|b| b.is_ascii_alphabetic())) {
        return Err("two fields look like a country: keep start,end,country only".to_owned());
    }
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) => numbers(first, last),
        _ => (address(first)?, address(last)?),
    };
    Ok((first, last, code))
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
