//! Lines of `start,end,country`: addresses or numbers, IPv4 or IPv6, as Tor's
//! geoip files, ip-location-db, DB-IP Lite and IP2Location Lite write them.
//!
//! Empty lines and those that begin with `#` are passed over, and so is a first
//! line without an address. Fields may be quoted. Further columns (a country's
//! name) are passed over, except where they make doubtful what the third one is.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    let mut is_first = true;
    for (line, text) in (1u32..).zip(bytes.split(|byte| *byte == b'\n')) {
        let wrong = |why: String| format!("line {line}: {why}");
        let text = std::str::from_utf8(text).map_err(|_| wrong("not UTF-8".to_owned()))?.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let fields = split(text).map_err(|why| wrong(why.to_owned()))?;
        if std::mem::take(&mut is_first) && is_header(&fields) {
            continue;
        }
        let (first, last, code) = range(&fields).map_err(wrong)?;
        ranges.add(first, last, code, FileLine { file, line }).map_err(wrong)?;
    }
    Ok(())
}

/// A line's fields. Within quotes a comma is a comma, and two quotes are one.
fn split(text: &str) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let mut fields = Vec::with_capacity(4);
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or("a quote is not closed")?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                (Cow::Borrowed(field.trim()), after)
            }
        };
        fields.push(field);
        rest = match after.trim_start() {
            "" => return Ok(fields),
            after => after
                .strip_prefix(',')
                .ok_or("between a closing quote and the next comma is something else")?,
        };
    }
}

/// What stands up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let (mut field, mut rest) = text.split_once('"')?;
    let mut whole = String::new();
    while let Some(more) = rest.strip_prefix('"') {
        whole.push_str(field);
        whole.push('"');
        (field, rest) = more.split_once('"')?;
    }
    if whole.is_empty() {
        return Some((Cow::Borrowed(field), rest));
    }
    whole.push_str(field);
    Some((Cow::Owned(whole), rest))
}

fn is_header(fields: &[Cow<'_, str>]) -> bool {
    let is_name = |field: &Cow<'_, str>| !field.contains(|c: char| c.is_ascii_digit() || c == ':');
    fields.len() >= 3 && fields.iter().take(2).all(is_name)
}

fn range<'f>(fields: &'f [Cow<'_, str>]) -> Result<(IpAddr, IpAddr, &'f str), String> {
    let [first, last, code, more @ ..] = fields else {
        return Err(format!("{} fields: write start,end,country", fields.len()));
    };
    // DB-IP's larger files have the continent there: NA would become Namibia.
    if more.first().is_some_and(|next| next.len() == 2 && next.bytes().all(|b| b.is_ascii_alphabetic())) {
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

/// Numbers do not say their family: those up to 2^32 - 1 are IPv4, for the IPv6
/// addresses down there belong to nobody.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        let cases: [(&str, &[&str]); 6] = [
            ("1,2,DE", &["1", "2", "DE"]),
            (" 1 , 2 , DE ", &["1", "2", "DE"]),
            (r#""1","2","DE""#, &["1", "2", "DE"]),
            (r#""1","2","BQ","Bonaire, Sint Eustatius""#, &["1", "2", "BQ", "Bonaire, Sint Eustatius"]),
            (r#"1,2,XX,"a ""b"" c""#, &["1", "2", "XX", "a \"b\" c"]),
            ("1,,", &["1", "", ""]),
        ];
        for (text, want) in cases {
            let fields = split(text).unwrap();
            assert_eq!(fields, want, "{text}");
        }
        let long = format!("1,2,DE,\"{}\"", "\"\"".repeat(1 << 20));
        assert_eq!(split(&long).unwrap()[3].len(), 1 << 20);
        for bad in [r#""1,2,DE"#, r#""1"x,2,DE"#] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
