//! What a gateway holds, and how an answer of the feed changes it: as in the filter (`src/sync/fetch`), by the same
//! functions of `tidegate_policy`, but in one go. Gateways that hold the same and get the same share the result in
//! memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tidegate_policy::bans::{BanTable, FoldBase, FoldRecent};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry};
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{BansUpdate, BlobRef, Held, OverlayUpdate, SyncAnswer};
use tokio::sync::OnceCell;

/// Answers and results that are kept for gateways that are not so far yet.
const KEPT: usize = 32;

/// One consistent set of tables: of those that are sent whole the hashes, of bans all.
pub struct Tables {
    /// Its version.
    pub version: Version,
    /// The newest refresh that it carries out.
    pub refresh: u64,
    hashes: PerTable<Option<BlobHash>>,
    bans: BanTable,
}

impl Tables {
    /// What the service need not send again.
    pub fn held(&self) -> Held {
        Held { hashes: self.hashes, bans: Some(self.bans.digest()), refresh: Some(self.refresh) }
    }

    /// Bans in force, expired ones included.
    pub fn bans(&self) -> u64 {
        self.bans.digest().count
    }

    /// Tables that `answer` names and does not have: to be downloaded.
    pub fn lacking(answer: &SyncAnswer, held: Option<&Self>) -> Vec<BlobRef> {
        let whole = answer.whole.iter().filter(|update| update.bytes.is_none()).map(|update| update.blob);
        let base = answer.bans.as_ref().filter(|bans| {
            let has_base = held.is_some_and(|held| held.hashes[Table::BanBase] == Some(bans.base.hash));
            !has_base && (bans.fold.is_none() || held.is_none())
        });
        whole.chain(base.map(|bans| bans.base)).collect()
    }

    /// `held` with `answer` applied. `base`: the bytes of the base of bans, if it was downloaded.
    ///
    /// # Errors
    /// A table is missing, or what was told does not make what was promised.
    pub fn apply(answer: &SyncAnswer, held: Option<&Self>, base: Option<&Bytes>) -> Result<Self> {
        let mut hashes = held.map_or_else(PerTable::default, |held| held.hashes);
        for update in &answer.whole {
            if let Some(bytes) = &update.bytes {
                ensure!(
                    BlobHash::of(bytes) == update.blob.hash,
                    "the bytes of {:?} are others",
                    update.table
                );
            }
            hashes[update.table] = Some(update.blob.hash);
        }
        let bans = match &answer.bans {
            None => held.context("no bans in a first answer")?.bans.clone(),
            Some(update) => {
                let bans = apply_bans(update, held, base)?;
                ensure!(bans.digest() == update.digest, "the bans are not those of the digest");
                hashes[Table::BanBase] = Some(update.base.hash);
                bans
            }
        };
        for table in Table::whole() {
            ensure!(hashes[table].is_some(), "there is no table {table:?}");
        }
        Ok(Self { version: answer.version, refresh: answer.refresh, hashes, bans })
    }
}

fn apply_bans(update: &BansUpdate, held: Option<&Tables>, base: Option<&Bytes>) -> Result<BanTable> {
    let has_base = held.is_some_and(|held| held.hashes[Table::BanBase] == Some(update.base.hash));
    match (held, &update.overlay) {
        (Some(held), OverlayUpdate::Delta(changes)) if has_base => Ok(held.bans.with_changes(changes)?),
        (_, OverlayUpdate::Delta(_)) => bail!("changes to an overlay whose base is not held"),
        (Some(held), OverlayUpdate::Whole(changes)) if has_base => {
            overlaid(held.bans.base().clone(), changes)
        }
        (held, OverlayUpdate::Whole(changes)) => {
            let bytes = match (base, held, &update.fold) {
                (Some(bytes), ..) => bytes.to_vec(),
                (None, Some(held), Some(fold)) => folded(&held.bans, fold)?,
                (None, ..) => bail!("the base of bans was not downloaded"),
            };
            ensure!(BlobHash::of(&bytes) == update.base.hash, Misfolded);
            overlaid(AddressTable::from_bytes(bytes)?, changes)
        }
    }
}

/// A base that was folded is not the one that the service named: it must be downloaded.
#[derive(Debug, Clone, Copy)]
pub struct Misfolded;

impl std::fmt::Display for Misfolded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the base of bans came out otherwise")
    }
}

impl std::error::Error for Misfolded {}

/// `base` with an overlay of these entries.
fn overlaid(base: AddressTable, entries: &[Entry]) -> Result<BanTable> {
    let overlay = tidegate_policy::bans::apply(&AddressTable::empty(), entries)?;
    Ok(BanTable::new(base, AddressTable::from_bytes(overlay)?))
}

/// The bytes of a base of all of `bans` with `changes`.
fn folded(bans: &BanTable, changes: &[Entry]) -> Result<Vec<u8>> {
    let bans = bans.with_changes(changes)?;
    let mut recent = FoldRecent::new(bans.overlay(), bans.recent());
    let overlay = loop {
        if let Some(bytes) = recent.step(usize::MAX)? {
            break AddressTable::from_bytes(bytes)?;
        }
    };
    let mut fold = FoldBase::new(bans.base(), &overlay);
    loop {
        if let Some((bytes, _)) = fold.step(usize::MAX)? {
            return Ok(bytes);
        }
    }
}

/// An answer as it was read.
pub struct ReadAnswer {
    /// It.
    pub answer: SyncAnswer,
    /// The hash of what does not differ between gateways that get the same.
    alike: BlobHash,
}

/// The result of one answer to gateways that hold the same.
pub struct SharedResult {
    held: Option<Rc<Tables>>,
    answer: BlobHash,
    /// Whether a gateway works it out.
    pub is_claimed: Cell<bool>,
    /// The result.
    pub tables: OnceCell<Rc<Tables>>,
}

/// The last answers and results, so that thousands of gateways that get the same do not each read and apply it: this
/// program has but one thread, and real gateways have processors of their own.
#[derive(Default)]
pub struct SharedTables {
    answers: RefCell<VecDeque<(BlobHash, Rc<ReadAnswer>)>>,
    results: RefCell<VecDeque<Rc<SharedResult>>>,
}

impl SharedTables {
    /// Reads an answer.
    ///
    /// # Errors
    /// The bytes are no answer.
    pub fn read(&self, bytes: &[u8]) -> Result<Rc<ReadAnswer>> {
        let hash = BlobHash::of(bytes);
        let mut kept = self.answers.borrow_mut();
        if let Some((_, read)) = kept.iter().find(|(of, _)| *of == hash) {
            return Ok(read.clone());
        }
        let answer = SyncAnswer::from_bytes(bytes)?;
        let alike = SyncAnswer { server_time_ms: 0, ack_wanted: false, ..answer.clone() };
        let read = Rc::new(ReadAnswer { answer, alike: BlobHash::of(&alike.to_bytes()?) });
        kept.push_back((hash, read.clone()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(read)
    }

    /// The result of `answer` for gateways that hold `held`, or its place.
    pub fn of(&self, held: Option<&Rc<Tables>>, answer: &ReadAnswer) -> Rc<SharedResult> {
        let mut kept = self.results.borrow_mut();
        let same = |one: &&Rc<SharedResult>| {
            one.answer == answer.alike && one.held.as_ref().map(Rc::as_ptr) == held.map(Rc::as_ptr)
        };
        if let Some(found) = kept.iter().find(same) {
            return found.clone();
        }
        let (held, answer, is_claimed) = (held.cloned(), answer.alike, Cell::new(false));
        let shared = Rc::new(SharedResult { held, answer, is_claimed, tables: OnceCell::new() });
        kept.push_back(shared.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        shared
    }
}
