//! Events: stored once each, and counted.

use tidegate_policy::wire::event::{Source, SourceReport, SourceState};

use super::support::{batch, block_on, post, post_of, stores};
use crate::store::{Append, Appended};

#[test]
fn a_batch_is_stored_once() {
    for fixture in stores() {
        block_on(async {
            let store = &*fixture.store;
            let first = store.append(post_of(vec![batch(7, 1, 5)])).await.unwrap();
            assert_eq!(first, Appended { stored: 5, duplicates: 0 });
            let again = store.append(post_of(vec![batch(7, 3, 8)])).await.unwrap();
            assert_eq!(again, Appended { stored: 3, duplicates: 3 });
            assert!(store.covers(Source(7), 8).await.unwrap());
            assert!(!store.covers(Source(7), 9).await.unwrap());
            let counts = store.recording().await.unwrap();
            assert_eq!((counts.numbered, counts.stored, counts.duplicates), (8, 8, 3));
            assert_eq!((counts.pending, counts.lost, counts.unclosed), (0, 0, 0));
        });
    }
}

fn report(source: u128, numbered_hi: u64, state: SourceState) -> Append {
    Append { sources: vec![SourceReport { source: Source(source), numbered_hi, state }], ..post() }
}

#[test]
fn what_is_missing_is_pending_then_lost_then_here_after_all() {
    for fixture in stores() {
        block_on(async {
            let store = &*fixture.store;
            store.append(post_of(vec![batch(7, 4, 5)])).await.unwrap();
            store.append(report(7, 6, SourceState::Alive)).await.unwrap();
            let counts = store.recording().await.unwrap();
            assert_eq!((counts.numbered, counts.stored, counts.pending, counts.lost), (6, 2, 4, 0));
            assert_eq!((counts.alive, counts.unclosed), (1, 0));
            store.append(report(7, 6, SourceState::Dead)).await.unwrap();
            let counts = store.recording().await.unwrap();
            assert_eq!((counts.pending, counts.lost, counts.alive, counts.unclosed), (0, 4, 0, 1));
            let mut late = batch(7, 1, 3);
            (late.numbered_hi, late.closing) = (6, true);
            store.append(post_of(vec![late])).await.unwrap();
            let counts = store.recording().await.unwrap();
            assert_eq!((counts.stored, counts.pending, counts.lost, counts.unclosed), (5, 0, 1, 0));
        });
    }
}
