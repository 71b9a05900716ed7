//! Makes a new ban base from the held bans: the answer's changes are applied to the
//! overlay, and overlay and base are folded into one table. In steps.

use tidegate_policy::bans::{ApplyChanges, FoldBase, JoinDigest};
use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry, TableCheck};
use tidegate_policy::tables::STEP_ENTRIES;

use crate::sync::snapshot::Snapshot;

/// A fold under way.
pub struct FoldBans {
    base: AddressTable,
    stage: FoldStage,
}

enum FoldStage {
    Apply(ApplyChanges),
    Check(Box<TableCheck>),
    Join(JoinDigest),
    Fold(Box<FoldBase>),
}

impl FoldBans {
    /// Begins to fold the bans of `held`, with `changes` applied.
    #[must_use]
    pub fn new(held: &Snapshot, changes: &[Entry]) -> Self {
        let bans = &held.tables.bans;
        Self {
            base: bans.base().clone(),
            stage: FoldStage::Apply(ApplyChanges::new(bans.overlay(), changes)),
        }
    }

    /// Does a bounded piece of the work; after the last, the base's bytes and hash.
    ///
    /// # Errors
    /// When the base would be too large. There is no further step then.
    pub fn step(&mut self) -> Result<Option<(Vec<u8>, BlobHash)>, FormatError> {
        let next = match &mut self.stage {
            FoldStage::Apply(apply) => apply
                .step(STEP_ENTRIES)?
                .map(TableCheck::new)
                .transpose()?
                .map(|check| FoldStage::Check(Box::new(check))),
            FoldStage::Check(check) => check
                .step(STEP_ENTRIES)?
                .map(|overlay| FoldStage::Join(JoinDigest::new(self.base.clone(), overlay))),
            FoldStage::Join(join) => {
                join.step(STEP_ENTRIES).map(|bans| FoldStage::Fold(Box::new(FoldBase::new(&bans))))
            }
            FoldStage::Fold(fold) => return fold.step(STEP_ENTRIES),
        };
        if let Some(next) = next {
            self.stage = next;
        }
        Ok(None)
    }
}
