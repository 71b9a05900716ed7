//! Tables, the change log, and the order of `seq`.

use std::sync::Arc;

use super::support::{ban, everything, keys, on_each_store, put, remove, row, rows_since, unban, until};
use crate::store::{
    AuditFilter, BanMode, Change, Changes, CommitOptions, DocumentKind, DocumentRow, FetchedSource, IpRow,
    NewSet, PerDocumentKind, SetOrigin, ShadowBans, SourceStatus, StoreError, StoreTable, TokenRow,
    Unchanged, UnchangedRows,
};

fn put_route(name: &str, document: &str) -> Change {
    put(DocumentKind::Route, name, document)
}

#[test]
fn a_change_is_in_the_snapshot_and_the_changes_of_its_seq() {
    on_each_store(async |store| {
        let empty = everything(store).await;
        assert!(empty.ips.is_empty() && empty.documents[DocumentKind::Route].is_empty());
        let first = store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
        let second = store.commit(put_route("a", "{}"), &"test".into()).await.unwrap();
        assert_eq!((first.rows, second.rows), (1, 1));
        assert!(empty.seq < first.seq && first.seq < second.seq);

        let all = everything(store).await;
        assert_eq!((all.seq, all.ips.len(), all.documents[DocumentKind::Route].len()), (second.seq, 1, 1));
        assert_eq!((all.ips[0].ip.as_str(), all.ips[0].status.as_str()), ("1.2.3.4", "banned"));
        let (seq, ips) = rows_since(store, empty.seq).await;
        assert_eq!((seq, ips), (second.seq, vec![("1.2.3.4".to_owned(), Some(all.ips[0].clone()))]));
        let (_, ips) = rows_since(store, first.seq).await;
        assert_eq!(ips, []);
        let of_keys = store.ip_rows(vec!["1.2.3.4".to_owned(), "9.9.9.9".to_owned()]).await.unwrap();
        assert_eq!((of_keys.seq, of_keys.ips), (second.seq, all.ips.clone()));
        let only = store.read_tables(&[StoreTable::Documents(DocumentKind::Route)]).await.unwrap();
        assert_eq!(
            (only.ips.len(), &only.documents[DocumentKind::Route]),
            (0, &all.documents[DocumentKind::Route])
        );
    });
}

#[test]
fn what_is_gone_is_told_as_gone() {
    on_each_store(async |store| {
        store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
        let before = store.commit(put_route("a", "{}"), &"test".into()).await.unwrap().seq;
        store.commit(unban("1.2.3.4"), &"test".into()).await.unwrap();
        let deleted = store.commit(remove(DocumentKind::Route, "a"), &"test".into()).await.unwrap();
        let Changes::Rows { seq, rows } = store.changes_since(before).await.unwrap() else {
            panic!("a reload")
        };
        assert_eq!(seq, deleted.seq);
        assert_eq!(rows.ips, [("1.2.3.4".to_owned(), None)]);
        assert_eq!(rows.documents[DocumentKind::Route], [("a".to_owned(), None)]);
    });
}

#[test]
fn every_table_is_told_and_only_what_changed_of_it() {
    on_each_store(async |store| {
        let flag = |value: &str| Change::SetFlags { flags: vec![("f".to_owned(), value.to_owned())] };
        let rule = put(DocumentKind::GeoRule, "g", "{}");
        store.commit(flag("true"), &"test".into()).await.unwrap();
        let before = store.commit(rule, &"test".into()).await.unwrap().seq;
        let countries = |table: &[u8]| Change::SetCountries { source: "s".to_owned(), table: table.to_vec() };
        store.commit(countries(&[1; 100_000]), &"test".into()).await.unwrap();
        store.commit(countries(&[2; 100_000]), &"test".into()).await.unwrap();
        store.commit(flag("\"shadow\""), &"test".into()).await.unwrap();
        store.commit(remove(DocumentKind::GeoRule, "g"), &"test".into()).await.unwrap();
        let Changes::Rows { seq, rows } = store.changes_since(before).await.unwrap() else {
            panic!("a reload")
        };
        let all = everything(store).await;
        assert_eq!((seq, all.seq), (before + 4, before + 4));
        assert!(rows.ips.is_empty() && rows.documents[DocumentKind::Route].is_empty());
        assert_eq!(rows.documents[DocumentKind::GeoRule], [("g".to_owned(), None)]);
        assert_eq!(rows.flags, [("f".to_owned(), Some(all.flags[0].clone()))]);
        assert_eq!(all.flags[0].value, "\"shadow\"");
        assert_eq!(rows.countries, Some(all.countries.clone()));
        assert_eq!(all.countries.unwrap().table, vec![2; 100_000]);
        assert!(all.documents[DocumentKind::GeoRule].is_empty());
        let Changes::Rows { rows, .. } = store.changes_since(seq - 1).await.unwrap() else {
            panic!("a reload")
        };
        assert_eq!((rows.flags, rows.countries), (vec![], None));
    });
}

#[test]
fn nothing_to_do_takes_no_number() {
    on_each_store(async |store| {
        let seq = store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap().seq;
        let nothing = store.commit(unban("5.6.7.8"), &"test".into()).await.unwrap();
        assert_eq!((nothing.seq, nothing.rows), (seq, 0));
        let nothing = store.commit(remove(DocumentKind::Route, "no"), &"test".into()).await.unwrap();
        assert_eq!((nothing.seq, nothing.rows), (seq, 0));
    });
}

#[test]
fn a_ban_spares_what_is_allowed_at_that_moment() {
    on_each_store(async |store| {
        let allow = |ip: &str, end: Option<&str>| Change::Allow {
            ip: ip.to_owned(),
            reason: None,
            expires_at: end.map(str::to_owned),
        };
        let ban = |ip: &str, unless_allowed| Change::Ban {
            ip: ip.to_owned(),
            reason: None,
            expires_at: None,
            mode: BanMode::Enforce,
            applies_to: None,
            unless_allowed,
        };
        store.commit(allow("1.2.3.4", Some("2100-01-01 00:00:00.000")), &"test".into()).await.unwrap();
        store.commit(allow("1.2.3.5", Some("2020-01-01 00:00:00.000")), &"test".into()).await.unwrap();
        let rows = async |change| store.commit(change, &"test".into()).await.unwrap().rows;
        assert_eq!(rows(ban("1.2.3.4", true)).await, 0);
        assert_eq!(row(store, "1.2.3.4").await.unwrap().status, "allowed");
        assert_eq!(rows(ban("1.2.3.5", true)).await, 1, "its allowance is over");
        assert_eq!(rows(ban("1.2.3.4", false)).await, 1);
        assert_eq!(row(store, "1.2.3.4").await.unwrap().status, "banned");
    });
}

#[test]
fn a_ban_in_shadow_is_enforced_with_all_else_that_it_says() {
    on_each_store(async |store| {
        let shadow = |ip: &str| Change::Ban {
            ip: ip.to_owned(),
            reason: Some("r".to_owned()),
            expires_at: Some("2100-01-01 00:00:00.000".to_owned()),
            mode: BanMode::Shadow,
            applies_to: None,
            unless_allowed: false,
        };
        let rows = async |change| store.commit(change, &"test".into()).await.unwrap().rows;
        let enforce = |key: &str| Change::EnforceBans(ShadowBans::Keys(vec![key.to_owned()]));
        assert_eq!(rows(shadow("1.2.3.4")).await, 1);
        let before = row(store, "1.2.3.4").await.unwrap();
        assert_eq!(before.status, "watched");
        assert_eq!(rows(enforce("1.2.3.4/32")).await, 1);
        let after = row(store, "1.2.3.4").await.unwrap();
        assert_eq!(
            IpRow { updated_at: None, ..after },
            IpRow { status: "banned".to_owned(), updated_at: None, ..before }
        );
        assert_eq!(rows(enforce("1.2.3.4")).await, 0, "it denies already");
        assert_eq!(rows(shadow("1.2.3.4")).await, 1);
        assert_eq!(rows(Change::Unban { keys: vec!["1.2.3.4".to_owned()] }).await, 1);
        assert_eq!(row(store, "1.2.3.4").await, None);
    });
}

#[test]
fn a_second_ban_keeps_when_the_first_was() {
    on_each_store(async |store| {
        store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
        let first = row(store, "1.2.3.4").await.unwrap();
        until("the clock goes on", async || {
            store
                .commit(
                    Change::Ban {
                        ip: "1.2.3.4".to_owned(),
                        reason: Some("again".to_owned()),
                        expires_at: Some("2030-01-01 00:00:00.000".to_owned()),
                        mode: BanMode::Enforce,
                        applies_to: None,
                        unless_allowed: false,
                    },
                    &"test".into(),
                )
                .await
                .unwrap();
            let second = row(store, "1.2.3.4").await.unwrap();
            assert_eq!(second.created_at, first.created_at);
            assert_eq!(second.reason.as_deref(), Some("again"));
            (second.updated_at > first.updated_at).then_some(())
        })
        .await;
        store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
        let third = row(store, "1.2.3.4").await.unwrap();
        assert_eq!((third.reason, third.expires_at), (None, None));
    });
}

#[test]
fn a_route_keeps_when_it_was_made() {
    on_each_store(async |store| {
        store.commit(put_route("a", "1"), &"test".into()).await.unwrap();
        let first = everything(store).await.documents[DocumentKind::Route].remove(0);
        store.commit(put_route("a", "2"), &"test".into()).await.unwrap();
        let second = everything(store).await.documents[DocumentKind::Route].remove(0);
        assert_eq!((second.document.as_str(), second.created_at), ("2", first.created_at));
    });
}

#[test]
fn documents_of_one_name_are_one_of_each_kind() {
    on_each_store(async |store| {
        for name in ["http", "https"] {
            store.commit(remove(DocumentKind::Listener, name), &"test".into()).await.unwrap();
        }
        let before = everything(store).await.seq;
        for kind in DocumentKind::ALL {
            store.commit(put(kind, "a", kind.name()), &"test".into()).await.unwrap();
        }
        let Changes::Rows { rows, .. } = store.changes_since(before).await.unwrap() else {
            panic!("a reload")
        };
        let all = everything(store).await;
        for kind in DocumentKind::ALL {
            let row = all.documents[kind][0].clone();
            assert_eq!(row.document, kind.name());
            assert_eq!(rows.documents[kind], [("a".to_owned(), Some(row))]);
            let only = store.read_tables(&[StoreTable::Documents(kind)]).await.unwrap();
            let found = DocumentKind::ALL.into_iter().filter(|kind| !only.documents[*kind].is_empty());
            assert_eq!(found.collect::<Vec<_>>(), [kind]);
            store.commit(remove(kind, "a"), &"test".into()).await.unwrap();
        }
        assert_eq!(everything(store).await.documents, PerDocumentKind::default());
    });
}

#[test]
fn a_write_may_hang_on_what_nobody_changed() {
    on_each_store(async |store| {
        store.commit(put(DocumentKind::Backend, "b", "{}"), &"test".into()).await.unwrap();
        let first = store.commit(put_route("a", "{}"), &"test".into()).await.unwrap().seq;
        let second = store.commit(put_route("a", "[]"), &"test".into()).await.unwrap().seq;
        let only_if = |since| {
            const TABLES: &[StoreTable] =
                &[StoreTable::Documents(DocumentKind::GeoRule), StoreTable::Documents(DocumentKind::Route)];
            Some(Unchanged { tables: TABLES, since })
        };
        let remove = async |since| {
            let (name, only_if) = ("b".to_owned(), only_if(since));
            let change = Change::DeleteDocument { kind: DocumentKind::Backend, name, only_if };
            store.commit(change, &"test".into()).await.unwrap()
        };
        let put_again = async |since| {
            let (name, document, only_if) = ("b".to_owned(), "[]".to_owned(), only_if(since));
            let change = Change::PutDocument { kind: DocumentKind::Backend, name, document, only_if };
            store.commit(change, &"test".into()).await.unwrap()
        };
        let all = async |since| {
            let kind = DocumentKind::Backend;
            let (changes, only_if) = (vec![put(kind, "b", "[1]"), put(kind, "c", "{}")], only_if(since));
            store.commit(Change::All { changes, only_if }, &"test".into()).await.unwrap()
        };
        for since in [0, first, second + 1] {
            for nothing in [remove(since).await, put_again(since).await, all(since).await] {
                assert_eq!((nothing.rows, nothing.seq, nothing.is_stale), (0, second, true), "{since}");
            }
        }
        assert_eq!(everything(store).await.documents[DocumentKind::Backend][0].document, "{}");
        // Changes of other tables do not matter to the condition.
        store.commit(put(DocumentKind::Limit, "l", "{}"), &"test".into()).await.unwrap();
        assert_eq!(put_again(second).await.rows, 1);
        assert_eq!(everything(store).await.documents[DocumentKind::Backend][0].document, "[]");
        assert_eq!(remove(second).await.rows, 1);
        assert!(everything(store).await.documents[DocumentKind::Backend].is_empty());
        assert_eq!(all(second).await.rows, 2);
        let names = |rows: &[DocumentRow]| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&everything(store).await.documents[DocumentKind::Backend]), ["b", "c"]);
    });
}

#[test]
fn a_write_may_hang_on_rows_that_nobody_changed_and_may_be_only_tried() {
    on_each_store(async |store| {
        let first = store.commit(put_route("a", "{}"), &"test".into()).await.unwrap().seq;
        let second = store.commit(put_route("b", "{}"), &"test".into()).await.unwrap().seq;
        let write = async |key: &str, since, dry_run| {
            let (table, keys) = (StoreTable::Documents(DocumentKind::Route), Some(vec![key.to_owned()]));
            let options = CommitOptions { only_if: vec![UnchangedRows { table, keys, since }], dry_run };
            store.commit_with(put_route("a", "[]"), &"test".into(), options).await.unwrap()
        };
        for (key, since, dry_run, is_stale) in [
            ("b", first, false, true),
            ("b", first, true, true),
            ("a", second + 1, false, true),
            ("a", first, true, false),
        ] {
            let done = write(key, since, dry_run).await;
            assert_eq!((done.is_stale, done.seq), (is_stale, second), "{key} {since}");
        }
        assert_eq!(everything(store).await.documents[DocumentKind::Route][0].document, "{}");
        let audit = store.audit(AuditFilter::default(), 10).await.unwrap();
        assert_eq!(audit.len(), 2, "what was only tried is not audited");
        assert_eq!(write("a", first, false).await.rows, 1);
        assert_eq!(everything(store).await.documents[DocumentKind::Route][0].document, "[]");
    });
}

#[test]
fn concurrent_commits_have_numbers_in_their_order() {
    on_each_store(async |store| {
        let one = async |k: u8| {
            let mut seqs = Vec::new();
            for i in 0..20 {
                let ip = format!("10.0.{k}.{i}");
                let seq = store.commit(ban(&ip), &"test".into()).await.unwrap().seq;
                // Once a commit is answered, every reader sees it.
                let (_, since) = rows_since(store, seq - 1).await;
                assert!(since.iter().any(|(key, row)| *key == ip && row.is_some()), "{ip}");
                seqs.push(seq);
            }
            seqs
        };
        let (a, b, c) = tokio::join!(one(1), one(2), one(3));
        assert!([&a, &b, &c].iter().all(|seqs| seqs.is_sorted()));
        let mut all = [a, b, c].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 60);
        assert_eq!(keys(store).await.len(), 60);
    });
}

#[test]
fn who_watches_hears_of_a_commit() {
    on_each_store(async |store| {
        let mut watch = store.watch();
        watch.mark_unchanged();
        store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(20), watch.changed()).await.unwrap().unwrap();
    });
}

#[test]
fn a_seq_from_another_world_is_answered_with_a_new_epoch() {
    on_each_store(async |store| {
        let seq = store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap().seq;
        let answer = store.changes_since(seq + 1000).await.unwrap();
        assert!(matches!(answer, Changes::Reload { new_epoch: true, .. }), "{answer:?}");
    });
}

#[test]
fn tokens_are_listed_as_added_each_name_once_and_revoked_by_it() {
    on_each_store(async |store| {
        let token = |hash: &str, name: &str| TokenRow {
            hash: hash.to_owned(),
            name: name.to_owned(),
            role: "gateway".to_owned(),
            node: Some("n".to_owned()),
            expires_at: Some("2100-01-01 00:00:00.000".to_owned()),
            ..TokenRow::default()
        };
        let add = async |hash: &str, name: &str, only_new_name| {
            let change = Change::AddToken { token: token(hash, name), only_new_name };
            store.commit(change, &"alice".into()).await.unwrap().rows
        };
        assert_eq!(store.tokens().await, Ok::<_, StoreError>(Vec::new()));
        assert_eq!(add("a", "one", true).await, 1);
        assert_eq!(add("a", "other", true).await, 0, "the same token");
        assert_eq!(add("b", "one", true).await, 0, "the same name");
        assert_eq!(add("b", "one", false).await, 1);
        assert_eq!(add("c", "two", true).await, 1);
        store.note_tokens_used(vec![("b".to_owned(), 1_795_456_801_000), ("x".to_owned(), 1)]).await.unwrap();
        let found = store.tokens().await.unwrap();
        let names: Vec<_> = found.iter().map(|row| (row.hash.as_str(), row.name.as_str())).collect();
        assert_eq!(names, [("a", "one"), ("b", "one"), ("c", "two")]);
        let stored = TokenRow {
            created_at: found[1].created_at.clone(),
            created_by: Some("alice".to_owned()),
            last_used_at: Some("2026-11-23 18:00:01.000".to_owned()),
            ..token("b", "one")
        };
        assert_eq!((&found[1], found[0].last_used_at.as_ref()), (&stored, None));
        let revoke = Change::RevokeTokens { name: "one".to_owned() };
        assert_eq!(store.commit(revoke.clone(), &"alice".into()).await.unwrap().rows, 2);
        assert_eq!(store.commit(revoke, &"alice".into()).await.unwrap().rows, 0);
        assert_eq!(store.tokens().await.unwrap().len(), 1);
        let told = store.audit(AuditFilter::default(), 9).await.unwrap();
        let told: Vec<_> = told.iter().map(|row| (row.name.as_str(), row.after.is_some())).collect();
        assert_eq!(told, [("one", false), ("one", false), ("two", true), ("one", true), ("one", true)]);
    });
}

#[test]
fn a_set_is_stored_if_its_document_is_still_that_one() {
    on_each_store(async |store| {
        let by = "test".into();
        store.commit(put(DocumentKind::Source, "a", "{}"), &by).await.unwrap();
        let fetched = |document: &str, entries: Option<&[u8]>, counts: &str| {
            let origin = SetOrigin { counts: counts.to_owned(), ..SetOrigin::default() };
            let set = Some(NewSet { entries: entries.map(|bytes| Arc::new(bytes.to_vec())), origin });
            let status =
                SourceStatus { failures: 3, error: Some("why".to_owned()), ..SourceStatus::default() };
            let (name, document) = ("a".to_owned(), document.to_owned());
            Change::SourceFetched(Arc::new(FetchedSource { name, document, set, status }))
        };
        let stale = store.commit(fetched("{ }", Some(b"1"), "{}"), &by).await.unwrap();
        assert!(stale.is_stale && store.source_states().await.unwrap().is_empty());
        let first = store.commit(fetched("{}", Some(b"1"), "{}"), &by).await.unwrap();
        assert!(!first.is_stale && first.rows == 1);
        // The same entries: nobody has to follow.
        let same = store.commit(fetched("{}", None, r#"{"taken":1}"#), &by).await.unwrap();
        assert_eq!((same.is_stale, same.rows, same.seq), (false, 0, first.seq));
        let states = store.source_states().await.unwrap();
        assert_eq!((states[0].name.as_str(), states[0].status.failures), ("a", 3));
        assert_eq!(states[0].set.as_ref().unwrap().counts, r#"{"taken":1}"#);
        assert_eq!(everything(store).await.source_sets[0].entries, b"1");
        let audit = store.audit(AuditFilter::default(), 10).await.unwrap();
        assert_eq!(audit.iter().filter(|row| row.kind == "source-set").count(), 1);
        store.commit(remove(DocumentKind::Source, "a"), &by).await.unwrap();
        assert!(store.source_states().await.unwrap().is_empty());
        assert!(everything(store).await.source_sets.is_empty());
    });
}
