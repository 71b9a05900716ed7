//! What gateways and the admin service send each other.

use std::fmt::Debug;

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::codec::FormatError;
use tidegate_policy::decide::CountrySource;
use tidegate_policy::digest::SetDigest;
use tidegate_policy::limit::Bucket;
use tidegate_policy::request::Facts;
use tidegate_policy::table::{Entry, EntryState};
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, Question};
use tidegate_policy::wire::event::{Batch, BatchHead, EventPost, OpenEvent, SealedBatch, TrafficEvent, VmId};
use tidegate_policy::wire::sync::{BansUpdate, BlobRef, OverlayUpdate, SyncAnswer, WholeUpdate};

/// Reads all but the first byte as the message that the first is the number of. What can be read
/// is written so that it is read as the same.
pub fn run(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    match first % 7 {
        0 => same_again(bytes, SyncAnswer::from_bytes, SyncAnswer::to_bytes),
        1 => same_again(bytes, Answer::from_bytes, Answer::to_bytes),
        2 => same_again(bytes, EventPost::from_bytes, EventPost::to_bytes),
        3 => same_again(bytes, Batch::from_bytes, Batch::to_bytes),
        4 => same_again(bytes, OpenEvent::from_bytes, OpenEvent::to_bytes),
        5 => {
            let Ok(question) = Question::from_bytes(bytes) else { return false };
            let again = question.to_bytes().expect("what was read can be written");
            assert_eq!(Question::from_bytes(&again).as_ref(), Ok(&question));
            true
        }
        _ => {
            let is_batch = BatchHead::read(bytes).is_ok();
            Bucket::from_bytes(bytes).is_ok() || is_batch
        }
    }
}

fn same_again<T: PartialEq + Debug>(
    bytes: &[u8],
    read: fn(&[u8]) -> Result<T, FormatError>,
    write: fn(&T) -> Result<Vec<u8>, FormatError>,
) -> bool {
    let Ok(value) = read(bytes) else { return false };
    let again = write(&value).expect("what was read can be written");
    assert_eq!(read(&again).as_ref(), Ok(&value));
    true
}

/// One of each kind.
pub fn samples() -> Vec<Vec<u8>> {
    let version = Version { epoch: 7, seq: 9 };
    let state = EntryState::Present(Some(1_800_000_000));
    let entry = |prefix: &str| Entry { prefix: prefix.parse().expect("a prefix"), state };
    let bans = BansUpdate {
        base: BlobRef::of(b"base"),
        fold: Some(vec![entry("10.0.0.0/8")]),
        overlay: OverlayUpdate::Delta(vec![entry("192.0.2.1"), entry("2001:db8::/32")]),
        digest: SetDigest { count: 3, sum: 5 },
    };
    let flags = Table::Flags.empty_bytes().expect("flags");
    let whole = WholeUpdate { table: Table::Flags, blob: BlobRef::of(&flags), bytes: Some(flags) };
    let sync = SyncAnswer {
        version,
        refresh: 1,
        server_time_ms: 1_800_000_000_000,
        ack_wanted: true,
        whole: vec![whole],
        bans: Some(bans),
    };
    let answer = Answer { id: 3, version, found: Found::Geo(GeoAnswer::default()) };
    let event = TrafficEvent {
        number: 1,
        method: Some(b"GET".to_vec()),
        host: Some(b"a.example".to_vec()),
        path: Some(b"/\xff".to_vec()),
        client: "192.0.2.1".parse().ok(),
        reason: Some("ip_banned".to_owned()),
        answered: PerCheck::default(),
        ..TrafficEvent::default()
    };
    let batch = Batch { first: 1, numbered_hi: 1, events: vec![event.clone()], ..Batch::default() };
    let post =
        EventPost { batches: vec![SealedBatch(batch.to_bytes().expect("a batch"))], ..EventPost::default() };
    let open = OpenEvent { source: VmId(5), event };
    let headers: &[(&[u8], &[u8])] = &[(b"x", b"\xff")];
    let facts = Facts { method: b"GET", host: b"a.example", path: b"/a", headers, ..Facts::default() };
    let question = Question::new(Check::Route, 3, &facts, CountrySource::Table);
    let messages = [
        sync.to_bytes(),
        answer.to_bytes(),
        post.to_bytes(),
        batch.to_bytes(),
        open.to_bytes(),
        question.to_bytes(),
        Ok(Bucket::default().to_bytes()),
    ];
    let numbered = |(number, bytes): (u8, Result<Vec<u8>, FormatError>)| {
        [&[number][..], &bytes.expect("a message")].concat()
    };
    (0u8..).zip(messages).map(numbered).collect()
}
