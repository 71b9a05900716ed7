//! Bringing a VM's tables to what is published: collect, verify, swap. In steps,
//! so that a base of a million entries does not hold up the worker's requests,
//! which go on with the set before.

use std::rc::Rc;

use tidegate_policy::bans::Join;
use tidegate_policy::wire::sync::BlobRef;

use super::decode_table::{ENTRIES, Intake, IntakeError};
use super::read_published::{Collect, Collected, Published};
use crate::host::Cas;
use crate::sync::shared::keys::Keys;
use crate::sync::shared::manifest::{CHUNK, Manifest, Part, PerPart, Shared};
use crate::sync::snapshot::{Loaded, Pieces};

/// What a load came to.
pub enum LoadEnd {
    /// A set that differs from the one before.
    Set(Rc<Loaded>, Cas),
    /// What is published is what is held.
    Same(Cas),
    /// Nothing is published yet.
    Nothing,
    /// Verified bytes that are no table, or a manifest that does not decode. To
    /// read this manifest again would not help.
    Undecodable(Cas, &'static str),
    /// Others were in the way: at the next tick.
    Later,
}

/// A load under way.
pub struct Load {
    held: Option<Rc<Loaded>>,
    at: At,
}

enum At {
    Collect(Box<Collect>),
    Check(Box<Checking>),
}

struct Checking {
    manifest: Manifest,
    cas: Cas,
    waiting: Vec<Intake>,
    join: Option<Join>,
    pieces: Pieces,
}

impl Load {
    /// A load by a VM that holds `held`.
    #[must_use]
    pub fn new(held: Option<Rc<Loaded>>) -> Self {
        let names = PerPart::from_fn(|part| held.as_ref().map(|held| *held.blobs.get(part)));
        Self { at: At::Collect(Box::new(Collect::new(names, CHUNK))), held }
    }

    /// Reads everything anew, whatever is held: a refresh was ordered.
    #[must_use]
    pub fn anew(held: Option<Rc<Loaded>>) -> Self {
        Self { at: At::Collect(Box::new(Collect::new(PerPart::default(), CHUNK))), held }
    }

    /// Makes one host call, or does one bounded piece of work.
    pub fn step(&mut self, shared: &impl Shared, keys: &Keys) -> Option<LoadEnd> {
        match &mut self.at {
            At::Collect(collect) => match collect.step(shared, keys)? {
                Collected::Nothing => Some(LoadEnd::Nothing),
                Collected::Later => Some(LoadEnd::Later),
                Collected::Unreadable(cas) => Some(LoadEnd::Undecodable(cas, "the manifest")),
                Collected::Set(published) => self.check(*published),
            },
            At::Check(checking) => checking.step(),
        }
    }

    fn check(&mut self, published: Published) -> Option<LoadEnd> {
        let Published { manifest, cas, mut bytes } = published;
        let held = self.held.take();
        if held.as_ref().is_some_and(|held| held.is(&manifest)) {
            return Some(LoadEnd::Same(cas));
        }
        let intake = |part| {
            let blob: BlobRef = manifest.tables.get(part).blob;
            Some(Intake::new(part, blob, bytes.get_mut(part).take()?))
        };
        let waiting: Vec<Intake> = Part::ALL.into_iter().rev().filter_map(intake).collect();
        let pieces = Pieces::of(held.as_deref());
        self.at = At::Check(Box::new(Checking { manifest, cas, waiting, join: None, pieces }));
        None
    }
}

impl Checking {
    fn step(&mut self) -> Option<LoadEnd> {
        let Some(intake) = self.waiting.last_mut() else { return self.put_together() };
        match intake.step() {
            Ok(None) => None,
            Ok(Some(table)) => {
                let part = intake.part();
                self.waiting.pop();
                self.pieces.put(part, table);
                None
            }
            // Overwritten under our eyes in a way that no piece showed.
            Err(IntakeError::Hash) => Some(LoadEnd::Later),
            Err(IntakeError::Layout(_)) => Some(LoadEnd::Undecodable(self.cas, intake.part().name())),
        }
    }

    fn put_together(&mut self) -> Option<LoadEnd> {
        if let Some(join) = &mut self.join {
            self.pieces.joined(join.step(ENTRIES)?);
            self.join = None;
        }
        self.join = self.pieces.join();
        if self.join.is_none() { Some(self.finish()) } else { None }
    }

    fn finish(&mut self) -> LoadEnd {
        let pieces = std::mem::take(&mut self.pieces);
        match pieces.into_tables(self.manifest.version) {
            Some(tables) => {
                let loaded = Loaded {
                    refresh: self.manifest.refresh,
                    clock_ms: self.manifest.clock_ms,
                    blobs: self.manifest.blobs(),
                    tables: Rc::new(tables),
                };
                LoadEnd::Set(Rc::new(loaded), self.cas)
            }
            None => LoadEnd::Later,
        }
    }
}
