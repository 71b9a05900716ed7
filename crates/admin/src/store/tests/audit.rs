//! The audit: author and change, in the transaction of the change.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{ban, everything, on_each_store, put, remove, unban};
use crate::store::{
    AuditFilter, Author, AuthorToken, Change, CommitOptions, DocumentKind, Store, StoreError, TokenRow,
};

fn flags(flags: &[(&str, &str)]) -> Change {
    let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    Change::SetFlags { flags: flags.iter().map(own).collect() }
}

fn countries(source: &str, table: &[u8]) -> Change {
    Change::SetCountries { source: source.to_owned(), table: table.to_vec() }
}

/// `kind`, `name`, `before`, `after` of all rows, oldest first.
async fn rows(store: &dyn Store) -> Vec<(String, String, Value, Value)> {
    let json = |text: Option<String>| text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    let mut rows = store.audit(AuditFilter::default(), 1_000).await.unwrap();
    rows.reverse();
    assert!(rows.iter().zip(1..).all(|(row, id)| row.id == id && row.actor == "alice"), "{rows:?}");
    rows.into_iter().map(|row| (row.kind, row.name, json(row.before), json(row.after))).collect()
}

#[test]
fn flags_that_change_are_told_one_by_one() {
    on_each_store(async |store| {
        let first = flags(&[("enableRouteCache", "true"), ("enableIpBlacklistCache", "false")]);
        assert_eq!(store.commit(first.clone(), &"alice".into()).await.unwrap().rows, 1);
        let again = store.commit(first, &"alice".into()).await.unwrap();
        assert_eq!((again.rows, again.seq), (0, 1));
        let share = r#"{"percent": 25}"#;
        store.commit(flags(&[("enableRouteCache", share)]), &"alice".into()).await.unwrap();
        let same = flags(&[("enableRouteCache", r#"{"percent":25}"#)]);
        assert_eq!(store.commit(same, &"alice".into()).await.unwrap().rows, 0);
        let name = "enableRouteCache".to_owned();
        assert_eq!(
            rows(store).await,
            [
                ("flag".to_owned(), name.clone(), Value::Null, json!(true)),
                ("flag".to_owned(), name, json!(true), json!({ "percent": 25 })),
            ]
        );
        assert_eq!(everything(store).await.flags[0].value, share);
    });
}

#[test]
fn every_other_change_is_told_with_what_was_before() {
    on_each_store(async |store| {
        for change in [
            ban("1.2.3.4"),
            unban("1.2.3.4"),
            unban("1.2.3.4"),
            Change::Allow { ip: "5.6.7.8".to_owned(), reason: None, expires_at: None },
            Change::Disallow { keys: vec!["5.6.7.8".to_owned()] },
            put(DocumentKind::GeoRule, "eu", "[1]"),
            put(DocumentKind::GeoRule, "eu", "[1]"),
            put(DocumentKind::GeoRule, "eu", "no JSON"),
            remove(DocumentKind::GeoRule, "eu"),
            remove(DocumentKind::GeoRule, "eu"),
            put(DocumentKind::Route, "a", "{}"),
            remove(DocumentKind::Route, "a"),
            put(DocumentKind::Backend, "b", "{}"),
            put(DocumentKind::Limit, "l", "{}"),
            remove(DocumentKind::Limit, "l"),
            countries("one.csv", b"123"),
            countries("two.csv", b"12345"),
        ] {
            store.commit(change, &"alice".into()).await.unwrap();
        }
        let all = rows(store).await;
        let told: Vec<_> = all.iter().map(|row| (row.0.as_str(), row.1.as_str())).collect();
        assert_eq!(
            told,
            [
                ("ban", "1.2.3.4"),
                ("unban", "1.2.3.4"),
                ("allow", "5.6.7.8"),
                ("disallow", "5.6.7.8"),
                ("geo-rule", "eu"),
                ("geo-rule", "eu"),
                ("geo-rule", "eu"),
                ("route", "a"),
                ("route", "a"),
                ("backend", "b"),
                ("limit", "l"),
                ("limit", "l"),
                ("countries", "one.csv"),
                ("countries", "two.csv"),
            ]
        );
        assert_eq!((&all[0].2, &all[0].3["status"]), (&Value::Null, &json!("banned")));
        assert_eq!((&all[1].2, &all[1].3), (&all[0].3, &Value::Null));
        assert_eq!((&all[5].2, &all[5].3), (&json!([1]), &json!("no JSON")));
        assert_eq!((&all[13].2["bytes"], &all[13].3["bytes"]), (&json!(3), &json!(5)));
        assert_eq!(everything(store).await.countries.unwrap().table, b"12345");
    });
}

#[test]
fn the_audit_is_read_backwards_in_pages() {
    on_each_store(async |store| {
        for i in 0..5 {
            store.commit(ban(&format!("10.0.0.{i}")), &"alice".into()).await.unwrap();
        }
        let ids = async |before, limit| {
            let rows = store.audit(AuditFilter { before, ..AuditFilter::default() }, limit).await.unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(None, 2).await, [5, 4]);
        assert_eq!(ids(Some(4), 2).await, [3, 2]);
        assert_eq!(ids(Some(1), 2).await, [0; 0]);
    });
}

#[test]
fn a_change_is_committed_only_if_its_authors_token_still_lets_in() {
    on_each_store(async |store| {
        let token = |name: &str, role: &str, expires_at: Option<&str>| TokenRow {
            hash: format!("{name:0<64}"),
            name: name.to_owned(),
            role: role.to_owned(),
            expires_at: expires_at.map(str::to_owned),
            ..TokenRow::default()
        };
        for token in [
            token("a", "admin", Some("2100-01-01 00:00:00.000")),
            token("b", "read", None),
            token("c", "admin", Some("2020-01-01 00:00:00.000")),
        ] {
            let add = Change::AddToken { token, only_new_name: true };
            store.commit(add, &"test".into()).await.unwrap();
        }
        let by = |name: &str| Author {
            token: Some(Arc::new(AuthorToken { hash: format!("{name:0<64}"), role: "admin".to_owned() })),
            ..Author::from(name)
        };
        let before = everything(store).await.seq;
        for (name, wanted) in
            [("b", StoreError::TokenRevoked), ("c", StoreError::TokenEnded), ("d", StoreError::TokenRevoked)]
        {
            for dry_run in [false, true] {
                let options = CommitOptions { dry_run, ..CommitOptions::default() };
                let refused = store.commit_with(ban("1.2.3.4"), &by(name), options).await;
                assert_eq!(refused, Err(wanted.clone()), "{name}");
            }
        }
        assert_eq!(everything(store).await.seq, before);
        assert_eq!(store.health().faults, [], "it is no fault of the store");
        // The last that a token does is to revoke itself.
        let revoke = || Change::RevokeTokens { name: "a".to_owned() };
        assert_eq!(store.commit(revoke(), &by("a")).await.unwrap().rows, 1);
        assert_eq!(store.commit(revoke(), &by("a")).await, Err(StoreError::TokenRevoked));
    });
}

#[test]
fn the_audit_is_filtered_and_its_chain_is_whole() {
    on_each_store(async |store| {
        let author = |name: &str| Author {
            address: Some("192.0.2.1".parse().unwrap()),
            request_id: Some("r-1".into()),
            ..Author::from(name)
        };
        store.commit(ban("10.0.0.1"), &author("alice")).await.unwrap();
        store.commit(ban("10.0.0.2"), &author("bob")).await.unwrap();
        store.commit(unban("10.0.0.1"), &author("bob")).await.unwrap();
        let ids = async |filter: AuditFilter| {
            let rows = store.audit(filter, 10).await.unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let all = || AuditFilter::default();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(ids(AuditFilter { actor: text("bob"), ..all() }).await, [3, 2]);
        assert_eq!(ids(AuditFilter { kinds: vec!["unban".to_owned()], ..all() }).await, [3]);
        let kinds = ["unban", "flag", "ban"].map(str::to_owned).to_vec();
        let several = AuditFilter { kinds, since: text("2000-01-01"), before: Some(4), ..all() };
        assert_eq!(ids(several).await, [3, 2, 1]);
        assert_eq!(ids(AuditFilter { name: text("10.0.0.1"), before: Some(3), ..all() }).await, [1]);
        assert_eq!(
            ids(AuditFilter { since: text("2000-01-01"), until: text("9"), ..all() }).await,
            [3, 2, 1]
        );
        assert_eq!(ids(AuditFilter { until: text("2000-01-01"), ..all() }).await, [0; 0]);
        let newest = store.audit(all(), 1).await.unwrap().remove(0);
        assert_eq!(
            (newest.address.as_deref(), newest.request_id.as_deref()),
            (Some("192.0.2.1"), Some("r-1"))
        );
        let check = store.check_audit(None).await.unwrap();
        assert_eq!((check.entries, check.faults.len()), (3, 0), "{check:?}");
        assert_eq!(check.last.map(|last| last.hash), Some(newest.hash));
    });
}
