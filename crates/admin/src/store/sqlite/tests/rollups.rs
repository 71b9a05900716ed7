//! Statistics are what the stored events say.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tidegate_policy::check::{Answered, PerCheck};
use tidegate_policy::flags::Modes;
use tidegate_policy::wire::event::{OpenEvent, SourceState, TrafficEvent, VerdictCode, VmId};

use super::support::{foreign_connection, test_store, test_store_with};
use crate::store::sqlite::rollups::RollupState;
use crate::store::sqlite::rollups::fold;
use crate::store::sqlite::rollups::made::Random;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::statistics::VERDICTS;
use crate::store::tests::support::{batch_of, block_on, gateway, post_of, report, until};
use crate::store::{RequestStats, StatsFilter, Store, TopOf, time_text};
use tidegate_statistics::histogram::{HistogramSum, PRECISION};

/// Events of the comparison with a count.
const EVENTS: u64 = 100_000;

fn everything() -> StatsFilter {
    StatsFilter { since: 0, until: i64::MAX / 2, ..StatsFilter::default() }
}

/// A request of the last ten minutes, or of any of the last three weeks. There are fewer kinds than a span holds.
fn random_event(number: u64, random: &mut Random) -> TrafficEvent {
    let now = u64::try_from(time_text::now_ms()).unwrap();
    let age = if random.below(10) == 0 { 21 * 86_400_000 } else { 600_000 };
    let mut maybe = |value: u64| (random.below(8) > 0).then_some(value);
    let (route, template) = (maybe(0), maybe(0));
    let (duration_us, upstream_us, gate_us) = (maybe(1), maybe(1), maybe(1));
    let (bytes_in, bytes_out) = (maybe(77), maybe(1_234));
    let verdicts = [VerdictCode::Allow, VerdictCode::Allow, VerdictCode::Deny, VerdictCode::Unseen];
    let verdict = verdicts[random.below(4) as usize];
    let answers = [Answered::Cache, Answered::Cache, Answered::Cache, Answered::Direct, Answered::Unneeded];
    TrafficEvent {
        number,
        time_ms: now - random.below(age),
        method: Some([&b"GET"[..], b"POST", b"BREW"][random.below(3) as usize].to_vec()),
        host: Some(format!("Host-{}.example:8443", random.below(2)).into_bytes()),
        path: Some(format!("/{}", random.below(1_000)).into_bytes()),
        client: Some([192, 0, 2, random.below(200) as u8].into()),
        verdict,
        reason: (verdict == VerdictCode::Deny).then(|| "rate_limited".to_owned()),
        rule: (verdict == VerdictCode::Deny).then(|| "by-address".to_owned()),
        route: route.map(|_| format!("route-{}", random.below(3))),
        template: template.map(|_| format!("/{{part-{}}}", random.below(2))),
        status: [None, Some(200), Some(503)][random.below(3) as usize],
        duration_us: duration_us.map(|_| random.time()),
        upstream_us: upstream_us.map(|_| random.time()),
        gate_us: gate_us.map(|_| random.below(3) * random.time()),
        bytes_in,
        bytes_out,
        tunnel: random.below(50) == 0,
        modes: (random.below(5) > 0).then(Modes::default),
        answered: PerCheck::from_fn(|_| answers[random.below(5) as usize]),
        ..TrafficEvent::default()
    }
}

/// Stores `count` random events: in batches some of which come twice, and some events open before. Each batch is in
/// the order of time, as those of gateways: in any other order each event is of another span than the one before,
/// which takes ten times as long.
async fn store_random(store: &SqliteStore, random: &mut Random, count: u64) {
    let size = count / 40;
    let mut number = 1;
    while number <= count {
        let mut batch: Vec<_> = (number..number + size).map(|number| random_event(number, random)).collect();
        let mut times: Vec<u64> = batch.iter().map(|event| event.time_ms).collect();
        times.sort_unstable();
        batch.iter_mut().zip(times).for_each(|(event, time_ms)| event.time_ms = time_ms);
        for event in batch.iter().filter(|event| event.number % 97 == 0) {
            let open = OpenEvent { source: VmId(7), event: TrafficEvent { status: None, ..event.clone() } };
            store.open_event(gateway(1), open).await.unwrap();
        }
        number += size;
        let post = post_of(vec![batch_of(7, batch)]);
        store.append(post.clone()).await.unwrap();
        if random.below(4) == 0 {
            store.append(post).await.unwrap();
        }
    }
}

/// What is counted of a path, without its times: requests, denied, bytes in and out, checked, cached, classes.
type Counts = ([u64; 6], [u64; 6]);

#[derive(Default)]
struct Counted {
    counts: Counts,
    durations: Vec<u64>,
    upstream: Vec<u64>,
    gate: Vec<u64>,
}

/// By route, template and method.
type CountedPaths = BTreeMap<[String; 3], Counted>;

/// Counts over `traffic_events`; the times are in order.
fn counted(path: &Path, where_: &str) -> CountedPaths {
    let conn = foreign_connection(path);
    let mut statement = conn
        .prepare(&format!(
            "SELECT coalesce(route, ''), coalesce(template, ''), iif(method = 'BREW', 'other', method),
               coalesce(status, 0) / 100, verdict = 'deny', coalesce(bytes_in, 0), coalesce(bytes_out, 0),
               coalesce(answered LIKE '%=hit%' OR answered LIKE '%=direct%', 0),
               coalesce(answered LIKE '%=hit%' AND answered NOT LIKE '%=direct%', 0),
               iif(tunnel, NULL, duration_ms), upstream_ms, gate_ms
             FROM traffic_events WHERE complete = 1 AND {where_}"
        ))
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut paths = CountedPaths::new();
    while let Some(row) = rows.next().unwrap() {
        let path = paths.entry([0, 1, 2].map(|column| row.get(column).unwrap())).or_default();
        let number = |column| row.get::<_, i64>(column).unwrap() as u64;
        let more = [1, number(4), number(5), number(6), number(7), number(8)];
        path.counts.0.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        path.counts.1[number(3) as usize] += 1;
        let us = |column| row.get::<_, Option<f64>>(column).unwrap().map(|ms| (ms * 1_000.0).round() as u64);
        path.durations.extend(us(9));
        path.upstream.extend(us(10));
        path.gate.extend(us(11));
    }
    for Counted { durations, upstream, gate, .. } in paths.values_mut() {
        [durations, upstream, gate].into_iter().for_each(|times| times.sort_unstable());
    }
    paths
}

fn counts(stats: &RequestStats) -> Counts {
    let RequestStats { requests, denied, bytes_in, bytes_out, checked, cached, classes, .. } = stats;
    ([*requests, *denied, *bytes_in, *bytes_out, *checked, *cached], *classes)
}

fn assert_times(found: &HistogramSum, exact: &[u64]) {
    assert_eq!(found.count(), exact.len() as u64);
    for share in [0.5, 0.95, 0.99] {
        let rank = ((exact.len() as f64 * share).ceil() as usize).max(1);
        match (found.quantile(share), exact.get(rank - 1)) {
            (Some(found), Some(&exact)) => {
                assert!(found.abs_diff(exact) as f64 <= exact as f64 * PRECISION, "{found}, not {exact}");
            }
            (found, exact) => assert_eq!(found.is_none(), exact.is_none()),
        }
    }
}

/// What is asked for, and what a count says of it.
fn count_all(path: &Path) -> Vec<(StatsFilter, CountedPaths)> {
    let filters = [
        (everything(), "true", 9),
        (StatsFilter { route: Some("route-1".into()), ..everything() }, "route = 'route-1'", 9),
        (
            StatsFilter { host: Some("host-1.example".into()), ..everything() },
            "route IS NOT NULL AND host LIKE 'host-1.%'",
            9,
        ),
        (
            StatsFilter { template: Some("/{part-1}".into()), method: Some("POST".into()), ..everything() },
            "template = '/{part-1}' AND method = 'POST'",
            4,
        ),
    ];
    let counted = filters.map(|(filter, where_, least)| {
        let counted = counted(path, where_);
        assert!(counted.len() >= least, "{}", counted.len());
        (filter, counted)
    });
    counted.into()
}

async fn assert_as_counted(store: &SqliteStore, all: &[(StatsFilter, CountedPaths)]) {
    for (filter, counted) in all {
        let timeline = store.timeline(filter.clone(), 300).await.unwrap();
        let by_route = store.path_stats(StatsFilter { by_route: true, ..filter.clone() }).await.unwrap();
        let answer = store.path_stats(filter.clone()).await.unwrap();
        assert_eq!(answer.total.requests, counted.values().map(|path| path.counts.0[0]).sum::<u64>());
        assert_eq!(answer.paths.len(), counted.len());
        for path in answer.paths {
            let wanted = &counted[&[path.route, path.template, path.method]];
            assert_eq!(counts(&path.stats), wanted.counts);
            assert_times(&path.stats.duration, &wanted.durations);
            assert_times(&path.stats.upstream, &wanted.upstream);
            assert_times(&path.stats.gate, &wanted.gate);
        }
        // The same in other parts.
        assert_eq!(by_route.total, answer.total);
        assert!(by_route.paths.len() <= 4 && by_route.paths.iter().all(|path| path.template.is_empty()));
        let [mut duration, mut gate] = [HistogramSum::default(), HistogramSum::default()];
        for point in timeline {
            assert!(point.at % point.seconds == 0 && point.seconds >= 300);
            duration.add_sum(&point.duration);
            gate.add_sum(&point.gate);
        }
        assert_eq!((duration, gate), (answer.total.duration, answer.total.gate));
    }
}

#[test]
fn paths_agree_with_a_count_over_the_events_by_the_minute_and_by_the_day() {
    let home = test_store();
    let counted = block_on(async {
        store_random(&home.store, &mut Random(7), EVENTS).await;
        let counted = count_all(&home.path);
        assert_as_counted(&home.store, &counted).await;
        let conn = foreign_connection(&home.path);
        let all: i64 =
            conn.query_row("SELECT count(*) FROM events WHERE complete = 1", [], |r| r.get(0)).unwrap();
        assert_eq!(all as u64, EVENTS);
        let mut sums = [0; 4];
        for point in home.store.timeline(everything(), 60).await.unwrap() {
            sums.iter_mut().zip(point.verdicts).for_each(|(sum, more)| *sum += more);
        }
        for (verdict, sum) in VERDICTS.into_iter().zip(sums) {
            let count = "SELECT count(*) FROM events WHERE verdict = ?1";
            let count: i64 = conn.query_row(count, [verdict], |row| row.get(0)).unwrap();
            assert_eq!(sum, count as u64, "{verdict}");
        }
        counted
    });
    let path = home.path.clone();
    drop(home.store);
    // All are merged into days.
    let soon = Duration::from_millis(10);
    let options =
        Options { minutes_for: soon, hours_for: soon, housekeeping_every: soon, ..Options::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let conn = foreign_connection(&path);
    block_on(async {
        until("all are in days", async || {
            let spans: i64 =
                conn.query_row("SELECT count(*) FROM rollups WHERE span < 86400", [], |r| r.get(0)).unwrap();
            (spans == 0).then_some(())
        })
        .await;
        assert_as_counted(&store, &counted).await;
    });
}

#[test]
fn a_request_is_counted_when_its_end_is_stored_and_once() {
    let options = Options { housekeeping_every: Duration::from_millis(10), ..Options::default() };
    let home = test_store_with(options);
    block_on(async {
        let event = random_event(1, &mut Random(3));
        let open = OpenEvent { source: VmId(7), event: event.clone() };
        home.store.open_event(gateway(1), open).await.unwrap();
        home.store.append(report(7, 1, SourceState::Dead)).await.unwrap();
        until("it is given up", async || {
            (home.store.recording().await.unwrap().incomplete == 1).then_some(())
        })
        .await;
        let requests = async || home.store.path_stats(everything()).await.unwrap().total.requests;
        assert_eq!(requests().await, 0);
        for _ in 0..2 {
            home.store.append(post_of(vec![batch_of(7, vec![event.clone()])])).await.unwrap();
            assert_eq!(requests().await, 1);
        }
    });
}

#[test]
fn a_request_of_a_clock_that_is_ahead_is_counted_as_now() {
    let home = test_store();
    block_on(async {
        let now = time_text::now_ms();
        let of = |number: u64, ahead: i64| TrafficEvent {
            number,
            time_ms: u64::try_from(now + ahead).unwrap(),
            ..TrafficEvent::default()
        };
        let events = vec![of(1, 0), of(2, 3_600_000), of(3, 400 * 86_400_000)];
        home.store.append(post_of(vec![batch_of(7, events)])).await.unwrap();
        let until = time_text::now_ms() / 1_000 + 1;
        let filter = StatsFilter { since: now / 1_000, until, ..StatsFilter::default() };
        assert_eq!(home.store.path_stats(filter).await.unwrap().total.requests, 3);
        let timeline = home.store.timeline(everything(), 60).await.unwrap();
        assert!(timeline.iter().all(|point| point.at < until), "{timeline:?}");
    });
}

#[test]
fn the_newest_key_stays_so_that_its_id_is_not_used_again() {
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    crate::store::sqlite::schema::ensure(&conn, crate::store::sqlite::schema::Upgrade::Allowed).unwrap();
    conn.execute_batch(
        "INSERT INTO rollup_keys (id, route, template, host, method, class, verdict, reason) VALUES
           (1, 'a', '', '', '', 0, '', ''), (2, 'b', '', '', '', 0, '', ''), (3, 'c', '', '', '', 0, '', '')",
    )
    .unwrap();
    let removed = fold::remove_keys(&conn, &RollupState::default(), &[1, 2, 3]).unwrap();
    let left = "SELECT group_concat(id) FROM rollup_keys";
    let left: String = conn.query_row(left, [], |row| row.get(0)).unwrap();
    assert_eq!((removed, left.as_str()), (2, "3"));
}

#[test]
fn a_minute_has_so_many_keys_and_hosts_and_the_rest_is_counted_without_a_name() {
    let home = test_store();
    block_on(async {
        let time_ms = u64::try_from(time_text::now_ms()).unwrap();
        let of = |number: u64| TrafficEvent {
            number,
            time_ms,
            route: Some(format!("route-{}", if number <= 500 { 0 } else { number })),
            host: Some(format!("{number}.example").into_bytes()),
            ..TrafficEvent::default()
        };
        for first in [1, 1_501] {
            let events = (first..first + 1_500).map(of).collect();
            home.store.append(post_of(vec![batch_of(7, events)])).await.unwrap();
        }
        let answer = home.store.path_stats(everything()).await.unwrap();
        assert_eq!(answer.total.requests, 3_000);
        let conn = foreign_connection(&home.path);
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        // The requests may be of two minutes.
        assert!(count("SELECT max(n) FROM (SELECT count(*) n FROM rollups GROUP BY at)") <= 1_001);
        assert!(count("SELECT count(DISTINCT host) FROM rollup_keys") <= 2 * 52);
        assert!(answer.paths.iter().any(|path| path.route == "other" && path.stats.requests > 500));
    });
}

#[test]
fn frequent_values_are_the_same_after_a_restart() {
    let home = test_store();
    let path = home.path.clone();
    let top = async |store: &SqliteStore| {
        let (mut all, now) = (Vec::new(), time_text::now_ms() / 1_000);
        for of in TopOf::ALL {
            all.push((of, store.top_values(of, (now - 86_400, now + 86_400), 2_000).await.unwrap()));
        }
        all
    };
    let (before, kept) = block_on(async {
        store_random(&home.store, &mut Random(5), 20_000).await;
        (top(&home.store).await, home.directory)
    });
    let denied: i64 = foreign_connection(&path)
        .query_row("SELECT count(*) FROM events WHERE reason = 'rate_limited'", [], |row| row.get(0))
        .unwrap();
    let limits = &before.iter().find(|(of, _)| *of == TopOf::Limit).unwrap().1;
    assert_eq!((limits[0].value.as_str(), limits[0].count, limits.len()), ("by-address", denied as u64, 1));
    let clients = &before.iter().find(|(of, _)| *of == TopOf::LimitedClient).unwrap().1;
    assert_eq!(clients.iter().map(|row| row.count).sum::<u64>(), denied as u64);
    drop(home.store);
    let again = SqliteStore::open(&path, Options::default()).unwrap();
    assert_eq!(block_on(top(&again)), before);
    drop(kept);
}
