//! Whatever happens, in any order: a gateway that polls ends with exactly what the rows say, and
//! a request for the tables gets that at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_author as author;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::decide::Tables;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{CountryTable, GeoRule, GeoRules};
use tidegate_policy::limit::{Limit, Limits};
use tidegate_policy::scope::Scope;
use tidegate_policy::table::EntryState;
use tidegate_policy::tables::Table;

use super::gateway::{self, SimGateway, present};
use super::memory::{Memory, Rows, countries, document, one_run, row};
use super::{start, tiny};
use crate::feed::{Feed, RowStatus, SourceSet};
use crate::store::{DocumentKind, IpRow, ScopedBanRow};

/// Keys as people write them: several mean one prefix, some are invalid. Rows with the last ones
/// are always invalid: see [`put`].
const KEYS: [&str; 27] = [
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
    "192.0.2.2/32",
    "198.51.100.1",
    "10.1.2.3/32",
];
const STATUSES: [(&str, Option<&str>); 7] = [
    ("banned", None),
    ("banned", None),
    ("banned", None),
    ("allowed", None),
    ("watched", None),
    ("banned", Some(r#"{"hostnames":["a"]}"#)),
    ("watched", Some(r#"{"routes":["b"]}"#)),
];
/// A source whose entries apply at a hostname only.
const SCOPED_SOURCE: &str = r#"{"url":"https://lists.example.com/z","applies_to":{"hostnames":["a"]}}"#;
/// Expiry times, with the parsed value.
const ENDS: [(Option<&str>, Option<UnixSeconds>); 7] = [
    (None, None),
    (Some("2026-11-23 18:00:00"), Some(1_795_456_800)),
    (Some("2026-11-23T18:00:00.001Z"), Some(1_795_456_801)),
    (Some("1795456802"), Some(1_795_456_802)),
    (Some("1960-01-01"), Some(1)),
    (Some("2200-01-01 00:00:00"), None),
    (Some(""), None),
];

/// States as people write them, with the parsed value.
const FLAGS: [(&str, FlagState); 6] = [
    ("true", FlagState::On),
    ("false", FlagState::Off),
    (r#""shadow""#, FlagState::Shadow),
    (r#" {"percent": 30} "#, FlagState::Share(30)),
    (r#"{"percent": 30.5}"#, FlagState::Off),
    ("on", FlagState::Off),
];
const FLAG_NAMES: [(&str, Option<Flag>); 3] = [
    ("enableRouteCache", Some(Flag::RouteCache)),
    ("enableGeoRulesCache", Some(Flag::GeoRulesCache)),
    ("enableroutecache", None),
];
/// Rules, and whether they are valid.
const GEO: [(&str, bool); 3] = [
    (r#"{"mode":"deny","countries":["DE"]}"#, true),
    (r#"{"mode":"allow","countries":["FR","DE"],"unknown":"allow"}"#, true),
    (r#"{"mode":"allow","countries":[]}"#, false),
];

/// A row as people write it.
fn put(key: usize, status: usize, end: usize) -> IpRow {
    match KEYS[key] {
        key @ "192.0.2.2/32" => row(key, "banned", Some("whenever")),
        key @ "198.51.100.1" => row(key, "blocked", None),
        key @ "10.1.2.3/32" => row(key, "allowed", Some("whenever")),
        key => row(key, STATUSES[status].0, ENDS[end].0),
    }
}

/// The same of a ban that applies at some hostnames or routes only; `None`: it applies everywhere.
fn put_scoped(key: usize, status: usize, end: usize) -> Option<ScopedBanRow> {
    let IpRow { ip, status: word, expires_at, .. } = put(key, status, end);
    let is_right = word == STATUSES[status].0 && expires_at.as_deref() != Some("whenever");
    let scope = STATUSES[status].1.filter(|_| is_right && !ip.contains(' '))?;
    Some(ScopedBanRow {
        ip,
        applies_to: scope.to_owned(),
        status: word,
        expires_at,
        ..ScopedBanRow::default()
    })
}

#[derive(Clone, Debug)]
enum Op {
    PutFlag(usize, usize),
    DeleteFlag(usize),
    PutGeoRule(usize, usize),
    DeleteGeoRule(usize),
    /// `None`: removed; 0: invalid.
    SetCountries(Option<u8>),
    Ask,
    Put(Vec<(usize, usize, usize)>),
    Delete(usize),
    PutRoute(usize, bool),
    DeleteRoute(usize),
    /// `None`: removed; 0: invalid.
    SetLimit(Option<u8>),
    /// A source of this name, and whether it is in shadow; `None`: removed.
    PutSource(usize, Option<bool>),
    /// What that source has, and simulates, by key and end; `None`: it has no set.
    SetSource(usize, Option<[Vec<(usize, usize)>; 2]>),
    /// The backend that the routes refer to; `None`: removed; 0: invalid.
    SetBackend(Option<u8>),
    Poll(usize),
    /// The answer is lost.
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
const SOURCE: &str = r#"{"url":"https://lists.example.com/x"}"#;
const SHADOW_SOURCE: &str = r#"{"url":"https://lists.example.com/x","mode":"shadow"}"#;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let put = || (0..KEYS.len(), 0..STATUSES.len(), 0..ENDS.len());
    let entries = || proptest::collection::vec((0..KEYS.len(), 0..ENDS.len()), 0..9);
    let op = prop_oneof![
        30 => proptest::collection::vec(put(), 1..4).prop_map(Op::Put),
        2 => proptest::collection::vec(put(), 10..24).prop_map(Op::Put),
        20 => (0..KEYS.len()).prop_map(Op::Delete),
        3 => (0..3usize, any::<bool>()).prop_map(|(name, good)| Op::PutRoute(name, good)),
        2 => (0..3usize).prop_map(Op::DeleteRoute),
        2 => proptest::option::weighted(0.8, 0..3u8).prop_map(Op::SetBackend),
        2 => proptest::option::weighted(0.8, 0..3u8).prop_map(Op::SetLimit),
        6 => (0..FLAG_NAMES.len(), 0..FLAGS.len()).prop_map(|(name, value)| Op::PutFlag(name, value)),
        1 => (0..FLAG_NAMES.len()).prop_map(Op::DeleteFlag),
        4 => (0..3usize, 0..GEO.len()).prop_map(|(name, rule)| Op::PutGeoRule(name, rule)),
        1 => (0..3usize).prop_map(Op::DeleteGeoRule),
        3 => proptest::option::weighted(0.8, 0..4u8).prop_map(Op::SetCountries),
        4 => (0..3usize, proptest::option::weighted(0.8, any::<bool>()))
            .prop_map(|(name, is)| Op::PutSource(name, is)),
        8 => (0..3usize, proptest::option::weighted(0.9, [entries(), entries()]))
            .prop_map(|(name, has)| Op::SetSource(name, has)),
        15 => Just(Op::Ask),
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
    /// The last country table that the feed could read.
    countries: Vec<u8>,
    /// The last of each geo rule that the feed could read.
    geo: BTreeMap<String, GeoRule>,
    /// The same of routes.
    routes: BTreeMap<String, author::Route>,
    /// The same of backends.
    backends: author::Backends,
    /// The same of the only limit.
    limit: Option<Limit>,
    /// Something changed that only the comparison finds.
    unseen: bool,
}

impl Run {
    async fn new() -> Self {
        let store = Arc::new(Memory::default());
        let feed = start(&store, tiny()).await;
        let gateways = (0..GATEWAYS).map(|n| SimGateway::new(&format!("g{n}"))).collect();
        let countries = CountryTable::empty().as_bytes().to_vec();
        let (remembered, geo) = (Rows::default(), BTreeMap::new());
        let (routes, backends) = (BTreeMap::new(), author::Backends::new());
        Self {
            store,
            feed,
            gateways,
            remembered,
            countries,
            geo,
            routes,
            backends,
            limit: None,
            unseen: false,
        }
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Put(rows) => {
                let is_scoped =
                    |(key, status, end): &(usize, usize, usize)| put_scoped(*key, *status, *end).is_some();
                let (scoped, everywhere): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_scoped);
                self.store.put(everywhere.into_iter().map(|(key, status, end)| put(key, status, end)));
                for row in scoped.into_iter().filter_map(|(key, status, end)| put_scoped(key, status, end)) {
                    self.store.put_scoped(row);
                }
            }
            Op::Delete(key) => {
                self.store.delete(KEYS[key]);
                let keys: Vec<String> = {
                    let rows = self.store.rows();
                    rows.scoped.values().filter(|row| row.ip == KEYS[key]).map(ScopedBanRow::key).collect()
                };
                for key in keys {
                    self.store.delete_scoped(&key);
                }
            }
            Op::PutRoute(name, good) => {
                let name = format!("r{name}");
                let document = if good { document(&name, "demo") } else { "{".to_owned() };
                self.store.put_document(DocumentKind::Route, &name, document);
                self.settle().await;
                self.note_kept();
            }
            Op::DeleteRoute(name) => {
                self.store.delete_document(DocumentKind::Route, &format!("r{name}"));
                self.settle().await;
                self.note_kept();
            }
            Op::SetBackend(host) => {
                match host {
                    None => self.store.delete_document(DocumentKind::Backend, "demo"),
                    Some(0) => self.store.put_document(DocumentKind::Backend, "demo", "{"),
                    Some(n) => {
                        let document = format!(r#"{{"address":"host-{n}:80"}}"#);
                        self.store.put_document(DocumentKind::Backend, "demo", document)
                    }
                };
                self.settle().await;
                self.note_kept();
            }
            Op::PutSource(name, Some(is_in_shadow)) => {
                let document = match (name, is_in_shadow) {
                    (2, _) => SCOPED_SOURCE,
                    (_, true) => SHADOW_SOURCE,
                    (_, false) => SOURCE,
                };
                self.store.put_document(DocumentKind::Source, &format!("s{name}"), document);
            }
            Op::PutSource(name, None) => {
                self.store.delete_document(DocumentKind::Source, &format!("s{name}"));
            }
            Op::SetSource(name, has) => {
                let entry =
                    |(key, end): (usize, usize)| Some((KEYS[key].parse::<Prefix>().ok()?, ENDS[end].1));
                let bytes = has.map(|has| {
                    let [listed, simulated] = has.map(|has| {
                        super::sources::set(has.into_iter().filter_map(entry).collect::<BTreeMap<_, _>>())
                    });
                    SourceSet::encode(listed, &simulated)
                });
                self.store.set_source(&format!("s{name}"), bytes);
            }
            Op::SetLimit(rate) => {
                match rate {
                    None => self.store.delete_document(DocumentKind::Limit, "l"),
                    Some(rate) => {
                        let document = format!(r#"{{"key":"ip","rate":{rate},"per":"day"}}"#);
                        self.store.put_document(DocumentKind::Limit, "l", document)
                    }
                };
                self.settle().await;
                self.note_kept();
            }
            Op::Poll(gateway) => drop(self.gateways[gateway].poll(&self.feed).await),
            Op::LostPoll(gateway) => drop(self.gateways[gateway].ask(&self.feed, Duration::ZERO).await),
            Op::NewGateway(gateway) => self.gateways[gateway] = SimGateway::new(&format!("g{gateway}")),
            Op::Settle => self.settle().await,
            Op::Restart => {
                self.feed = start(&self.store, tiny()).await;
                self.unseen = false;
                self.note_kept();
            }
            Op::PutFlag(name, value) => drop(self.store.put_flag(FLAG_NAMES[name].0, FLAGS[value].0)),
            Op::DeleteFlag(name) => drop(self.store.delete_flag(FLAG_NAMES[name].0)),
            Op::PutGeoRule(name, rule) => {
                self.store.put_document(DocumentKind::GeoRule, &format!("g{name}"), GEO[rule].0);
                self.settle().await;
                self.note_kept();
            }
            Op::DeleteGeoRule(name) => {
                self.store.delete_document(DocumentKind::GeoRule, &format!("g{name}"));
                self.settle().await;
                self.note_kept();
            }
            Op::SetCountries(last) => {
                let table = |last| if last == 0 { vec![0; 40] } else { one_run("DE", last) };
                self.store.set_countries(last.map(|last| countries("some", table(last))));
                // The document that stays in force is the last valid one that the feed has seen.
                self.settle().await;
                self.note_kept();
            }
            Op::Ask if self.unseen => {}
            Op::Ask => self.check_tables(&self.feed.tables().await.unwrap()),
            Op::Remember => {
                // Without documents that are invalid: what is restored need not be what was kept.
                self.remembered = self.store.rows().clone();
                self.remembered.former.clear();
                for kind in DocumentKind::ALL {
                    self.remembered.documents[kind].retain(|_, row| {
                        row.document != "{"
                            && !row.document.contains(r#""rate":0"#)
                            && !GEO.contains(&(&*row.document, false))
                    });
                }
                self.remembered.countries.take_if(|row| row.table == [0; 40]);
            }
            Op::Restore => {
                self.store.restore(self.remembered.clone());
                self.settle().await;
                self.note_kept();
                self.unseen = false;
            }
            Op::CutLog => self.store.cut_log(),
            Op::Unseen(key) => {
                self.store.change_unseen(|rows| drop(rows.ips.remove(KEYS[key])));
                self.unseen = true;
            }
            Op::Later(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
    }

    async fn settle(&self) {
        self.feed.current().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Notes the country table and the documents in the store, if the feed can read them.
    fn note_kept(&mut self) {
        let rows = self.store.rows();
        self.geo.retain(|name, _| rows.documents[DocumentKind::GeoRule].contains_key(name));
        for row in
            rows.documents[DocumentKind::GeoRule].values().filter(|row| GEO.contains(&(&*row.document, true)))
        {
            let document = serde_json::from_str(&row.document).unwrap();
            let rule = author::read_geo_rule(&row.name, &document).unwrap();
            self.geo.insert(row.name.clone(), rule);
        }
        self.routes.retain(|name, _| rows.documents[DocumentKind::Route].contains_key(name));
        for row in rows.documents[DocumentKind::Route].values().filter(|row| row.document != "{") {
            let document = serde_json::from_str(&row.document).unwrap();
            let route = author::read(&document).unwrap();
            let created = Some(1_795_456_800_000);
            self.routes.insert(row.name.clone(), author::Route { created, ..route });
        }
        self.backends.retain(|name, _| rows.documents[DocumentKind::Backend].contains_key(name));
        for row in rows.documents[DocumentKind::Backend].values().filter(|row| row.document != "{") {
            let document = serde_json::from_str(&row.document).unwrap();
            let backend = author::read_backend(&row.name, &document).unwrap();
            self.backends.insert(row.name.clone(), backend);
        }
        match rows.documents[DocumentKind::Limit].get("l") {
            None => self.limit = None,
            Some(row) => {
                let document = serde_json::from_str(&row.document).unwrap();
                self.limit = author::read_limit("l", &document).ok().or(self.limit.take());
            }
        }
        match &rows.countries {
            None => self.countries = CountryTable::empty().as_bytes().to_vec(),
            Some(row) if row.table != [0; 40] => self.countries.clone_from(&row.table),
            Some(_) => {}
        }
    }

    /// Compares with the rows as they are now.
    fn check_tables(&self, tables: &Tables) {
        assert_eq!(gateway::banned(&tables.bans), self.naive("banned"));
        assert_eq!(present(tables.allow.iter()), self.naive("allowed"));
        assert_eq!(present(tables.shadow_bans.iter()), self.naive("watched"));
        self.check_scoped(tables);
        assert_eq!(tables.flags, self.flags());
        assert_eq!((&*tables.geo, &*tables.limits), (&self.geo(), &Limits::new(self.limit.clone())));
        assert!(tables.countries.as_bytes() == self.countries);
        assert_eq!((tables.routes.len(), tables.version.seq), (self.routes.len(), self.store.rows().seq));
    }

    /// Compares, for each address that a key begins with and each scope, at a second at which some have ended.
    fn check_scoped(&self, tables: &Tables) {
        let now = 1_795_456_801;
        let of = |status, scope| self.naive_of(status, Some(scope));
        let longest = |bans: &BTreeMap<Prefix, Option<UnixSeconds>>, client| {
            let holds = |(prefix, end): &(&Prefix, &Option<UnixSeconds>)| {
                prefix.contains(client) && end.is_none_or(|end| now < end)
            };
            bans.iter().filter(holds).map(|(prefix, _)| *prefix).max_by_key(Prefix::len)
        };
        let [host_a, route_b] = [STATUSES[5], STATUSES[6]].map(|(_, scope)| scope.unwrap());
        for (of_hosts, scope) in [(true, host_a), (false, route_b)] {
            let (banned, watched) = (of("banned", scope), of("watched", scope));
            for client in KEYS.iter().filter_map(|key| Some(key.parse::<Prefix>().ok()?.ends().0)) {
                let mut is_in = |scope: &Scope| scope.hostnames.is_empty() != of_hosts;
                let [found, of_sources] = [&tables.scoped_bans, &tables.scoped_sources]
                    .map(|table| table.find(client, &|| now, &mut is_in));
                let found = found.or(of_sources);
                let banned = longest(&banned, client);
                assert_eq!(found.banned, banned, "{client} {scope}");
                // What is in shadow is said where nothing denies.
                let watched = longest(&watched, client).filter(|_| banned.is_none());
                assert_eq!(found.watched, watched, "{client} {scope}");
            }
        }
    }

    fn flags(&self) -> Flags {
        let rows = self.store.rows();
        FLAG_NAMES.iter().fold(Flags::default(), |flags, (name, flag)| {
            let (Some(flag), Some(row)) = (flag, rows.flags.get(*name)) else { return flags };
            flags.with(*flag, FLAGS.iter().find(|(text, _)| *text == row.value).unwrap().1.clone())
        })
    }

    fn geo(&self) -> GeoRules {
        GeoRules::new(self.geo.values().cloned())
    }

    async fn check(&mut self) {
        // Long enough for a comparison with the store.
        tokio::time::sleep(Duration::from_secs(700)).await;
        self.settle().await;
        let [banned, allowed, watched] = ["banned", "allowed", "watched"].map(|status| self.naive(status));
        let (routes, flags, geo) = (self.compiled(), self.flags(), self.geo());
        self.check_tables(&self.feed.tables().await.unwrap());
        for gateway in &mut self.gateways {
            gateway.poll(&self.feed).await;
            assert_eq!(gateway.since, Some(self.feed.version()));
            assert!(gateway.poll(&self.feed).await.is_none(), "there is nothing more to say");
            assert_eq!(gateway.banned(), banned);
            assert_eq!(gateway.of(Table::Allow), allowed);
            assert_eq!(gateway.of(Table::ShadowBans), watched);
            assert_eq!(gateway.whole[&Table::Routes].0, routes);
            assert_eq!((gateway.flags(), gateway.geo()), (flags.clone(), geo.clone()));
            assert_eq!(gateway.limits(), Limits::new(self.limit.clone()));
            for table in [Table::ScopedBans, Table::ScopedSources] {
                assert_eq!(gateway.whole[&table].0, self.feed.snapshot().tables.whole[table].hash);
            }
            assert!(gateway.countries().as_bytes() == self.countries);
        }
        let snapshot = self.feed.snapshot();
        assert_eq!(snapshot.quarantine().len(), self.malformed());
        assert_eq!(snapshot.tables.bans.count as usize, banned.len());
        let listed = |status| {
            let everywhere = snapshot.list(Some(status), None).filter(|listed| listed.scope.is_none());
            everywhere.map(|listed| listed.prefix)
        };
        assert!(listed(RowStatus::Watched).eq(watched.keys().copied()));
        assert_eq!(snapshot.count(RowStatus::Watched), watched.len());
    }

    fn naive(&self, status: &str) -> BTreeMap<Prefix, Option<UnixSeconds>> {
        self.naive_of(status, None)
    }

    fn naive_of(&self, status: &str, scope: Option<&str>) -> BTreeMap<Prefix, Option<UnixSeconds>> {
        let mut set: BTreeMap<Prefix, Option<UnixSeconds>> = BTreeMap::new();
        let rank = |end: Option<UnixSeconds>| end.unwrap_or(UnixSeconds::MAX);
        let rows = self.store.rows();
        let sets = rows.source_sets.iter().flat_map(|(name, row)| {
            let document = rows.documents[DocumentKind::Source].get(name).map(|row| row.document.as_str());
            let SourceSet { listed, simulated } = SourceSet::from_bytes(row.entries.clone()).unwrap();
            let in_a = scope == STATUSES[5].1;
            let tables = match (status, document) {
                ("banned", Some(SCOPED_SOURCE)) if in_a => vec![listed],
                ("watched", Some(SCOPED_SOURCE)) if in_a => vec![simulated],
                ("banned", Some(SOURCE)) if scope.is_none() => vec![listed],
                ("watched", Some(SOURCE)) if scope.is_none() => vec![simulated],
                ("watched", Some(SHADOW_SOURCE)) if scope.is_none() => vec![listed, simulated],
                _ => Vec::new(),
            };
            tables.iter().flat_map(|table| table.iter().collect::<Vec<_>>()).collect::<Vec<_>>()
        });
        for entry in sets {
            let EntryState::Present(end) = entry.state else { panic!("absent") };
            let slot = set.entry(entry.prefix).or_insert(end);
            *slot = if rank(end) > rank(*slot) { end } else { *slot };
        }
        let everywhere = rows.ips.values().filter(|row| row.status == status && scope.is_none());
        let everywhere = everywhere.map(|row| (&row.ip, &row.expires_at));
        let scoped = rows.scoped.values();
        let scoped = scoped.filter(|row| row.status == status && Some(row.applies_to.as_str()) == scope);
        for (ip, expires_at) in everywhere.chain(scoped.map(|row| (&row.ip, &row.expires_at))) {
            let Ok(prefix) = ip.parse::<Prefix>() else { continue };
            let end = match expires_at.as_deref() {
                Some("whenever") if status != "banned" => continue,
                Some("whenever") => None,
                end => ENDS.iter().find(|(written, _)| *written == end).unwrap().1,
            };
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
                || row.expires_at.as_deref() == Some("whenever")
        };
        let bad_flag = |row: &&crate::store::FlagRow| {
            row.name == "enableroutecache" || FLAGS[4..].iter().any(|(text, _)| *text == row.value)
        };
        let bad_scoped = |row: &&ScopedBanRow| row.ip.parse::<Prefix>().is_err();
        rows.ips.values().filter(bad_ip).count()
            + rows.scoped.values().filter(bad_scoped).count()
            + rows.documents[DocumentKind::Route].values().filter(|row| row.document == "{").count()
            + rows.documents[DocumentKind::Backend].values().filter(|row| row.document == "{").count()
            + rows.documents[DocumentKind::Limit]
                .values()
                .filter(|row| row.document.contains(r#""rate":0"#))
                .count()
            + rows.flags.values().filter(bad_flag).count()
            + rows.documents[DocumentKind::GeoRule]
                .values()
                .filter(|row| GEO.contains(&(&*row.document, false)))
                .count()
            + rows.countries.iter().filter(|row| row.table == [0; 40]).count()
    }

    fn compiled(&self) -> BlobHash {
        let routes: Vec<_> = self.routes.values().cloned().collect();
        BlobHash::of(&author::compile(&routes, &self.backends, &author::Listeners::new()).unwrap())
    }
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
