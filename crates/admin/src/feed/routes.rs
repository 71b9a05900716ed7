//! Rows of `routes`: each read by itself, all compiled together.

use std::num::NonZeroI64;
use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::Value;
use tidegate_policy::author;
use tidegate_policy::digest::SetDigest;

use super::clock::{self, Millis};
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

/// What tells a row of `routes` from another one of the same name.
pub(super) fn fingerprint(row: &RouteRow) -> u128 {
    let mut digest = SetDigest::default();
    let fields = [Some(&row.document), row.created_at.as_ref(), row.updated_at.as_ref()];
    for (number, field) in (0u8..).zip(fields) {
        if let Some(field) = field {
            digest.insert(&[&[number], field.as_bytes()].concat());
        }
    }
    digest.sum
}

/// The first problems of a document, for health.
fn describe(problems: &[author::Problem]) -> String {
    let shown = problems.iter().take(3).map(|problem| format!("{}: {}", problem.pointer, problem.message));
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if let more @ 1.. = problems.len().saturating_sub(3) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

impl World {
    /// Takes routes as they now stand; `None`: deleted. Afterwards
    /// [`World::compile_routes`].
    pub(super) fn apply_routes(&mut self, changes: Vec<(String, Option<RouteRow>)>) {
        for (name, row) in changes {
            let key = (Table::Routes, Arc::from(name.as_str()));
            self.quarantine.remove(&key);
            self.routes.remove(name.as_str());
            self.unfit.remove(name.as_str());
            match &row {
                Some(row) => drop(self.route_rows.insert(key.1.clone(), fingerprint(row))),
                None => drop(self.route_rows.remove(name.as_str())),
            }
            match row.map(RouteInfo::read) {
                None => {}
                Some(Ok(info)) => drop(self.routes.insert(info.name.clone(), Arc::new(info))),
                Some(Err(why)) => drop(self.quarantine.insert(key, why.into())),
            }
        }
    }

    /// Forgets all routes and takes these.
    pub(super) fn replace_routes(&mut self, rows: Vec<RouteRow>) {
        self.routes = OrdMap::new();
        self.unfit = OrdMap::new();
        self.route_rows = OrdMap::new();
        self.forget_quarantine(Table::Routes);
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
        let (mut fits, mut too_many) = (0, all.len());
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            match author::compile(&all[..middle]) {
                Ok(_) => fits = middle,
                Err(_) => too_many = middle,
            }
        }
        for info in by_age.drain(fits..) {
            let why = format!("left out, with every younger route: {error}");
            self.quarantine.insert((Table::Routes, info.name.clone()), why.into());
            self.routes.remove(&info.name);
            self.unfit.insert(info.name.clone(), info);
        }
        author::compile(&all[..fits]).unwrap_or_default()
    }
}
