use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// What a list gave, in short.
#[derive(Default, PartialEq, Debug)]
struct Read {
    bans: Vec<(u64, String)>,
    skipped: Vec<&'static str>,
    refused: Vec<(u64, &'static str)>,
}

/// Reads `list` in pieces of `piece` bytes.
fn read_in(
    list: &[u8],
    piece: usize,
    format: Option<ListFormat>,
    min_score: Option<f64>,
) -> Result<(ListFormat, Vec<ListItem>), ListError> {
    let mut items = Vec::new();
    let mut reader = BanListReader::new(format, min_score);
    for piece in list.chunks(piece) {
        reader.push(piece, &mut |item| items.push(item))?;
    }
    let format = reader.finish(&mut |item| items.push(item))?;
    Ok((format, items))
}

fn items(list: &str) -> Vec<ListItem> {
    read_in(list.as_bytes(), 7, None, None).unwrap().1
}

fn short(items: Vec<ListItem>) -> Read {
    let mut read = Read::default();
    for item in items {
        match item {
            ListItem::Ban(ban) => read.bans.push((ban.line, ban.prefix.to_string())),
            ListItem::Simulated(_) => read.skipped.push("simulated"),
            ListItem::Skipped(why) => read.skipped.push(why.name()),
            ListItem::Refused(refused) => read.refused.push((refused.line, refused.code.name())),
        }
    }
    read
}

/// The format, the prefixes and the rest, which must not depend on how the list is cut.
#[track_caller]
fn read(list: &[u8], min_score: Option<f64>) -> (ListFormat, Read) {
    let (format, whole) = read_in(list, usize::MAX, None, min_score).unwrap();
    for piece in [1, 2, 3, 5, 64] {
        assert_eq!(read_in(list, piece, None, min_score).unwrap(), (format, whole.clone()), "{piece}");
    }
    (format, short(whole))
}

fn bans(read: &Read) -> Vec<&str> {
    read.bans.iter().map(|(_, prefix)| prefix.as_str()).collect()
}

/// A file of tests/ban-lists, written by hand in the form of a real list.
fn sample(name: &str) -> Vec<u8> {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    std::fs::read(format!("{package}/tests/ban-lists/{name}")).unwrap()
}

#[test]
fn each_format_is_told_by_its_content() {
    for (name, format, want, skipped) in [
        ("plain.txt", ListFormat::Plain, &["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"][..], 0),
        ("ranges.txt", ListFormat::Plain, &["192.0.2.4/30", "192.0.2.8", "2001:db8::/127"], 0),
        ("firehol.netset", ListFormat::Plain, &["192.0.2.0/25", "203.0.113.9"], 0),
        ("spamhaus-drop.txt", ListFormat::Plain, &["192.0.2.0/24", "198.51.100.0/22"], 0),
        ("spamhaus-drop.json", ListFormat::JsonLines, &["192.0.2.0/24", "198.51.100.0/22"], 1),
        ("ipsum.txt", ListFormat::Scored, &["192.0.2.1", "192.0.2.2", "192.0.2.3"], 0),
        ("abuseipdb.csv", ListFormat::Csv, &["192.0.2.1", "2001:db8::1"], 0),
        ("abuseipdb.json", ListFormat::Json, &["192.0.2.1", "2001:db8::1"], 0),
        ("addresses.json", ListFormat::Json, &["192.0.2.1", "198.51.100.0/24"], 0),
        ("bans.jsonl", ListFormat::JsonLines, &["192.0.2.1", "198.51.100.0/24"], 0),
        ("cscli-decisions.json", ListFormat::Json, &["192.0.2.1", "198.51.100.0/24"], 1),
        ("cscli-decisions.csv", ListFormat::Csv, &["192.0.2.1", "198.51.100.0/24"], 1),
        ("crowdsec-stream.json", ListFormat::JsonLines, &["192.0.2.1"], 1),
    ] {
        let (found, read) = read(&sample(name), None);
        assert_eq!((found, bans(&read), &read.refused[..]), (format, want.to_vec(), &[][..]), "{name}");
        assert_eq!(read.skipped.len(), skipped, "{name}: {:?}", read.skipped);
        // Named, it is read in the same way.
        let named = read_in(&sample(name), 9, Some(found.name().parse().unwrap()), None).unwrap();
        assert_eq!(short(named.1), read, "{name}");
    }
}

#[test]
fn scores_are_compared_where_there_are_any() {
    for (name, min, want) in [
        ("ipsum.txt", 3.0, &["192.0.2.2", "192.0.2.3"][..]),
        ("abuseipdb.csv", 95.0, &["192.0.2.1"]),
        ("abuseipdb.json", 95.0, &["192.0.2.1"]),
    ] {
        let (_, read) = read(&sample(name), Some(min));
        assert_eq!(
            (bans(&read), read.skipped.as_slice()),
            (want.to_vec(), &["below_min_score"][..]),
            "{name}"
        );
    }
    let (_, read) = read(b"192.0.2.1 5\n192.0.2.2 many\n192.0.2.3\n", Some(1.0));
    assert_eq!(read.refused, [(2, "bad_score"), (3, "bad_score")]);
    for list in ["192.0.2.1\n", "ip,country\n192.0.2.1,FR\n"] {
        let refused = read_in(list.as_bytes(), 9, None, Some(1.0)).unwrap_err();
        assert!(matches!(refused, ListError::NoScores(_)), "{list}");
    }
}

#[test]
fn reasons_and_ends_come_with_the_entry() {
    let list =
        "ip;reason;expires_at;ttl\n192.0.2.1;\"a;b\";2030-01-01;\n192.0.2.2;;;3h59m46.15s\n192.0.2.3;;;90\n";
    let found: Vec<_> = items(list)
        .into_iter()
        .map(|item| match item {
            ListItem::Ban(ban) => (ban.reason, ban.end),
            other => panic!("{other:?}"),
        })
        .collect();
    let after = |ms| ListedEnd::After(Duration::from_millis(ms));
    let want = [
        (Some("a;b".to_owned()), ListedEnd::At("2030-01-01".to_owned())),
        (None, after(14_386_150)),
        (None, after(90_000)),
    ];
    assert_eq!(found, want);
}

#[test]
fn entries_are_taken_as_people_mean_them_or_refused_with_their_line() {
    for (text, want) in [
        ("192.0.2.7", Ok("192.0.2.7")),
        ("\u{feff}192.0.2.7", Ok("192.0.2.7")),
        ("192.0.2.7\r", Ok("192.0.2.7")),
        ("  192.0.2.7\t", Ok("192.0.2.7")),
        ("192.0.2.7.", Ok("192.0.2.7")),
        ("192.0.2.7,", Ok("192.0.2.7")),
        ("\"192.0.2.7\"", Ok("192.0.2.7")),
        ("[2001:db8::7]", Ok("2001:db8::7")),
        ("192.0.2.7 # a comment", Ok("192.0.2.7")),
        ("192.0.2.0/24;SBL1", Ok("192.0.2.0/24")),
        ("192.0.2.9/24", Ok("192.0.2.0/24")),
        ("::ffff:192.0.2.7", Ok("192.0.2.7")),
        ("::ffff:192.0.2.0/120", Ok("192.0.2.0/24")),
        ("192.0.2.0 - 192.0.2.255", Ok("192.0.2.0/24")),
        ("10.0.0.0/8", Ok("10.0.0.0/8")),
        ("2001:db8::/19", Ok("2001::/19")),
        ("fe80::1%eth0", Err("zone_id")),
        ("0.0.0.0/0", Err("too_wide")),
        ("::/0", Err("too_wide")),
        ("::ffff:0:0/96", Err("too_wide")),
        ("10.0.0.0/7", Err("too_wide")),
        ("2001::/18", Err("too_wide")),
        ("0.0.0.0-255.255.255.255", Err("too_wide")),
        ("192.0.2.0/33", Err("bad_length")),
        ("192.0.2.0/", Err("bad_length")),
        ("192.0.2.9-192.0.2.1", Err("bad_range")),
        ("192.0.2.9-2001:db8::1", Err("bad_range")),
        ("192.0.2.1-20", Err("not_an_address")),
        ("192.0.2.7 example.com", Err("not_an_address")),
        ("192.0.2.7:443", Err("not_an_address")),
        ("010.0.0.1", Err("not_an_address")),
        ("192.0.2", Err("not_an_address")),
        ("example.com", Err("not_an_address")),
        ("192.0.2.7\u{e9}", Err("not_utf8")),
        ("192.0.2.7\0", Err("nul_byte")),
    ] {
        let list = format!("# list\n{text}\n198.51.100.1\n");
        let found = short(read_in(list.as_bytes(), 7, Some(ListFormat::Plain), None).unwrap().1);
        let first = read_in(format!("{text}\n").as_bytes(), 3, Some(ListFormat::Plain), None).unwrap();
        let first = short(first.1);
        match want {
            Ok(prefix) => assert_eq!(bans(&first), [prefix], "{text}"),
            Err(code) => {
                assert_eq!(found.refused, [(2, code)], "{text}");
                assert_eq!(first.refused, [(1, code)], "{text}");
            }
        }
        assert!(
            text.starts_with('\u{feff}') || bans(&found).last() == Some(&"198.51.100.1"),
            "{text}: {found:?}"
        );
    }
    // In a comment any bytes will do.
    assert_eq!(bans(&read(b"192.0.2.7 # caf\xe9\n", None).1), ["192.0.2.7"]);
}

#[test]
fn rows_and_objects_that_are_no_bans_of_addresses_are_refused_by_themselves() {
    for (row, code) in [
        (r#"{"ip": "192.0.2.1"}"#, None),
        (r#"{"ip": "999.0.2.1"}"#, Some("not_an_address")),
        (r#"{"country": "FR"}"#, Some("no_address")),
        (r#"{"ip": ["192.0.2.1"]}"#, Some("no_address")),
        (r#"{"ip": "192.0.2.1", "ip": "192.0.2.2"}"#, Some("bad_json")),
        (r#"{"ip": "192.0.2.1""#, Some("bad_json")),
        (r#"{"ip": "192.0.2.1}"#, Some("bad_json")),
        (r#"{"ip": 1.2.3.4}"#, Some("bad_json")),
        ("]", Some("bad_json")),
        ("nonsense", Some("bad_json")),
        ("[[\"192.0.2.1\"]]", Some("bad_json")),
        (r#"{"value": "FR", "scope": "Country", "type": "ban"}"#, Some("other_scope")),
        (r#"{"value": "192.0.2.1", "scope": "Ip", "type": "captcha"}"#, Some("not_a_ban")),
        (r#"{"ip": "192.0.2.1", "status": "allowed"}"#, Some("not_a_ban")),
        (r#"{"ip": "192.0.2.1", "type": "ipv4"}"#, None),
        (r#"{"ip": "192.0.2.1", "duration": "-3m"}"#, Some("expired")),
        (r#"{"ip": "192.0.2.1", "reason": "\u0000 \" ] }"}"#, None),
    ] {
        let list = format!("{{\"ip\": \"203.0.113.1\"}}\n{row}\n\n{{\"ip\": \"203.0.113.2\"}}");
        let (format, found) = read(list.as_bytes(), None);
        assert_eq!(format, ListFormat::JsonLines);
        assert_eq!(found.refused, code.map(|code| (2, code)).into_iter().collect::<Vec<_>>(), "{row}");
        assert_eq!(found.bans.len(), 2 + usize::from(code.is_none()), "{row}");
        assert_eq!(found.bans.last(), Some(&(4, "203.0.113.2".to_owned())));
    }
    let csv = "ip,reason\n192.0.2.1,\"open\n192.0.2.2,fine\n,none\n192.0.2.3\n192.0.2.4\0,x\n";
    let (format, found) = read(csv.as_bytes(), None);
    assert_eq!(format, ListFormat::Csv);
    assert_eq!(found.refused, [(2, "bad_csv"), (4, "no_address"), (6, "nul_byte")]);
    assert_eq!(bans(&found), ["192.0.2.2", "192.0.2.3"]);
}

#[test]
fn json_is_cut_into_entries_wherever_the_list_is() {
    let list = "{\"meta\": {\"data\": [1]}, \"note\": \"\\\"data\\\": [\",\n \"data\" : [\n{\"ip\":\n\"192.0.2.1\"},\n\"192.0.2.2\"\n], \"new\": [\"192.0.2.3\"], \"deleted\": [\"192.0.2.9\"]}";
    let (format, found) = read(list.as_bytes(), None);
    assert_eq!((format, found.refused.len(), found.skipped), (ListFormat::Json, 0, vec!["deleted"]));
    let want = [(3, "192.0.2.1"), (5, "192.0.2.2"), (6, "192.0.2.3")];
    assert_eq!(found.bans, want.map(|(line, prefix)| (line, prefix.to_owned())));
    for (broken, line) in [
        ("[\"192.0.2.1\",\n\"192.0.2.2\"", 2),
        ("[{\"ip\": \"192.0.2.1\"},\n{\"ip\": \"192.0.2.2\n\"}]", 2),
        ("[\"192.0.2.1\",\n5]", 2),
        ("[\"192.0.2.1\"]]", 1),
        ("{\"data\": [\"192.0.2.1\"", 1),
    ] {
        let wrong = read_in(broken.as_bytes(), 4, Some(ListFormat::Json), None).unwrap_err();
        assert!(matches!(wrong, ListError::BrokenJson { line: at, .. } if at == line), "{broken}: {wrong}");
    }
    let deep = "{\"data\":[".repeat(1_000);
    assert!(matches!(read_in(deep.as_bytes(), 9, None, None), Err(ListError::BrokenJson { .. })));
}

#[test]
fn what_is_no_list_is_refused_as_a_whole() {
    let utf16: Vec<u8> = "\u{feff}192.0.2.1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (list, wrong) in [
        (&b"<!DOCTYPE html>\n<html><body>192.0.2.1</body></html>"[..], ListError::Html(1)),
        (b"\xef\xbb\xbf\n  <html>", ListError::Html(2)),
        (&utf16, ListError::Utf16),
        (utf16.get(2..).unwrap(), ListError::Utf16),
        (b"\x1f\x8b\x08\0\0", ListError::Compressed),
        (b"\x1f\x8b\x08\x08rest", ListError::Compressed),
        (b"PK\x03\x04rest", ListError::Compressed),
    ] {
        assert_eq!(read_in(list, 5, None, None).unwrap_err(), wrong);
    }
    let no_header = read_in(b"# x\n192.0.2.1,FR\n", 9, Some(ListFormat::Csv), None).unwrap_err();
    assert_eq!(no_header, ListError::NoColumns(2));
    for nothing in ["", "\n\n", "# only\n; comments\n"] {
        assert_eq!(items(nothing), []);
    }
}

#[test]
fn a_line_without_an_end_takes_no_memory_and_the_next_is_read() {
    for first in ["192.0.2.1\n", ""] {
        let mut reader = BanListReader::new(None, None);
        let mut found = Vec::new();
        reader.push(first.as_bytes(), &mut |item| found.push(item)).unwrap();
        for _ in 0..200 {
            reader.push(&[b'x'; MAX_ENTRY], &mut |item| found.push(item)).unwrap();
            assert!(reader.rest.capacity() <= 4 * MAX_ENTRY, "{}", reader.rest.capacity());
        }
        reader.push(b"\n192.0.2.2", &mut |item| found.push(item)).unwrap();
        reader.finish(&mut |item| found.push(item)).unwrap();
        let found = short(found);
        let line = 1 + u64::from(!first.is_empty());
        assert_eq!(found.refused, [(line, "too_long")]);
        assert_eq!(found.bans.last(), Some(&(line + 1, "192.0.2.2".to_owned())));
    }
    let long = format!(
        "[\"192.0.2.1\",\n{{\"ip\": \"192.0.2.2\", \"x\": \"{}\"}},\n\"192.0.2.3\"]",
        "y".repeat(MAX_ENTRY)
    );
    let found = short(read_in(long.as_bytes(), 1_000, None, None).unwrap().1);
    assert_eq!(
        (found.refused.as_slice(), bans(&found)),
        (&[(2, "too_long")][..], vec!["192.0.2.1", "192.0.2.3"])
    );
    // One line of JSON, longer than any entry.
    let one_line = format!("[{}\"192.0.2.9\"]", "{\"ip\": \"192.0.2.1\"},".repeat(10_000));
    let (format, found) = read_in(one_line.as_bytes(), 1_000, None, None).unwrap();
    assert_eq!((format, found.len()), (ListFormat::Json, 10_001));
}

/// A line, and the addresses that it means: first and last.
#[derive(Clone, Debug)]
struct Line {
    text: String,
    means: Option<(IpAddr, IpAddr)>,
}

fn host(bits: u128, v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::from_bits(bits as u32).into(),
        false => Ipv6Addr::from_bits(bits | 0x2000 << 112).into(),
    }
}

fn line() -> impl Strategy<Value = Line> {
    let decorated = (
        0usize..6,
        any::<u128>(),
        any::<bool>(),
        8u8..=32,
        0u32..5_000,
        "[ \t]{0,2}",
        "( ?[#;][a-z ]{0,9})?",
    );
    decorated.prop_map(|(kind, bits, v4, len, more, blanks, comment)| {
        let first = host(bits, v4);
        let (text, means) = match kind {
            0 => (first.to_string(), Some((first, first))),
            1 => {
                let len = if v4 { len } else { len * 4 - 1 };
                // The oracle: all host bits 0, all host bits 1.
                let (bits, width) = match first {
                    IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
                    IpAddr::V6(v6) => (v6.to_bits(), 128),
                };
                let hosts = (1u128 << (width - u32::from(len))) - 1;
                (format!("{first}/{len}"), Some((host(bits & !hosts, v4), host(bits | hosts, v4))))
            }
            2 | 3 => {
                let last = host(bits.saturating_add(more.into()), v4);
                let is_range = first <= last;
                (format!("{first}{blanks}-{blanks}{last}"), is_range.then_some((first, last)))
            }
            4 => ("no address".to_owned(), None),
            _ => (format!("{first}x"), None),
        };
        Line { text: format!("{blanks}{text}{blanks}{comment}"), means }
    })
}

proptest! {
    #[test]
    fn lines_mean_what_the_oracle_says(
        lines in proptest::collection::vec(line(), 1..40),
        crlf in any::<bool>(),
        piece in 1usize..50,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let list: String = lines.iter().map(|line| format!("{}{end}", line.text)).collect();
        let (_, items) = read_in(list.as_bytes(), piece, Some(ListFormat::Plain), None).unwrap();
        for (number, line) in (1u64..).zip(&lines) {
            let blocks: Vec<Prefix> = items.iter().filter_map(|item| match item {
                ListItem::Ban(ban) if ban.line == number => Some(ban.prefix),
                _ => None,
            }).collect();
            let refused = items.iter().any(|item| matches!(item, ListItem::Refused(one) if one.line == number));
            prop_assert_eq!(refused, line.means.is_none(), "{:?}", line);
            let Some((first, last)) = line.means else { continue };
            // One after the other, without a gap, from the first to the last.
            let bits = |address| match address {
                IpAddr::V4(v4) => u128::from(v4.to_bits()),
                IpAddr::V6(v6) => v6.to_bits(),
            };
            let mut next = bits(first);
            for block in &blocks {
                let (begin, end) = block.ends();
                prop_assert_eq!(bits(begin), next, "{:?}: {:?}", line, blocks);
                next = bits(end).wrapping_add(1);
            }
            prop_assert_eq!(next, bits(last).wrapping_add(1), "{:?}: {:?}", line, blocks);
        }
    }

    #[test]
    fn any_bytes_are_read_alike_however_they_are_cut(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'"'), Just(b'{'), Just(b'['), Just(b','), Just(b'1'), Just(b'.'), any::<u8>()], 0..200),
        piece in 1usize..20,
    ) {
        prop_assert_eq!(read_in(&bytes, piece, None, None), read_in(&bytes, usize::MAX, None, None));
    }
}
