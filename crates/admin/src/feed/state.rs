//! One state of the feed: a world, and everything needed to bring any gateway
//! to it.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_policy::wire::sync::{BlobRef, Held, Version, WholeTable};

use super::answer::Cache;
use super::base::Base;
use super::log::{Log, Moment};
use super::world::{Figures, World};

/// A table that travels whole.
#[derive(Clone)]
pub(super) struct Whole {
    pub blob: BlobRef,
    pub bytes: Bytes,
}

/// A state; never changes once it is published. A copy shares nearly all.
#[derive(Clone)]
pub(super) struct State {
    pub moment: Moment,
    /// Epochs of this process that are over: their era is the index.
    pub past: Arc<Vec<Past>>,
    pub world: Arc<World>,
    pub base: Arc<Base>,
    pub log: Log,
    pub flags: Whole,
    pub allow: Whole,
    pub geo: Whole,
    pub countries: Whole,
    pub routes: Whole,
    pub limits: Whole,
    pub refresh: u64,
    pub cache: Cache,
}

/// An epoch that is over.
#[derive(Clone, Copy)]
pub(super) struct Past {
    pub epoch: u64,
    pub last_seq: u64,
}

impl State {
    pub fn version(&self) -> Version {
        self.world.version
    }

    pub fn whole(&self, table: WholeTable) -> &Whole {
        match table {
            WholeTable::Flags => &self.flags,
            WholeTable::Allow => &self.allow,
            WholeTable::Geo => &self.geo,
            WholeTable::Countries => &self.countries,
            WholeTable::Routes => &self.routes,
            WholeTable::Limits => &self.limits,
        }
    }

    pub fn whole_mut(&mut self, table: WholeTable) -> &mut Whole {
        match table {
            WholeTable::Flags => &mut self.flags,
            WholeTable::Allow => &mut self.allow,
            WholeTable::Geo => &mut self.geo,
            WholeTable::Countries => &mut self.countries,
            WholeTable::Routes => &mut self.routes,
            WholeTable::Limits => &mut self.limits,
        }
    }

    /// Whether a gateway holds `table` as it is now.
    pub fn is_held(&self, table: WholeTable, held: &Held) -> bool {
        held.whole.contains(&(table, self.whole(table).blob.hash))
    }

    /// Brings the world's figures up to date.
    pub fn fill_in_figures(&mut self) {
        let countries = self.world.countries.as_ref().map_or((0, 0), |info| (info.v4, info.v6));
        let figures = Figures {
            flags: self.flags.blob.hash,
            bans: self.world.bans,
            base: self.base.blob,
            overlay: self.log.current.len(),
            allow_entries: self.world.allow.len(),
            allow: self.allow.blob.hash,
            geo_entries: self.world.geo_rules.in_force.len(),
            geo: self.geo.blob.hash,
            countries_v4: countries.0,
            countries_v6: countries.1,
            countries: self.countries.blob.hash,
            routes_entries: self.world.routes.in_force.len(),
            routes: self.routes.blob.hash,
            limits_entries: self.world.limits.in_force.len(),
            limits: self.limits.blob.hash,
        };
        if self.world.tables != figures {
            Arc::make_mut(&mut self.world).tables = figures;
        }
    }

    /// The moment of a version that this process gave out; `None` for one of an
    /// epoch that it never had, or from the future.
    pub fn moment_of(&self, version: Version) -> Option<Moment> {
        if version.epoch == self.version().epoch {
            return (version.seq <= self.moment.seq).then_some(Moment { seq: version.seq, ..self.moment });
        }
        let era = self.past.iter().position(|past| past.epoch == version.epoch)?;
        let known = version.seq <= self.past.get(era)?.last_seq;
        known.then_some(Moment { era: u32::try_from(era).ok()?, seq: version.seq })
    }
}
