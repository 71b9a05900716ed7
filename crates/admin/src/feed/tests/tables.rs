//! Flags, geo rules and countries on their way to gateways, and the tables that direct questions
//! are answered from. Time is paused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::decide::{IpFinding, Tables};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{CountryRange, CountryTable, GeoAction};
use tidegate_policy::tables::Table;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::gateway::SimGateway;
use super::memory::{Memory, countries, document, named, one_run};
use super::{from, start, tiny};
use crate::feed::{Feed, FeedOptions, Notice};
use crate::store::{DocumentKind, StoreError, StoreTable};

const DENY_DE: &str = r#"{"mode":"deny","countries":["DE"],"status":451}"#;
const ALLOW_FR: &str = r#"{"mode":"allow","countries":["FR"],"global":false}"#;

async fn settle(feed: &Feed) {
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn country(table: &CountryTable, of: &str) -> Option<String> {
    table.find(address(of)).map(|country| country.to_string())
}

fn found(tables: &Tables, client: &str) -> IpFinding {
    IpFinding::look_up(&from(address(client)), tables, || 1_795_456_800)
}

fn said(notices: &[Notice], what: &str) -> bool {
    notices.iter().any(|notice| notice.text.contains(what))
}

/// Runs of one address each, of changing countries: none can be joined with the next.
fn many_runs(count: u32) -> Vec<u8> {
    let run = |n: u32| {
        let at = IpAddr::from(n.to_be_bytes());
        let country = if n.is_multiple_of(2) { "DE" } else { "FR" };
        CountryRange { first: at, last: at, country: country.parse().unwrap() }
    };
    CountryTable::encode((0..count).map(run)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn flags_rules_and_countries_reach_a_gateway() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    assert_eq!(gateway.flags(), Flags::default());
    assert!(gateway.geo().rules().is_empty() && gateway.countries().is_empty());

    store.put_flag("enableRouteCache", r#""shadow""#);
    store.put_flag("enableAsyncRecording", r#"{"percent":25}"#);
    settle(&feed).await;
    let answer = gateway.poll(&feed).await.unwrap();
    let told: Vec<Table> = answer.whole.iter().map(|update| update.table).collect();
    assert_eq!((told, answer.bans.is_none()), (vec![Table::Flags], true));
    let want = Flags::default()
        .with(Flag::RouteCache, FlagState::Shadow)
        .with(Flag::AsyncRecording, FlagState::Share(25));
    assert_eq!((gateway.flags(), feed.snapshot().flags.clone()), (want.clone(), want.clone()));

    store.put_document(DocumentKind::GeoRule, "no-de", DENY_DE);
    store.set_countries(Some(countries("small.csv", one_run("DE", 9))));
    settle(&feed).await;
    gateway.poll(&feed).await;
    let rule = gateway.geo().get("no-de").cloned().unwrap();
    let held = gateway.countries();
    assert_eq!(rule.denies(held.find(address("10.0.0.9"))), Some(GeoAction::LegalReasons));
    assert_eq!(rule.denies(held.find(address("10.0.0.10"))), None);

    let snapshot = feed.snapshot();
    let digests = &snapshot.tables.whole;
    for table in [Table::Flags, Table::Geo, Table::Countries] {
        assert_eq!(gateway.whole[&table].0, digests[table].hash);
    }
    let entries = [Table::Flags, Table::Geo, Table::Countries].map(|table| digests[table].entries);
    assert_eq!(entries, [None, Some(1), Some(1)]);
    let info = snapshot.countries.as_ref().unwrap();
    let hash = digests[Table::Countries].hash;
    assert_eq!((info.source.as_str(), info.v4, info.v6, info.blob.hash), ("small.csv", 1, 0, hash));
    assert!(info.imported().is_some() && snapshot.geo_rules.in_force["no-de"].created().is_some());

    store.delete_flag("enableRouteCache");
    store.delete_document(DocumentKind::GeoRule, "no-de");
    store.set_countries(None);
    settle(&feed).await;
    gateway.poll(&feed).await;
    assert_eq!(gateway.flags(), want.with(Flag::RouteCache, FlagState::Off));
    assert!(gateway.geo().rules().is_empty() && gateway.countries().is_empty());
    assert!(feed.snapshot().countries.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_large_country_table_goes_by_pages_and_the_one_before_stays_for_a_while() {
    let store = Arc::new(Memory::default());
    let first = many_runs(260_000);
    store.set_countries(Some(countries("first", first.clone())));
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    let answer = gateway.poll(&feed).await.unwrap();
    let update = answer.whole.iter().find(|update| update.table == Table::Countries).unwrap();
    assert!(update.bytes.is_none(), "{} bytes inside an answer", update.blob.len);
    assert!(gateway.whole[&Table::Countries].1 == first);

    let second = many_runs(260_001);
    store.set_countries(Some(countries("second", second.clone())));
    settle(&feed).await;
    assert!(feed.blob(update.blob.hash, 0).is_some(), "kept for those that are fetching it");
    gateway.poll(&feed).await;
    assert!(gateway.whole[&Table::Countries].1 == second);
    // One superseded blob is always kept; the next one replaces it.
    sleep(Duration::from_secs(16 * 60)).await;
    store.set_countries(None);
    sleep(Duration::from_secs(2)).await;
    assert!(feed.blob(update.blob.hash, 0).is_none());
    // A view of it is the same bytes, not a copy of them.
    let tables = feed.tables().await.unwrap();
    store.set_countries(Some(countries("second", second)));
    let tables = (tables, feed.tables().await.unwrap());
    let page = feed.blob(feed.snapshot().tables.whole[Table::Countries].hash, 0).unwrap();
    assert_eq!(page.as_ptr(), tables.1.countries.as_bytes().as_ptr());
    assert!(tables.0.countries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bad_row_of_any_table_has_no_effect_and_says_why() {
    let store = Arc::new(Memory::default());
    store.put_flag("enableRouteCache", "true");
    store.set_countries(Some(countries("good", one_run("DE", 9))));
    let feed = start(&store, tiny()).await;
    let on = Flags::default().with(Flag::RouteCache, FlagState::On);
    assert_eq!(feed.tables().await.unwrap().flags, on);

    store.put_flag("enableRouteCache", "yes");
    store.put_flag("enableParallelExecution", r#""shadow""#);
    store.put_flag("enableIpBlacklistCache", r#"{"percent":101}"#);
    store.put_flag("enableEverything", "true");
    store.put_document(DocumentKind::GeoRule, "bad", r#"{"mode":"deny","countries":["Germany"]}"#);
    store.put_document(DocumentKind::GeoRule, "worse", "{");
    let mut cut = one_run("FR", 9);
    cut.pop();
    store.set_countries(Some(countries("cut short", cut)));
    let tables = feed.tables().await.unwrap();
    let snapshot = feed.snapshot();
    let shown: Vec<(StoreTable, String)> =
        snapshot.quarantine().map(|bad| (bad.table, bad.key.to_string())).collect();
    let want = [
        (StoreTable::Documents(DocumentKind::GeoRule), "bad"),
        (StoreTable::Documents(DocumentKind::GeoRule), "worse"),
        (StoreTable::Flags, "enableEverything"),
        (StoreTable::Flags, "enableIpBlacklistCache"),
        (StoreTable::Flags, "enableParallelExecution"),
        (StoreTable::Flags, "enableRouteCache"),
        (StoreTable::Countries, "countries"),
    ];
    assert_eq!(shown, want.map(|(table, key)| (table, key.to_owned())));
    let why = |table, key: &str| -> String {
        let row = snapshot.quarantine().find(|bad| bad.table == table && &*bad.key == key);
        row.unwrap().why.to_string()
    };
    assert!(why(StoreTable::Flags, "enableRouteCache").contains("percent"));
    assert!(why(StoreTable::Flags, "enableEverything").contains("enableGeoRulesCache"));
    assert!(why(StoreTable::Documents(DocumentKind::GeoRule), "bad").contains("/countries/0"));
    assert!(why(StoreTable::Countries, "countries").contains("`good`, stays in force"));
    assert_eq!((&tables.flags, snapshot.geo_rules.in_force.len()), (&Flags::default(), 0));
    assert_eq!(country(&tables.countries, "10.0.0.9"), Some("DE".to_owned()));

    // The same after a restart. Without a table before it, no country is known.
    settle(&feed).await;
    let restarted = start(&store, tiny()).await;
    assert_eq!(country(&restarted.tables().await.unwrap().countries, "10.0.0.9"), Some("DE".to_owned()));
    store.change_unseen(|rows| rows.former.clear());
    let restarted = start(&store, tiny()).await;
    assert!(restarted.tables().await.unwrap().countries.is_empty());
    let why = restarted.snapshot().quarantine().last().unwrap().why;
    assert!(why.contains("no country is known"), "{why}");

    // Repaired, then removed.
    store.put_flag("enableRouteCache", "true");
    for name in ["enableParallelExecution", "enableIpBlacklistCache", "enableEverything"] {
        store.delete_flag(name);
    }
    store.put_document(DocumentKind::GeoRule, "bad", DENY_DE);
    store.delete_document(DocumentKind::GeoRule, "worse");
    store.set_countries(None);
    let tables = feed.tables().await.unwrap();
    let snapshot = feed.snapshot();
    assert_eq!((snapshot.quarantine().len(), snapshot.geo_rules.in_force.len(), &tables.flags), (0, 1, &on));
    assert!(tables.countries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_route_that_names_no_rule_is_found() {
    let store = Arc::new(Memory::default());
    let filter = |rule: &str| {
        format!(
            r#"{{"type":"ExtensionRef",
                "extensionRef":{{"group":"tidegate.dev","kind":"GeoRule","name":"{rule}"}}}}"#
        )
    };
    let with_rules = |name: &str, rules: &[&str]| {
        let filters = rules.iter().map(|rule| filter(rule)).collect::<Vec<_>>().join(",");
        let plain = document(name, "demo");
        named(name, plain.replace(r#""backendRefs""#, &format!(r#""filters":[{filters}],"backendRefs""#)))
    };
    store.put_document(DocumentKind::GeoRule, "there", DENY_DE);
    store.put_document(DocumentKind::GeoRule, "broken", "{}");
    store.put_row(DocumentKind::Route, with_rules("good", &["there"]));
    store.put_row(DocumentKind::Route, with_rules("some", &["there", "nowhere", "broken"]));
    let feed = start(&store, tiny()).await;
    let missing = |feed: &Feed| -> Vec<String> {
        let missing = feed.snapshot().missing_geo_rules();
        missing.iter().map(|missing| format!("{} {}", missing.route, missing.rule)).collect()
    };
    assert_eq!(
        feed.snapshot().routes.in_force.len(),
        2,
        "{:?}",
        feed.snapshot().quarantine().collect::<Vec<_>>()
    );
    assert_eq!(missing(&feed), ["some broken", "some nowhere"]);
    store.delete_document(DocumentKind::GeoRule, "there");
    settle(&feed).await;
    assert_eq!(missing(&feed), ["good there", "some broken", "some nowhere", "some there"]);
}

#[tokio::test(start_paused = true)]
async fn what_changed_unseen_in_a_small_table_is_found() {
    let store = Arc::new(Memory::default());
    store.put_flag("enableRouteCache", "true");
    store.put_document(DocumentKind::GeoRule, "rule", DENY_DE);
    store.set_countries(Some(countries("first", one_run("DE", 9))));
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;

    store.change_unseen(|rows| drop(rows.flags.remove("enableRouteCache")));
    sleep(Duration::from_secs(70)).await;
    gateway.poll(&feed).await;
    assert_eq!(gateway.flags(), Flags::default());
    assert!(said(&feed.health().notices, "enableRouteCache"));

    store.change_unseen(|rows| {
        rows.documents[DocumentKind::GeoRule].get_mut("rule").unwrap().document = ALLOW_FR.to_owned();
    });
    // A refresh compares all tables.
    let (goal, snapshot) = feed.refresh().await.unwrap();
    assert_eq!(snapshot.tables.whole[Table::Geo].entries, Some(1));
    settle(&feed).await;
    assert_eq!(gateway.poll(&feed).await.unwrap().refresh, goal.refresh);
    assert!(!gateway.geo().get("rule").unwrap().global);

    store.change_unseen(|rows| rows.countries = Some(countries("second", one_run("FR", 9))));
    sleep(Duration::from_secs(70)).await;
    gateway.poll(&feed).await;
    assert_eq!(country(&gateway.countries(), "10.0.0.1"), Some("FR".to_owned()));
    assert!(said(&feed.health().notices, "geo_countries"));
    let notices = feed.health().notices.len();
    sleep(Duration::from_secs(700)).await;
    assert_eq!(feed.health().notices.len(), notices, "nothing else to find");
}

#[tokio::test(start_paused = true)]
async fn a_restore_brings_back_all_tables() {
    let store = Arc::new(Memory::default());
    store.put_flag("enableRouteCache", "true");
    store.put_document(DocumentKind::GeoRule, "rule", DENY_DE);
    store.set_countries(Some(countries("first", one_run("DE", 9))));
    let remembered = store.rows().clone();
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let first = gateway.held();
    store.put_flag("enableRouteCache", "false");
    store.delete_document(DocumentKind::GeoRule, "rule");
    store.set_countries(Some(countries("second", one_run("FR", 9))));
    settle(&feed).await;
    gateway.poll(&feed).await;
    let between = feed.tables().await.unwrap();
    assert_eq!(country(&between.countries, "10.0.0.1"), Some("FR".to_owned()));

    store.restore(remembered);
    let tables = feed.tables().await.unwrap();
    assert_ne!(tables.version.epoch, between.version.epoch);
    assert_eq!(tables.flags.get(Flag::RouteCache), &FlagState::On);
    assert_eq!((tables.geo.rules().len(), country(&tables.countries, "10.0.0.1")), (1, Some("DE".into())));
    settle(&feed).await;
    gateway.poll(&feed).await;
    assert_eq!(gateway.held().hashes, first.hashes);
}

#[tokio::test(start_paused = true)]
async fn tables_are_of_the_moment_and_what_did_not_change_is_not_made_again() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Route, "r", document("r", "demo"));
    store.put_document(DocumentKind::GeoRule, "rule", DENY_DE);
    let feed = start(&store, tiny()).await;
    let first = feed.tables().await.unwrap();
    assert!(Arc::ptr_eq(&first, &feed.tables().await.unwrap()));
    for last in 0..40 {
        // Through overlays, bases cut in the background, and bases cut at once.
        store.ban(&format!("192.0.2.{last}"));
        let tables = feed.tables().await.unwrap();
        let banned: IpAddr = [192, 0, 2, last].into();
        assert_eq!(
            found(&tables, &format!("192.0.2.{last}")),
            IpFinding::Banned(banned.to_string().parse().unwrap())
        );
        assert_eq!(tables.version, feed.version());
        assert_eq!(tables.bans.digest(), feed.snapshot().tables.bans);
        assert!(Arc::ptr_eq(&tables.routes, &first.routes) && Arc::ptr_eq(&tables.geo, &first.geo));
    }
    store.delete("192.0.2.7");
    store.delete_document(DocumentKind::Route, "r");
    let tables = feed.tables().await.unwrap();
    assert_eq!(found(&tables, "192.0.2.7"), IpFinding::Clear);
    assert!(tables.routes.is_empty() && !first.routes.is_empty());

    let unused = Arc::downgrade(&tables);
    drop(tables);
    sleep(Duration::from_secs(30)).await;
    assert!(unused.upgrade().is_some());
    sleep(Duration::from_secs(60)).await;
    assert!(unused.upgrade().is_none(), "nobody asks for them any more");
    assert_eq!(
        found(&feed.tables().await.unwrap(), "192.0.2.8"),
        found(&*first_of(&store).await, "192.0.2.8")
    );
}

/// The tables of a feed that has just begun.
async fn first_of(store: &Arc<Memory>) -> Arc<Tables> {
    start(store, FeedOptions::default()).await.tables().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_who_asked_before_it_share_one_read() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    feed.tables().await.unwrap();
    store.ban("192.0.2.1");
    let before = store.reads();
    let mut asking = JoinSet::new();
    for _ in 0..500 {
        let feed = feed.clone();
        asking.spawn(async move { feed.tables().await.unwrap() });
    }
    for tables in asking.join_all().await {
        assert_ne!(found(&tables, "192.0.2.1"), IpFinding::Clear);
    }
    let reads = store.reads() - before;
    assert!(reads <= 10, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_does_not_wait_until_nobody_writes() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    store.set_restless(true);
    // A hint: the feed reads, and would find something new at every further read.
    store.ban("192.0.2.1");
    tokio::task::yield_now().await;
    let patience = async {
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::select! {
        tables = feed.tables() => Some(found(&tables.unwrap(), "192.0.2.1")),
        () = patience => None,
    };
    assert!(matches!(found, Some(IpFinding::Banned(_))), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_there_is_an_error_and_never_an_older_answer() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    feed.tables().await.unwrap();
    store.set_broken(true);
    let broken = feed.tables().await;
    assert!(matches!(&broken, Err(StoreError::Failed(why)) if why.contains("disk I/O error")));
    assert!(feed.health().trouble.is_some());
    store.ban("192.0.2.1");
    store.set_broken(false);
    assert_ne!(found(&feed.tables().await.unwrap(), "192.0.2.1"), IpFinding::Clear);
    assert_eq!(feed.health().trouble, None);
}
