//! Rows of `routes`: each read by itself, all compiled together.

use std::num::NonZeroI64;
use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::Value;
use tidegate_policy::author;

use super::clock::{self, Millis};
use super::small::{describe, how_many_fit};
use super::world::World;
use crate::store::{RouteRow, Table};

/// A route that was understood.
#[derive(Debug)]
pub struct RouteInfo {
    /// The HTTPRoute's name.
    pub name: Arc<str>,
    /// The HTTPRoute as JSON, as it stands in the database.
    pub document: String,
    created: Option<Millis>,
    updated: Option<Millis>,
    route: author::Route,
}

impl RouteInfo {
    /// When the route was made.
    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.created?.get()).ok()
    }

    /// When it was last written.
    #[must_use]
    pub fn updated(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.updated?.get()).ok()
    }

    /// What it says.
    #[must_use]
    pub fn route(&self) -> &author::Route {
        &self.route
    }

    fn read(row: RouteRow) -> Result<Self, String> {
        let document: Value =
            serde_json::from_str(&row.document).map_err(|error| format!("not JSON: {error}"))?;
        let mut route = author::read(&document).map_err(|problems| describe(&problems))?;
        if route.name != row.name {
            return Err(format!(
                "/metadata/name: the document is called `{}`, its row differently: both must be the same",
                route.name
            ));
        }
        let created = row.created_at.as_deref().and_then(clock::millis);
        route.created = created.map(NonZeroI64::get);
        Ok(Self {
            name: row.name.into(),
            document: row.document,
            created,
            updated: row.updated_at.as_deref().and_then(clock::millis),
            route,
        })
    }
}

impl World {
    /// Takes routes as they now stand; `None`: deleted. Afterwards
    /// [`World::compile_routes`].
    pub(super) fn apply_routes(&mut self, changes: Vec<(String, Option<RouteRow>)>) {
        for (name, row) in changes {
            self.note_row(&name, row.as_ref());
            self.routes.remove(name.as_str());
            self.unfit.remove(name.as_str());
            match row.map(RouteInfo::read) {
                None => {}
                Some(Ok(info)) => drop(self.routes.insert(info.name.clone(), Arc::new(info))),
                Some(Err(why)) => self.set_aside(Table::Routes, &name, why),
            }
        }
    }

    /// Forgets all routes and takes these.
    pub(super) fn replace_routes(&mut self, rows: Vec<RouteRow>) {
        self.routes = OrdMap::new();
        self.unfit = OrdMap::new();
        self.forget_rows(Table::Routes);
        self.apply_routes(rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
    }

    /// The bytes of the route table. When all routes together are too large for
    /// one, the youngest are left out and shown as quarantined: those that carry
    /// traffic already go on doing so.
    pub(super) fn compile_routes(&mut self) -> Vec<u8> {
        let unfit = std::mem::take(&mut self.unfit);
        for (name, info) in unfit {
            self.quarantine.remove(&(Table::Routes, name.clone()));
            self.routes.insert(name, info);
        }
        let mut by_age: Vec<Arc<RouteInfo>> = self.routes.values().cloned().collect();
        by_age.sort_by_key(|info| (info.created.is_none(), info.created));
        let all: Vec<author::Route> = by_age.iter().map(|info| info.route.clone()).collect();
        let error = match author::compile(&all) {
            Ok(bytes) => return bytes,
            Err(error) => error,
        };
        // All of them do not.
        let fits = how_many_fit(all.len().saturating_sub(1), |count| author::compile(&all[..count]).is_ok());
        for info in by_age.drain(fits..) {
            let why = format!("left out, with every younger route: {error}");
            self.set_aside(Table::Routes, &info.name, why);
            self.routes.remove(&info.name);
            self.unfit.insert(info.name.clone(), info);
        }
        author::compile(&all[..fits]).unwrap_or_default()
    }
}
