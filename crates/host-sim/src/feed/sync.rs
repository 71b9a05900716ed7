//! Answers of polls and pages, which carry tables to a gateway.

use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::bans;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{
    ACK_HEADER, Ack, BansUpdate, BlobRef, HELD_HEADER, Held, MAX_INLINE, MAX_PAGE, OverlayUpdate, SyncAnswer,
    WholeUpdate,
};

use super::{Fault, Feed, LastingFault, Reply};
use crate::process::Sim;
use crate::world::CallView;

impl Feed {
    pub(super) fn poll(&mut self, call: &CallView, query: &str, sim: &Sim) -> Option<Reply> {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("since=")?.parse::<Version>().ok());
        let held: Held = call.header(HELD_HEADER).unwrap_or_default().parse().unwrap_or_default();
        let refreshed = held.refresh.is_some_and(|refresh| refresh < self.refresh);
        if self.frozen {
            return None;
        }
        if since == Some(self.version()) && !refreshed {
            let waits = self.waits(Some(LastingFault::Slow(wait(query))), call, sim);
            return (!waits).then(|| Reply::Answer(304, Vec::new()));
        }
        self.polled_acks.extend(call.header(ACK_HEADER).and_then(|ack| ack.parse::<Ack>().ok()));
        let mut answer = SyncAnswer {
            version: self.version(),
            refresh: self.refresh,
            server_time_ms: self.clock_ms(sim),
            ack_wanted: self.ack_wanted,
            whole: self.whole_updates(&held),
            bans: Some(self.bans_update(since, &held)),
        };
        let fault = self.faults.front().copied();
        if fault.is_some_and(|fault| spoil(&mut answer, fault)) {
            self.faults.pop_front();
        }
        let mut bytes = answer.to_bytes().ok()?;
        if fault == Some(Fault::Truncated) {
            self.faults.pop_front();
            bytes.truncate(bytes.len() / 2);
        }
        Some(Reply::Answer(200, bytes))
    }

    fn whole_updates(&self, held: &Held) -> Vec<WholeUpdate> {
        let update = |(table, bytes): (&Table, &Vec<u8>)| {
            let blob = name(bytes);
            let is_held = held.hashes[*table] == Some(blob.hash);
            let inline = (bytes.len() <= MAX_INLINE).then(|| bytes.clone());
            (!is_held).then_some(WholeUpdate { table: *table, blob, bytes: inline })
        };
        self.whole.iter().filter_map(update).collect()
    }

    fn bans_update(&self, since: Option<Version>, held: &Held) -> BansUpdate {
        let base = name(&self.base);
        let state = |prefix: Prefix| {
            let state =
                self.bans.get(&prefix).map_or(EntryState::Absent, |expires| EntryState::Present(*expires));
            Entry { prefix, state }
        };
        let after = |seq: u64| self.log.iter().filter(move |(at, _)| *at > seq).map(|(_, prefix)| *prefix);
        let since = since.filter(|since| since.epoch == self.epoch).map(|since| since.seq);
        let (fold, overlay) = match since {
            Some(since) if held.hashes[Table::BanBase] == Some(base.hash) && since >= self.cut => {
                (None, OverlayUpdate::Delta(after(since).map(state).collect()))
            }
            Some(since) if held.hashes[Table::BanBase].is_some_and(|held| held != base.hash) => {
                let at_cut = |prefix: Prefix| {
                    let state = self.base_entries.get(&prefix).unwrap_or(EntryState::Absent);
                    Entry { prefix, state }
                };
                let keys = self.log.iter().filter(|(at, _)| *at > since && *at <= self.cut);
                let fold = keys.map(|(_, prefix)| at_cut(*prefix)).collect();
                (Some(fold), OverlayUpdate::Whole(after(self.cut).map(state).collect()))
            }
            _ => (None, OverlayUpdate::Whole(after(self.cut).map(state).collect())),
        };
        let overlay_table = |changes: Vec<Entry>| {
            let bytes = bans::apply(&AddressTable::empty(), &changes).expect("an overlay");
            AddressTable::from_bytes(bytes).expect("an overlay")
        };
        let all = bans::BanTable::new(
            self.base_entries.clone(),
            overlay_table(after(self.cut).map(state).collect()),
        );
        BansUpdate { base, fold, overlay, digest: all.digest() }
    }

    pub(super) fn page(&mut self, path: &str, query: &str) -> Reply {
        let hash = path.rsplit('/').next().and_then(|hash| hash.parse::<BlobHash>().ok());
        let blobs = std::iter::once(&self.base).chain(self.whole.values());
        let found = blobs.into_iter().find(|bytes| Some(BlobHash::of(bytes)) == hash);
        let offset =
            query.strip_prefix("offset=").and_then(|offset| offset.parse::<usize>().ok()).unwrap_or(0);
        let page =
            found.and_then(|bytes| bytes.get(offset..)).map(|rest| rest[..rest.len().min(MAX_PAGE)].to_vec());
        match (self.faults.front(), page) {
            (Some(Fault::Page), Some(mut page)) => {
                self.faults.pop_front();
                page[0] ^= 1;
                Reply::Answer(200, page)
            }
            (Some(Fault::Gone), _) => {
                self.faults.pop_front();
                Reply::Answer(410, Vec::new())
            }
            (_, Some(page)) => Reply::Answer(200, page),
            (_, None) => Reply::Answer(410, Vec::new()),
        }
    }
}

/// How long a poll may be held.
fn wait(query: &str) -> Duration {
    let seconds =
        query.split('&').find_map(|pair| pair.strip_prefix("wait=")?.strip_suffix('s')?.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

fn name(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
}

/// Makes an answer wrong, if the fault applies to it; false if it does not.
fn spoil(answer: &mut SyncAnswer, fault: Fault) -> bool {
    match fault {
        Fault::WholeTable => {
            let bytes = answer.whole.iter_mut().find_map(|update| update.bytes.as_mut());
            bytes.map(|bytes| bytes.push(0)).is_some()
        }
        Fault::NoTable => {
            let update = answer.whole.first_mut();
            update
                .map(|update| (update.blob, update.bytes) = (name(b"no table"), Some(b"no table".to_vec())))
                .is_some()
        }
        Fault::Digest => answer.bans.as_mut().map(|bans| bans.digest.count += 1).is_some(),
        Fault::Fold => {
            let fold = answer.bans.as_mut().and_then(|bans| bans.fold.as_mut());
            fold.map(|fold| {
                let prefix = "192.0.2.77".parse().expect("a prefix");
                fold.push(Entry { prefix, state: EntryState::Present(None) });
            })
            .is_some()
        }
        Fault::Truncated | Fault::Page | Fault::Gone => false,
    }
}
