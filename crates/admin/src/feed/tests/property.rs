//! Whatever happens, in whatever order: a gateway that polls ends with exactly
//! what the rows say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::sync::WholeTable;

use super::gateway::SimGateway;
use super::memory::{Memory, Rows, document, route, row};
use super::{start, tiny};
use crate::feed::Feed;

/// Keys as people write them: several are one prefix, some are none.
const KEYS: [&str; 24] = [
    "9.9.9.9",
    "9.9.9.9/32",
    "::ffff:9.9.9.9",
    "::ffff:909:909/128",
    "10.0.0.0/8",
    "10.1.2.3/8",
    "::ffff:10.9.9.9/104",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.0/24",
    "2001:db8::1",
    "2001:DB8:0::1/128",
    "2001:db8::/64",
    "2001:db8::ffff/64",
    "2001:db8::2",
    "::/0",
    "999.1.1.1",
    "1.2.3.4/33",
    " 9.9.9.9",
    "",
];
const STATUSES: [&str; 6] = ["banned", "banned", "banned", "allowed", "watched", "blocked"];
/// Ends with what they come to; `None` in the middle: nobody can read that.
const ENDS: [(Option<&str>, Option<Option<UnixSeconds>>); 6] = [
    (None, Some(None)),
    (Some("2026-11-23 18:00:00"), Some(Some(1_795_456_800))),
    (Some("2026-11-23T18:00:00.001Z"), Some(Some(1_795_456_801))),
    (Some("1960-01-01 00:00:00"), Some(Some(1))),
    (Some("2200-01-01 00:00:00"), Some(None)),
    (Some("whenever"), None),
];

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<(usize, usize, usize)>),
    Delete(usize),
    PutRoute(usize, bool),
    DeleteRoute(usize),
    Poll(usize),
    /// The answer is lost on its way.
    LostPoll(usize),
    NewGateway(usize),
    Settle,
    Restart,
    Remember,
    Restore,
    CutLog,
    Unseen(usize),
    Later(u64),
}

const GATEWAYS: usize = 3;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let put = || (0..KEYS.len(), 0..STATUSES.len(), 0..ENDS.len());
    let op = prop_oneof![
        30 => proptest::collection::vec(put(), 1..4).prop_map(Op::Put),
        2 => proptest::collection::vec(put(), 10..24).prop_map(Op::Put),
        20 => (0..KEYS.len()).prop_map(Op::Delete),
        3 => (0..3usize, any::<bool>()).prop_map(|(name, good)| Op::PutRoute(name, good)),
        2 => (0..3usize).prop_map(Op::DeleteRoute),
        30 => (0..GATEWAYS).prop_map(Op::Poll),
        5 => (0..GATEWAYS).prop_map(Op::LostPoll),
        2 => (0..GATEWAYS).prop_map(Op::NewGateway),
        20 => Just(Op::Settle),
        2 => Just(Op::Restart),
        1 => Just(Op::Remember),
        1 => Just(Op::Restore),
        2 => Just(Op::CutLog),
        1 => (0..KEYS.len()).prop_map(Op::Unseen),
        3 => (1..1_000u64).prop_map(Op::Later),
    ];
    proptest::collection::vec(op, 1..80)
}

struct Run {
    store: Arc<Memory>,
    feed: Feed,
    gateways: Vec<SimGateway>,
    remembered: Rows,
}

impl Run {
    async fn new() -> Self {
        let store = Arc::new(Memory::default());
        let feed = start(&store, tiny()).await;
        let gateways = (0..GATEWAYS).map(|n| SimGateway::new(&format!("g{n}"))).collect();
        Self { store, feed, gateways, remembered: Rows::default() }
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Put(rows) => {
                self.store.put(
                    rows.into_iter().map(|(key, status, end)| row(KEYS[key], STATUSES[status], ENDS[end].0)),
                );
            }
            Op::Delete(key) => drop(self.store.delete(KEYS[key])),
            Op::PutRoute(name, good) => {
                let name = format!("r{name}");
                let document = if good { document(&name, "demo") } else { "{".to_owned() };
                self.store.put_route(route(&name, document));
            }
            Op::DeleteRoute(name) => drop(self.store.delete_route(&format!("r{name}"))),
            Op::Poll(gateway) => drop(self.gateways[gateway].poll(&self.feed).await),
            Op::LostPoll(gateway) => drop(self.gateways[gateway].ask(&self.feed, Duration::ZERO).await),
            Op::NewGateway(gateway) => self.gateways[gateway] = SimGateway::new(&format!("g{gateway}")),
            Op::Settle => self.settle().await,
            Op::Restart => self.feed = start(&self.store, tiny()).await,
            Op::Remember => self.remembered = self.store.rows().clone(),
            Op::Restore => self.store.restore(self.remembered.clone()),
            Op::CutLog => self.store.cut_log(),
            Op::Unseen(key) => self.store.change_unseen(|rows| drop(rows.ips.remove(KEYS[key]))),
            Op::Later(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
    }

    async fn settle(&self) {
        self.feed.current().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn check(&mut self) {
        // Long enough for the comparison with the store.
        tokio::time::sleep(Duration::from_secs(700)).await;
        self.settle().await;
        let (banned, allowed) = (self.naive("banned"), self.naive("allowed"));
        let routes = self.compiled();
        for gateway in &mut self.gateways {
            gateway.poll(&self.feed).await;
            assert_eq!(gateway.since, Some(self.feed.version()));
            assert!(gateway.poll(&self.feed).await.is_none(), "there is nothing more to say");
            assert_eq!(gateway.banned(), banned);
            assert_eq!(gateway.allowed(), allowed);
            assert_eq!(gateway.whole[&WholeTable::Routes].0, routes);
        }
        let world = self.feed.world();
        assert_eq!(world.quarantine().len(), self.malformed());
        assert_eq!(world.tables.bans.count as usize, banned.len());
    }

    fn naive(&self, status: &str) -> BTreeMap<Prefix, Option<UnixSeconds>> {
        let mut set: BTreeMap<Prefix, Option<UnixSeconds>> = BTreeMap::new();
        for row in self.store.rows().ips.values().filter(|row| row.status == status) {
            let Ok(prefix) = row.ip.parse::<Prefix>() else { continue };
            let Some(end) = end_of(row.expires_at.as_deref()) else { continue };
            let rank = |end: Option<UnixSeconds>| end.unwrap_or(UnixSeconds::MAX);
            let slot = set.entry(prefix).or_insert(end);
            *slot = if rank(end) > rank(*slot) { end } else { *slot };
        }
        set
    }

    fn malformed(&self) -> usize {
        let rows = self.store.rows();
        let bad_ip = |row: &&crate::store::IpRow| {
            row.ip.parse::<Prefix>().is_err()
                || row.status == "blocked"
                || end_of(row.expires_at.as_deref()).is_none()
        };
        rows.ips.values().filter(bad_ip).count()
            + rows.routes.values().filter(|row| row.document == "{").count()
    }

    fn compiled(&self) -> BlobHash {
        let rows = self.store.rows();
        let read = rows.routes.values().filter(|row| row.document != "{").map(|row| {
            let document = serde_json::from_str(&row.document).unwrap();
            let created = Some(1_795_456_800_000);
            tidegate_policy::author::Route { created, ..tidegate_policy::author::read(&document).unwrap() }
        });
        BlobHash::of(&tidegate_policy::author::compile(&read.collect::<Vec<_>>()).unwrap())
    }
}

fn end_of(text: Option<&str>) -> Option<Option<UnixSeconds>> {
    ENDS.iter().find(|(written, _)| *written == text).unwrap().1
}

fn run(ops: Vec<Op>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new().await;
        let guessed = ops.iter().any(|op| matches!(op, Op::Restart));
        for op in ops {
            run.step(op).await;
        }
        run.check().await;
        let misfolded: usize = run.gateways.iter().map(|gateway| gateway.misfolded).sum();
        assert!(guessed || misfolded == 0, "within a process nothing has to be guessed");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn every_gateway_ends_with_what_the_rows_say(ops in ops()) {
        run(ops);
    }
}
