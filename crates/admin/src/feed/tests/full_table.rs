//! A table of addresses with more rows than fit: its own trouble.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_policy::address::Prefix;
use tidegate_policy::flags::{Flag, FlagState};
use tidegate_policy::table::AddressTable;
use tidegate_policy::tables::Table;
use tokio::time::sleep;

use super::gateway::{SimGateway, banned};
use super::memory::{Memory, row};
use super::{start, tiny};
use crate::feed::{Feed, FeedOptions, RowStatus};
use crate::store::{DocumentKind, IpRow, StoreTable};

/// Room for this many IPv4 entries.
fn room_for(v4: usize) -> FeedOptions {
    FeedOptions { table_limit: AddressTable::most_bytes(v4, 0), ..tiny() }
}

/// A row that came in this second of a minute.
fn at(second: u8, ip: &str, status: &str) -> IpRow {
    IpRow { created_at: Some(format!("2026-11-23 18:00:{second:02}")), ..row(ip, status, None) }
}

async fn settle(feed: &Feed) {
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
}

fn prefixes(of: impl IntoIterator<Item = Prefix>) -> Vec<String> {
    of.into_iter().map(|prefix| prefix.to_string()).collect()
}

/// What a gateway bans that polls, one that starts now, and a direct question.
async fn bans_everywhere(feed: &Feed, gateway: &mut SimGateway) -> Vec<String> {
    while gateway.poll(feed).await.is_some() {}
    let mut fresh = SimGateway::new("fresh");
    fresh.poll(feed).await.unwrap();
    let direct = banned(&feed.tables().await.unwrap().bans);
    assert_eq!((&gateway.banned(), &fresh.banned()), (&direct, &direct));
    prefixes(direct.into_keys())
}

#[tokio::test(start_paused = true)]
async fn the_first_are_in_and_the_others_wait_while_all_other_tables_flow() {
    let store = Arc::new(Memory::default());
    store.put([at(3, "192.0.2.3", "banned"), at(1, "192.0.2.9", "banned"), at(2, "192.0.2.1", "banned")]);
    store.put([at(4, "192.0.2.2", "banned"), at(5, "192.0.2.4", "allowed")]);
    // The service starts, although they do not fit.
    let feed = start(&store, room_for(3)).await;
    let mut gateway = SimGateway::new("g");
    let inside = ["192.0.2.1", "192.0.2.3", "192.0.2.9"];
    assert_eq!(bans_everywhere(&feed, &mut gateway).await, inside);
    let left_out = |feed: &Feed| prefixes(feed.snapshot().left_out(RowStatus::Banned));
    assert_eq!(left_out(&feed), ["192.0.2.2"]);
    let snapshot = feed.snapshot();
    assert_eq!((snapshot.count(RowStatus::Banned), snapshot.quarantined(StoreTable::Ip)), (3, 1));
    let listed = snapshot.list(Some(RowStatus::Banned), None);
    let listed: Vec<_> = listed.map(|listed| (listed.prefix.to_string(), listed.left_out)).collect();
    assert_eq!(listed.iter().filter(|(_, left_out)| *left_out).count(), 1, "{listed:?}");
    for (prefix, may_be_banned) in [("192.0.2.1", true), ("192.0.2.2", false), ("10.0.0.1", false)] {
        assert_eq!(
            snapshot.has_room_for(RowStatus::Banned, &prefix.parse().unwrap()),
            may_be_banned,
            "{prefix}"
        );
    }

    // One that came earlier does not put out what is in; and flags flow.
    store.put([at(0, "192.0.2.0", "banned")]);
    store.put_flag("enableRouteCache", "true");
    settle(&feed).await;
    assert_eq!(bans_everywhere(&feed, &mut gateway).await, inside);
    assert_eq!(gateway.flags().get(Flag::RouteCache), &FlagState::On);
    assert_eq!(left_out(&feed), ["192.0.2.0", "192.0.2.2"]);
    assert_eq!(feed.health().trouble, None);

    // A change of what is in is carried out; what leaves makes room for the first that waits.
    store.put([at(1, "192.0.2.9", "watched")]);
    settle(&feed).await;
    assert_eq!(bans_everywhere(&feed, &mut gateway).await, ["192.0.2.0", "192.0.2.1", "192.0.2.3"]);
    store.delete("192.0.2.2");
    store.delete("192.0.2.1");
    settle(&feed).await;
    assert_eq!(bans_everywhere(&feed, &mut gateway).await, ["192.0.2.0", "192.0.2.3"]);
    assert_eq!((left_out(&feed).len(), feed.snapshot().quarantined(StoreTable::Ip)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn allowed_addresses_have_a_limit_of_their_own() {
    let store = Arc::new(Memory::default());
    store.put((1..=4).map(|n| at(n, &format!("192.0.2.{n}"), "allowed")));
    store.ban("192.0.2.9");
    let feed = start(&store, room_for(3)).await;
    let mut gateway = SimGateway::new("g");
    assert_eq!(bans_everywhere(&feed, &mut gateway).await, ["192.0.2.9"]);
    assert_eq!(gateway.of(Table::Allow).len(), 3);
    assert_eq!(prefixes(feed.snapshot().left_out(RowStatus::Allowed)), ["192.0.2.4"]);
    store.delete("192.0.2.1");
    settle(&feed).await;
    gateway.poll(&feed).await.unwrap();
    assert_eq!(prefixes(gateway.of(Table::Allow).into_keys()), ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
}

/// What sources have in shadow is in the same room as watched rows, and comes after them.
#[tokio::test(start_paused = true)]
async fn bans_in_shadow_of_rows_and_sources_share_a_limit() {
    let store = Arc::new(Memory::default());
    let of = |n: u8| (Prefix::host([192, 0, 2, n].into()), None);
    store.put([at(1, "192.0.2.1", "watched")]);
    store.put_document(DocumentKind::Source, "a", r#"{"url":"https://lists.example.com/x","mode":"shadow"}"#);
    store.set_source("a", Some(super::sources::set((1..=4).map(of))));
    let feed = start(&store, room_for(3)).await;
    let mut gateway = SimGateway::new("g");
    let watched = async |gateway: &mut SimGateway| {
        settle(&feed).await;
        while gateway.poll(&feed).await.is_some() {}
        let direct =
            feed.tables().await.unwrap().shadow_bans.iter().map(|entry| entry.prefix).collect::<Vec<_>>();
        assert_eq!(prefixes(gateway.of(Table::ShadowBans).into_keys()), prefixes(direct.clone()));
        assert_eq!(feed.snapshot().count(RowStatus::Watched), direct.len());
        (prefixes(direct), prefixes(feed.snapshot().left_out(RowStatus::Watched)))
    };
    let of_last = |all: &[&str]| all.iter().map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>();
    assert_eq!(watched(&mut gateway).await, (of_last(&["1", "2", "3"]), of_last(&["4"])));
    // The row goes, and what the source has of the same address stays.
    store.delete("192.0.2.1");
    store.set_source("a", Some(super::sources::set([1, 3, 4].map(of))));
    assert_eq!(watched(&mut gateway).await, (of_last(&["1", "3", "4"]), Vec::new()));
    store.put_document(DocumentKind::Source, "a", r#"{"url":"https://lists.example.com/x"}"#);
    assert_eq!(watched(&mut gateway).await, (Vec::new(), Vec::new()));
    assert_eq!(prefixes(gateway.banned().into_keys()), of_last(&["1", "3", "4"]));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, bool),
    Delete(u8),
    Bulk(Vec<(u8, u8)>),
    Restart,
    Poll,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..30u8, 0..60u8, prop::bool::weighted(0.8)).prop_map(|(n, at, ban)| Step::Put(n, at, ban)),
        3 => (0..30u8).prop_map(Step::Delete),
        1 => prop::collection::vec((0..30u8, 0..60u8), 1..25).prop_map(Step::Bulk),
        1 => Just(Step::Restart),
        2 => Just(Step::Poll),
    ]
}

/// Carries the steps out; after each of them the table has what fits, and gateways have that.
async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = Arc::new(Memory::default());
    let mut feed = start(&store, room_for(9)).await;
    let mut gateway = SimGateway::new("g");
    let ip = |n: u8| if n < 20 { format!("192.0.2.{n}") } else { format!("2001:db8::{n}") };
    let mut before = Vec::new();
    for step in steps {
        let mut restarted = false;
        match step {
            Step::Put(n, second, ban) => {
                store.put([at(second, &ip(n), if ban { "banned" } else { "watched" })]);
            }
            Step::Delete(n) => {
                store.delete(&ip(n));
            }
            Step::Bulk(all) => {
                store.put(all.iter().map(|(n, second)| at(*second, &ip(*n), "banned")));
            }
            Step::Restart => {
                feed = start(&store, room_for(9)).await;
                restarted = true;
            }
            Step::Poll => {}
        }
        settle(&feed).await;
        let is = bans_everywhere(&feed, &mut gateway).await;
        let rows: BTreeMap<String, Option<String>> = store
            .rows()
            .ips
            .values()
            .filter(|row| row.status == "banned")
            .map(|row| (row.ip.clone(), row.created_at.clone()))
            .collect();
        let left_out = prefixes(feed.snapshot().left_out(RowStatus::Banned));
        prop_assert!(is.iter().chain(&left_out).all(|ip| rows.contains_key(ip)));
        prop_assert_eq!(is.len() + left_out.len(), rows.len());
        let bytes = |more: &str| {
            let v6 = is.iter().map(String::as_str).chain([more]).filter(|ip| ip.contains(':')).count();
            AddressTable::most_bytes(is.len() + usize::from(!more.is_empty()) - v6, v6)
        };
        prop_assert!(bytes("") <= room_for(9).table_limit);
        if let Some(first) = left_out.first() {
            prop_assert!(bytes(first) > room_for(9).table_limit, "{} fits", first);
            prop_assert_eq!(left_out.iter().map(|ip| &rows[ip]).is_sorted(), true);
        }
        if !restarted {
            let stays = |ip: &&String| rows.contains_key(*ip);
            prop_assert!(before.iter().filter(stays).all(|ip| is.contains(ip)), "put out");
        } else if let Some(first) = left_out.first() {
            prop_assert!(is.iter().all(|ip| rows[ip] <= rows[first]), "not the first");
        }
        before = is;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 500, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn whatever_comes_and_goes_the_table_has_what_fits(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
