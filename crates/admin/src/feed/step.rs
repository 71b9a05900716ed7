//! From rows to a new world, with the bytes of the tables that travel whole.

use std::sync::Arc;

use tidegate_policy::address::Prefix;
use tidegate_policy::author;
use tidegate_policy::geo::GeoRule;
use tidegate_policy::limit::Limit;
use tidegate_policy::route::Target;
use tidegate_policy::table::AddressTable;
use tidegate_policy::wire::WireError;
use tidegate_policy::wire::sync::{Version, WholeTable};
use tokio::task::spawn_blocking;

use super::answer::Cache;
use super::base::{Base, named};
use super::blobs::{Blobs, Kind};
use super::load::Loaded;
use super::log::{Log, Moment};
use super::state::{State, Whole};
use super::world::{Touched, World};
use crate::store::{ChangedRows, Kind as DocumentKind, PerKind, Snapshot, StoreError};

/// A change of more rows is worked on outside the async threads.
const FEW: usize = 500;

/// A world with what changed in it.
pub(super) struct Step {
    pub world: World,
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// The tables that may have changed.
    pub whole: Vec<(WholeTable, Whole)>,
}

impl Step {
    /// Makes `world` what the snapshot of all tables says.
    pub fn reload(mut world: World, snapshot: Snapshot) -> Result<Self, WireError> {
        let touched = world.replace(snapshot);
        Self::lay_out(world, touched.bans, &WholeTable::ALL)
    }

    /// Takes rows as they now stand.
    pub fn apply(mut world: World, rows: ChangedRows) -> Result<Self, WireError> {
        let touched = world.apply_ips(rows.ips);
        let changed = [
            (WholeTable::Flags, !rows.flags.is_empty()),
            (WholeTable::Allow, touched.allow),
            (WholeTable::Geo, !rows.documents.geo_rules.is_empty()),
            (WholeTable::Countries, rows.countries.is_some()),
            // What references of routes mean.
            (WholeTable::Routes, !rows.documents.routes.is_empty() || !rows.documents.backends.is_empty()),
            (WholeTable::Limits, !rows.documents.limits.is_empty()),
        ];
        world.apply_flags(rows.flags);
        let PerKind { routes, geo_rules, backends, limits } = rows.documents;
        world.apply_documents::<author::Route>(routes);
        world.apply_documents::<GeoRule>(geo_rules);
        world.apply_documents::<Target>(backends);
        world.apply_documents::<Limit>(limits);
        if let Some(countries) = rows.countries {
            world.apply_countries(countries);
        }
        let changed: Vec<_> = changed.iter().filter(|(_, is)| *is).map(|(table, _)| *table).collect();
        Self::lay_out(world, touched.bans, &changed)
    }

    fn lay_out(mut world: World, bans: Vec<Prefix>, tables: &[WholeTable]) -> Result<Self, WireError> {
        let whole =
            tables.iter().map(|table| Ok((*table, world.lay_out(*table)?))).collect::<Result<_, _>>()?;
        Ok(Self { world, bans, whole })
    }
}

/// Whether it takes so little to apply `rows` that it may happen on an async thread.
pub(super) fn is_little(rows: &ChangedRows) -> bool {
    let documents = DocumentKind::ALL.into_iter().any(|kind| !rows.documents.get(kind).is_empty());
    let large = documents || rows.countries.is_some();
    !large && rows.ips.len().saturating_add(rows.flags.len()) <= FEW
}

impl World {
    /// Becomes what the snapshot of all tables says.
    fn replace(&mut self, snapshot: Snapshot) -> Touched {
        self.replace_flags(snapshot.flags);
        let PerKind { routes, geo_rules, backends, limits } = snapshot.documents;
        self.replace_documents::<author::Route>(routes);
        self.replace_documents::<GeoRule>(geo_rules);
        self.replace_documents::<Target>(backends);
        self.replace_documents::<Limit>(limits);
        self.apply_countries(snapshot.countries);
        Loaded::read(snapshot.ips).replace_all(self)
    }

    /// A table as gateways get it. What does not fit into one is left out, and
    /// quarantined.
    fn lay_out(&mut self, table: WholeTable) -> Result<Whole, WireError> {
        let bytes = match table {
            WholeTable::Flags => self.flags.to_bytes()?,
            WholeTable::Allow => AddressTable::encode(self.allow_entries())?,
            WholeTable::Geo => self.lay_out_geo_rules(),
            WholeTable::Countries => return Ok(self.whole_countries()),
            WholeTable::Routes => self.compile_routes(),
            WholeTable::Limits => self.lay_out_limits(),
        };
        named(bytes).map(|(blob, bytes)| Whole { blob, bytes })
    }
}

impl State {
    /// The state at the start, of an epoch of its own.
    pub(super) async fn first(snapshot: Snapshot, epoch: u64) -> Result<(Self, Blobs), StoreError> {
        blocking(move || Self::build(snapshot, epoch)).await?.map_err(laid_out)
    }

    fn build(snapshot: Snapshot, epoch: u64) -> Result<(Self, Blobs), WireError> {
        let moment = Moment { era: 0, seq: snapshot.seq };
        let mut world = World::empty();
        world.replace(snapshot);
        world.version = Version { epoch, seq: moment.seq };
        let (base, base_bytes) = Base::cut(&world, moment)?;
        let mut state = Self {
            moment,
            past: Arc::default(),
            base: Arc::new(base),
            log: Log::new(moment),
            flags: world.lay_out(WholeTable::Flags)?,
            allow: world.lay_out(WholeTable::Allow)?,
            geo: world.lay_out(WholeTable::Geo)?,
            countries: world.lay_out(WholeTable::Countries)?,
            routes: world.lay_out(WholeTable::Routes)?,
            limits: world.lay_out(WholeTable::Limits)?,
            world: Arc::new(world),
            refresh: 0,
            cache: Cache::default(),
        };
        let mut blobs = Blobs::default();
        let none = std::time::Duration::ZERO;
        blobs.put(Kind::Base, state.base.blob, base_bytes, none);
        for table in WholeTable::ALL {
            let whole = state.whole(table);
            blobs.put(Kind::Whole(table), whole.blob, whole.bytes.clone(), none);
        }
        state.fill_in_figures();
        Ok((state, blobs))
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

pub(super) fn laid_out(error: WireError) -> StoreError {
    StoreError::Failed(format!("the tables cannot be laid out: {error}"))
}
