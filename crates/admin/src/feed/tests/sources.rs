//! Sets of sources on their way to gateways, beside the bans of rows. Time is paused.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::decide::IpFinding;
use tidegate_policy::request::Facts;
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::Table;
use tidegate_policy::wire::sync::OverlayUpdate;
use tokio::time::sleep;

use super::gateway::SimGateway;
use super::memory::{Memory, row};
use super::{from, start, tiny};
use crate::feed::{Feed, FeedOptions, RowStatus, SourceSet};
use crate::store::{DocumentKind, ScopedBanRow, StoreTable};

const DOCUMENT: &str = r#"{"url":"https://lists.example.com/x","reason":"listed"}"#;

/// The bytes of a set.
pub fn set(entries: impl IntoIterator<Item = (Prefix, Option<UnixSeconds>)>) -> Vec<u8> {
    let mut entries: Vec<Entry> =
        entries.into_iter().map(|(prefix, end)| Entry { prefix, state: EntryState::Present(end) }).collect();
    entries.sort_by_key(|entry| entry.prefix);
    AddressTable::encode(entries.into_iter()).unwrap()
}

fn of(entries: &[(&str, Option<UnixSeconds>)]) -> Vec<u8> {
    set(entries.iter().map(|(prefix, end)| (prefix.parse().unwrap(), *end)))
}

async fn settle(feed: &Feed) {
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
}

/// Until when `ip` is banned, by the feed's snapshot and by its tables; and whose lists have it.
async fn banned(feed: &Feed, ip: &str) -> Option<(Option<UnixSeconds>, String)> {
    let prefix: Prefix = ip.parse().unwrap();
    let tables = feed.tables().await.unwrap();
    let listed = feed.snapshot().listed(&prefix, RowStatus::Banned);
    let in_table = tables.bans.get(&prefix);
    assert_eq!(in_table, listed.as_ref().map(|listed| EntryState::Present(listed.expires)), "{ip}");
    listed.map(|listed| {
        (listed.expires, if listed.sources.is_empty() { "-".to_owned() } else { listed.sources.join(",") })
    })
}

fn by(end: Option<UnixSeconds>, sources: &str) -> Option<(Option<UnixSeconds>, String)> {
    Some((end, sources.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_address_is_banned_while_a_source_or_a_row_says_so() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let (ip, early, late) = ("192.0.2.1", 1_795_456_800, 1_795_456_900);
    store.set_source("a", Some(of(&[(ip, Some(early)), ("198.51.100.0/24", None)])));
    assert_eq!(banned(&feed, ip).await, None, "it has no document");
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    assert_eq!(banned(&feed, ip).await, by(Some(early), "a"));
    assert_eq!(
        feed.snapshot().listed(&ip.parse().unwrap(), RowStatus::Banned).unwrap().reason.as_deref(),
        Some("listed")
    );
    store.put_document(DocumentKind::Source, "b", DOCUMENT);
    store.set_source("b", Some(of(&[(ip, Some(late))])));
    assert_eq!(banned(&feed, ip).await, by(Some(late), "a,b"));
    store.put([row(ip, "banned", None)]);
    assert_eq!(banned(&feed, ip).await, by(None, "a,b"));
    let listed = feed.snapshot().listed(&ip.parse().unwrap(), RowStatus::Banned).unwrap();
    assert_eq!((listed.source, listed.own), (None, Some((Some("because".into()), None))));
    store.set_source("b", Some(of(&[])));
    assert_eq!(banned(&feed, ip).await, by(None, "a"));
    store.delete_document(DocumentKind::Source, "a");
    assert_eq!(banned(&feed, ip).await, by(None, "-"));
    store.delete(ip);
    assert_eq!(banned(&feed, ip).await, None);
    assert_eq!(banned(&feed, "198.51.100.0/24").await, None);
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    assert_eq!(banned(&feed, "198.51.100.0/24").await, by(None, "a"));

    // An allowed address is let in, as with any ban.
    store.put([row("198.51.100.7", "allowed", None)]);
    let tables = feed.tables().await.unwrap();
    let found = |ip: &str| IpFinding::look_up(&from(ip.parse().unwrap()), &tables, || early);
    assert!(matches!(found("198.51.100.7"), IpFinding::Allowed(_)));
    assert!(matches!(found("198.51.100.8"), IpFinding::Banned(_)));
    let listed: Vec<String> =
        feed.snapshot().list(Some(RowStatus::Banned), None).map(|listed| listed.prefix.to_string()).collect();
    assert_eq!(listed, [ip, "198.51.100.0/24"]);
    let behind = feed
        .snapshot()
        .list(None, ip.parse().ok())
        .map(|listed| listed.prefix.to_string())
        .collect::<Vec<_>>();
    assert_eq!(behind, ["198.51.100.0/24", "198.51.100.7"]);
    assert_eq!(feed.snapshot().covering("198.51.100.8".parse().unwrap()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_read_leaves_the_one_before_it() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    store.set_source("a", Some(of(&[("192.0.2.1", None)])));
    let feed = start(&store, tiny()).await;
    store.set_source("a", Some(vec![0; 40]));
    assert_eq!(banned(&feed, "192.0.2.1").await, by(None, "a"));
    let bad = feed.snapshot().quarantine().last().unwrap();
    assert_eq!((bad.table, &*bad.key), (StoreTable::SourceSets, "a"));
    assert!(bad.why.contains("stays in force") && bad.why.contains("refresh"), "{}", bad.why);
    store.set_source("a", Some(of(&[("192.0.2.2", None)])));
    assert_eq!((banned(&feed, "192.0.2.1").await, feed.snapshot().quarantine().len()), (None, 0));
    // What no trigger told is found by comparing.
    store.change_unseen(|rows| rows.source_sets.clear());
    sleep(Duration::from_secs(700)).await;
    assert_eq!(banned(&feed, "192.0.2.2").await, None);
}

/// `count` addresses from the `from`th on.
fn hosts(from: u32, count: u32) -> impl Iterator<Item = (Prefix, Option<UnixSeconds>)> {
    (from..from + count).map(|n| (Prefix::host(Ipv4Addr::from_bits(0x0b00_0000 + n).into()), None))
}

#[tokio::test(start_paused = true)]
async fn a_large_source_that_changes_a_little_costs_gateways_an_overlay() {
    const ALL: u32 = 1_000_000;
    const CHANGED: u32 = ALL / 100;
    let store = Arc::new(Memory::default());
    let feed = start(&store, FeedOptions::default()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let fetched = gateway.fetched;
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    let bytes = set(hosts(0, ALL));
    assert!(bytes.len() < 6 * ALL as usize, "{} bytes", bytes.len());
    store.set_source("a", Some(bytes));
    settle(&feed).await;
    gateway.poll(&feed).await;
    assert_eq!((gateway.banned().len(), gateway.fetched), (ALL as usize, fetched + 1));
    let base = feed.snapshot().tables.base;

    store.set_source("a", Some(set(hosts(CHANGED, ALL))));
    settle(&feed).await;
    let answer = gateway.ask(&feed, Duration::ZERO).await.unwrap();
    assert!(answer.len() < 200_000, "{} bytes", answer.len());
    let update = gateway.poll(&feed).await.unwrap().bans.unwrap();
    let OverlayUpdate::Delta(changes) = update.overlay else { panic!("the whole overlay") };
    assert_eq!((changes.len(), update.base), (2 * CHANGED as usize, base));
    assert_eq!((gateway.fetched, feed.snapshot().tables.overlay), (fetched + 1, 2 * CHANGED as usize));
    let banned = gateway.banned();
    assert_eq!(banned.len(), ALL as usize);
    assert!(hosts(CHANGED, ALL).all(|(prefix, _)| banned.contains_key(&prefix)));
}

/// All that a source in shadow has is in shadow, and what others simulate.
#[tokio::test(start_paused = true)]
async fn what_is_in_shadow_denies_nobody_until_the_mode_changes() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let shadow = DOCUMENT.replace('{', r#"{"mode":"shadow","#);
    store.put_document(DocumentKind::Source, "a", &shadow);
    store.put_document(DocumentKind::Source, "b", DOCUMENT);
    let set = |listed: &[(&str, _)], simulated| Some(SourceSet::encode(of(listed), &of(simulated)));
    store.set_source("a", set(&[("192.0.2.1", None), ("192.0.2.3", None)], &[("192.0.2.2", Some(9))]));
    store.set_source("b", set(&[("192.0.2.3", None)], &[("192.0.2.1", Some(9)), ("192.0.2.4", None)]));
    let found = async |last: u8| {
        let (client, tables) = (format!("192.0.2.{last}").parse().ok(), feed.tables().await.unwrap());
        match IpFinding::look_up(&from(client.unwrap()), &tables, || 1) {
            IpFinding::Banned(_) => "banned",
            IpFinding::ShadowBanned(_) => "watched",
            _ => "clear",
        }
    };
    for (last, wanted) in [(1, "watched"), (2, "watched"), (3, "banned"), (4, "watched"), (5, "clear")] {
        assert_eq!(found(last).await, wanted, "{last}");
    }
    let listed = |ip: &str| feed.snapshot().listed(&ip.parse().unwrap(), RowStatus::Watched).unwrap();
    let one = listed("192.0.2.1");
    assert_eq!(
        (one.sources.join(","), one.expires, one.reason.as_deref()),
        ("a,b".into(), None, Some("listed"))
    );
    // A row in shadow beside it has its own reason.
    store.put([row("192.0.2.1", "watched", None)]);
    feed.current().await;
    assert_eq!((listed("192.0.2.1").source, listed("192.0.2.1").own.is_some()), (None, true));
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    for (last, wanted) in [(1, "banned"), (2, "watched"), (3, "banned"), (4, "watched")] {
        assert_eq!(found(last).await, wanted, "{last}");
    }
}

/// A source of some hostnames is not sent again for a ban of others, and comes in when there is room for its scope.
#[tokio::test(start_paused = true)]
async fn bans_of_some_hostnames_do_not_send_the_list_of_a_source_again() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, FeedOptions::default()).await;
    let mut gateway = SimGateway::new("g");
    let scope = |name: &str| format!(r#"{{"hostnames":["{name}.example"]}}"#);
    let scoped = |ip: &str, name: &str| ScopedBanRow {
        ip: ip.to_owned(),
        applies_to: scope(name),
        status: "banned".to_owned(),
        created_at: Some("2026-11-22".to_owned()),
        ..ScopedBanRow::default()
    };
    store.put_document(
        DocumentKind::Source,
        "a",
        DOCUMENT.replace('{', &format!(r#"{{"applies_to":{},"#, scope("s"))),
    );
    store.set_source("a", Some(set(hosts(0, 300_000))));
    settle(&feed).await;
    gateway.poll(&feed).await;
    let size = |gateway: &SimGateway, table| gateway.whole[&table].1.len();
    assert!(size(&gateway, Table::ScopedSources) > 300_000);
    let mut whole = async || {
        settle(&feed).await;
        let answer = gateway.poll(&feed).await.unwrap();
        let tables: Vec<Table> = answer.whole.iter().map(|update| update.table).collect();
        (tables, size(&gateway, Table::ScopedBans))
    };
    // Its name is before the source's: what a table calls a scope is its own affair.
    let row = scoped("11.0.0.1", "a");
    store.put_scoped(row.clone());
    let (tables, len) = whole().await;
    assert!(tables == [Table::ScopedBans] && len < 200, "{tables:?}, {len} bytes");
    let found = async |host: &str| {
        let tables = feed.tables().await.unwrap();
        let facts = Facts { host: host.as_bytes(), ..from("11.0.0.1".parse().unwrap()) };
        IpFinding::look_up(&facts, &tables, || 1) != IpFinding::Clear
    };
    assert!(found("a.example").await && found("s.example").await && !found("b.example").await);
    store.delete_scoped(&row.key());
    assert_eq!(whole().await.0, [Table::ScopedBans]);

    // All scopes are taken; one that leaves makes room for the source's, whose table is sent then.
    store.set_source("a", None);
    settle(&feed).await;
    let rows: Vec<_> = (0..255).map(|n| scoped(&format!("11.0.1.{n}"), &format!("h{n}"))).collect();
    for row in &rows {
        store.put_scoped(row.clone());
    }
    store.set_source("a", Some(set(hosts(0, 3))));
    assert!(whole().await.0.contains(&Table::ScopedSources));
    assert!(!found("s.example").await);
    assert_eq!(feed.snapshot().scoped_left_out(), 3);
    store.delete_scoped(&rows[7].key());
    assert!(whole().await.0.contains(&Table::ScopedSources));
    assert!(found("s.example").await);
    assert_eq!(feed.snapshot().scoped_left_out(), 0);
}

/// A direct question is answered by the sets also while the newest tables are late.
#[tokio::test(start_paused = true)]
async fn direct_questions_find_what_sources_have() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Source, "a", DOCUMENT);
    store.set_source("a", Some(of(&[("192.0.2.0/24", None)])));
    let feed = start(&store, tiny()).await;
    let client = "192.0.2.9".parse().unwrap();
    let ask = async || {
        let tables = feed.tables_about(Some(client)).await.unwrap();
        matches!(IpFinding::look_up(&from(client), &tables, || 1), IpFinding::Banned(_))
    };
    assert!(ask().await);
    // All tables are read again, which does not end.
    store.set_slow(true);
    store.cut_log();
    store.ban("198.51.100.1");
    assert!(ask().await);
    store.set_slow(false);
}
