//! The set of tables that this VM enforces.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_policy::bans::{BanTable, Join};
use tidegate_policy::decide::Tables;
use tidegate_policy::flags::Flags;
use tidegate_policy::geo::{CountryTable, GeoRules};
use tidegate_policy::limit::Limits;
use tidegate_policy::route::RouteTable;
use tidegate_policy::table::AddressTable;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{BlobRef, Held, WholeTable};

use super::load::decode_table::Table;
use super::shared::manifest::{Manifest, Part, PerPart};

/// One consistent set, verified, and the names of what it is made of.
#[derive(Clone)]
pub struct Loaded {
    /// The refresh that it carries out.
    pub refresh: u64,
    /// See [`Manifest::clock_ms`].
    pub clock_ms: i64,
    /// Names of the tables.
    pub blobs: PerPart<BlobRef>,
    /// The tables.
    pub tables: Rc<Tables>,
}

/// Tables of a set to be: those that arrived, the others from the set before.
#[derive(Clone, Default)]
pub struct Pieces {
    base: Option<AddressTable>,
    overlay: Option<AddressTable>,
    /// Base and overlay together; gone as soon as one of them is replaced.
    bans: Option<BanTable>,
    allow: Option<AddressTable>,
    flags: Option<Flags>,
    countries: Option<CountryTable>,
    geo: Option<Arc<GeoRules>>,
    routes: Option<Arc<RouteTable>>,
    limits: Option<Arc<Limits>>,
}

impl Pieces {
    /// The tables of `set`.
    #[must_use]
    pub fn of(set: Option<&Loaded>) -> Self {
        let Some(set) = set else { return Self::default() };
        Self {
            base: Some(set.tables.bans.base().clone()),
            overlay: Some(set.tables.bans.overlay().clone()),
            bans: Some(set.tables.bans.clone()),
            allow: Some(set.tables.allow.clone()),
            flags: Some(set.tables.flags),
            countries: Some(set.tables.countries.clone()),
            geo: Some(set.tables.geo.clone()),
            routes: Some(set.tables.routes.clone()),
            limits: Some(set.tables.limits.clone()),
        }
    }

    /// Puts a table in its place.
    pub fn put(&mut self, part: Part, table: Table) {
        match (part, table) {
            (Part::BanBase, Table::Addresses(table)) => (self.base, self.bans) = (Some(table), None),
            (Part::BanOverlay, Table::Addresses(table)) => (self.overlay, self.bans) = (Some(table), None),
            (Part::Allow, Table::Addresses(table)) => self.allow = Some(table),
            (_, Table::Routes(table, _)) => self.routes = Some(table),
            (_, Table::Countries(table)) => self.countries = Some(table),
            (_, Table::Geo(rules, _)) => self.geo = Some(rules),
            (_, Table::Limits(limits, _)) => self.limits = Some(limits),
            (_, Table::Flags(flags, _)) => self.flags = Some(flags),
            // An intake makes the kind of table that its part is.
            (
                Part::Routes | Part::Countries | Part::Geo | Part::Flags | Part::Limits,
                Table::Addresses(_),
            ) => {}
        }
    }

    /// The overlay, if it is there.
    #[must_use]
    pub fn overlay(&self) -> Option<&AddressTable> {
        self.overlay.as_ref()
    }

    /// What must still be done to have a ban table, once base and overlay are
    /// there. `None`: nothing.
    #[must_use]
    pub fn join(&self) -> Option<Join> {
        match (&self.bans, &self.base, &self.overlay) {
            (None, Some(base), Some(overlay)) => Some(Join::new(base.clone(), overlay.clone())),
            _ => None,
        }
    }

    /// Takes the outcome of [`Pieces::join`].
    pub fn joined(&mut self, bans: BanTable) {
        self.bans = Some(bans);
    }

    /// The ban table, once joined.
    #[must_use]
    pub fn bans(&self) -> Option<&BanTable> {
        self.bans.as_ref()
    }

    /// The set, once all tables are there.
    #[must_use]
    pub fn into_tables(self, version: Version) -> Option<Tables> {
        Some(Tables {
            version,
            flags: self.flags?,
            allow: self.allow?,
            bans: self.bans?,
            countries: self.countries?,
            geo: self.geo?,
            routes: self.routes?,
            limits: self.limits?,
        })
    }
}

impl Loaded {
    /// Whether this is what `manifest` publishes.
    #[must_use]
    pub fn is(&self, manifest: &Manifest) -> bool {
        self.tables.version == manifest.version
            && self.refresh == manifest.refresh
            && self.blobs == manifest.blobs()
    }

    /// What the admin service need not send again.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            whole: WholeTable::ALL.map(|table| (table, self.blobs.get(table.into()).hash)).to_vec(),
            base: Some(self.blobs.get(Part::BanBase).hash),
            bans: Some(self.tables.bans.digest()),
            refresh: Some(self.refresh),
        }
    }
}
