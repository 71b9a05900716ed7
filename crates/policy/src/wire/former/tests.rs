use super::*;
use crate::check::Check;
use crate::decide::Given;
use crate::flags::Mode;
use crate::geo::RuleVerdict;
use crate::request::Facts;
use crate::route::TooLong;
use crate::route::action::Action;
use crate::version::Version;
use crate::wire::event::DropReason;
use proptest::prelude::*;

/// What the former writers wrote, by its name in `bytes.txt`.
fn written(name: &str) -> Vec<u8> {
    let lines = include_str!("bytes.txt").lines().filter(|line| !line.starts_with('#'));
    let of_name = lines.skip_while(|line| *line != name).skip(1);
    let digits: String = of_name.take_while(|line| line.bytes().all(|b| b.is_ascii_hexdigit())).collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    assert!(!bytes.is_empty(), "no bytes of the name {name}");
    bytes
}

/// What the events with all fields were made from.
fn full(number: u64) -> TrafficEvent {
    TrafficEvent {
        number,
        time_ms: 1_764_000_000_123,
        method: Some(b"GET".to_vec()),
        host: Some(b"a.example:80".to_vec()),
        path: Some(b"/p\xff".to_vec()),
        client: Some("2001:db8::1".parse().unwrap()),
        verdict: VerdictCode::Deny,
        reason: Some("ip_banned".into()),
        rule: Some("2001:db8::/32".into()),
        route: Some("r".into()),
        template: None,
        shadow_limit: None,
        status: Some(403),
        duration_us: Some(1_234),
        upstream_us: Some(567),
        bytes_in: Some(89),
        bytes_out: Some(1_011),
        user_agent: Some(b"curl/8".to_vec()),
        tunnel: true,
        tables_seq: 42,
        country: Country::new(b"DE"),
        modes: Some(Modes {
            ip: Mode::Cached,
            geo: Mode::Direct,
            route: Mode::Shadow,
            parallel: true,
            async_recording: false,
        }),
        answered: PerCheck { ip: Answered::Cache, geo: Answered::Direct, route: Answered::Fallback },
        mismatches: vec![Mismatch {
            check: Check::Route,
            direct: "r".into(),
            cached: "s".into(),
            direct_seq: 9,
            cached_seq: 8,
        }],
    }
}

#[test]
fn a_batch_of_the_version_before_is_read_and_so_is_one_of_this() {
    let seen = TrafficEvent {
        number: 4,
        client: Some("192.0.2.1".parse().unwrap()),
        verdict: VerdictCode::Allow,
        status: Some(200),
        ..TrafficEvent::default()
    };
    let unseen = TrafficEvent { number: 5, verdict: VerdictCode::Unseen, ..TrafficEvent::default() };
    let batch = Batch {
        source: Source(7),
        first: 3,
        numbered_hi: 9,
        closing: true,
        dropped: vec![DroppedRange { source: Source(7), first: 1, last: 2, reason: DropReason::BufferFull }],
        events: vec![full(3), seen, unseen],
    };
    assert_eq!(read_batch(&written("batch")).as_ref(), Ok(&batch));
    assert_eq!(read_batch(&batch.to_bytes().unwrap()).as_ref(), Ok(&batch));
    for version in [FORMER_BATCH - 1, BATCH_FORMAT + 1] {
        let mut other = written("batch");
        other[0] = version;
        let refused = WireError::Version { found: version, known: BATCH_FORMAT };
        assert_eq!(read_batch(&other), Err(refused));
    }
}

#[test]
fn an_open_event_of_the_version_before_is_read_and_so_is_one_of_this() {
    let open = OpenEvent { source: Source(7), event: full(6) };
    assert_eq!(read_open(&written("open")).as_ref(), Ok(&open));
    assert_eq!(read_open(&open.to_bytes().unwrap()).as_ref(), Ok(&open));
    assert!(read_open(&[FORMER_OPEN]).is_err() && read_open(&[]).is_err());
}

#[test]
fn numbers_of_the_version_before_are_checked_as_well() {
    let mut batch = written("batch");
    // `first`, after the version and the source.
    assert_eq!(std::mem::replace(&mut batch[2], 4), 3);
    assert_eq!(read_batch(&batch), Err(WireError::Malformed("event numbers are not one run")));
    let mut open = written("open");
    assert_eq!(std::mem::replace(&mut open[2], 0), 6);
    assert_eq!(read_open(&open), Err(WireError::Malformed("event number 0")));
}

#[test]
fn a_question_of_the_version_before_is_answered_in_its_version() {
    let headers: [(&[u8], &[u8]); 1] = [(b"x-one", b"\xff")];
    let facts = Facts {
        client: Some("192.0.2.1".parse().unwrap()),
        method: b"GET",
        host: b"a.example",
        path: b"/p?q",
        headers: &headers,
        dice: 7,
    };
    let question = Question::new(Check::Route, 3, &facts, Given::Table);
    assert_eq!(read_question(&written("question")), Ok((question.clone(), FORMER_CHECK)));
    assert_eq!(read_question(&question.to_bytes().unwrap()), Ok((question.clone(), CHECK_FORMAT)));

    let verdict = RuleVerdict { name: "g".into(), global: true, denies: None };
    let geo = GeoAnswer { country: Country::new(b"DE"), verdicts: vec![verdict] };
    for (name, found) in [
        ("answer ip", Found::Ip(IpFinding::Clear)),
        ("answer geo", Found::Geo(geo)),
        ("answer no route", Found::Route(Ok(None))),
        ("answer route", Found::Route(Ok(Some(route())))),
    ] {
        let answer = answer(found);
        assert_eq!(answer_bytes(&answer, FORMER_CHECK), Ok(Some(written(name))), "{name}");
        assert_eq!(answer_bytes(&answer, CHECK_FORMAT), answer.to_bytes().map(Some), "{name}");
    }
}

fn answer(found: Found) -> Answer {
    Answer { id: 3, version: Version { epoch: 0xab, seq: 7 }, found }
}

fn route() -> RouteAnswer {
    RouteAnswer {
        route: "r".into(),
        rule: 1,
        template: Some("/{any}".into()),
        backend: Some(Backend {
            name: "b".into(),
            namespace: Some("n".into()),
            port: Some(80),
            target: None,
        }),
        geo: vec!["g".into()],
        action: None,
        backend_action: None,
    }
}

#[test]
fn what_the_version_before_has_no_words_for_is_not_answered_by_half() {
    let action = Some(std::sync::Arc::new(Action::default()));
    for found in [
        Err(TooLong),
        Ok(Some(RouteAnswer { action: action.clone(), ..route() })),
        Ok(Some(RouteAnswer { backend_action: action, ..route() })),
    ] {
        let answer = answer(Found::Route(found));
        assert_eq!(answer_bytes(&answer, FORMER_CHECK), Ok(None));
        assert!(answer_bytes(&answer, CHECK_FORMAT).unwrap().is_some());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_an_error(mut bytes: Vec<u8>, flip: usize, to: u8) {
        for version in [FORMER_BATCH, FORMER_OPEN, FORMER_CHECK] {
            if let Some(first) = bytes.first_mut() { *first = version; }
            let _ = (read_batch(&bytes), read_open(&bytes), read_question(&bytes));
        }
        let mut batch = written("batch");
        let at = flip % batch.len();
        batch[at] = to;
        let _ = read_batch(&batch);
        batch.truncate(at);
        let _ = read_batch(&batch);
    }
}
