//! Makes a new ban base from the held bans: the answer's changes are applied to the
//! recent ones, these to the overlay, and overlay and base are folded into one table. In steps.

use tidegate_policy::bans::{ApplyChanges, FoldBase, FoldRecent};
use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry, TableCheck};
use tidegate_policy::tables::STEP_ENTRIES;

use crate::sync::snapshot::Snapshot;

/// A fold under way.
pub struct FoldBans {
    base: AddressTable,
    overlay: AddressTable,
    stage: FoldStage,
}

enum FoldStage {
    Apply(ApplyChanges),
    CheckRecent(Box<TableCheck>),
    FoldRecent(FoldRecent),
    CheckOverlay(Box<TableCheck>),
    Fold(Box<FoldBase>),
}

fn check(bytes: Vec<u8>) -> Result<Box<TableCheck>, FormatError> {
    TableCheck::new(bytes).map(Box::new)
}

impl FoldBans {
    /// Begins to fold the bans of `held`, with `changes` applied.
    #[must_use]
    pub fn new(held: &Snapshot, changes: &[Entry]) -> Self {
        let bans = &held.tables.bans;
        Self {
            base: bans.base().clone(),
            overlay: bans.overlay().clone(),
            stage: FoldStage::Apply(ApplyChanges::new(bans.recent(), changes)),
        }
    }

    /// Does a bounded piece of the work; after the last, the base's bytes and hash.
    ///
    /// # Errors
    /// When the base would be too large. There is no further step then.
    pub fn step(&mut self) -> Result<Option<(Vec<u8>, BlobHash)>, FormatError> {
        let next = match &mut self.stage {
            FoldStage::Apply(apply) => {
                apply.step(STEP_ENTRIES)?.map(check).transpose()?.map(FoldStage::CheckRecent)
            }
            FoldStage::CheckRecent(check) => check
                .step(STEP_ENTRIES)?
                .map(|recent| FoldStage::FoldRecent(FoldRecent::new(&self.overlay, &recent))),
            FoldStage::FoldRecent(fold) => {
                fold.step(STEP_ENTRIES)?.map(check).transpose()?.map(FoldStage::CheckOverlay)
            }
            FoldStage::CheckOverlay(check) => check
                .step(STEP_ENTRIES)?
                .map(|overlay| FoldStage::Fold(Box::new(FoldBase::new(&self.base, &overlay)))),
            FoldStage::Fold(fold) => return fold.step(STEP_ENTRIES),
        };
        if let Some(next) = next {
            self.stage = next;
        }
        Ok(None)
    }
}
