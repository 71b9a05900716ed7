//! Documents that have names: how lists and writes of them answer.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;
use serde_json::Value;

use super::applied::Written;
use super::cursor;
use super::params::Params;
use crate::feed::World;
use crate::problem::Answer;
use crate::store::{Kind, Table};

/// Documents of a page, unless asked otherwise.
const DEFAULT_LIMIT: usize = 1_000;
/// Documents of a page at most.
const MAX_LIMIT: usize = 10_000;

/// A page of documents.
#[derive(Serialize, Debug)]
pub struct List {
    items: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The answer of a write.
#[derive(Serialize, Debug)]
pub struct Changed {
    /// The document's name.
    pub name: String,
    /// What was carried out and is likely not what was meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(flatten)]
    pub written: Written,
}

impl List {
    /// The page of `documents` that `limit` and `cursor` of `params` ask for, in
    /// the order of names.
    ///
    /// # Errors
    /// When a parameter is not right.
    pub fn page<T>(
        documents: &OrdMap<Arc<str>, Arc<T>>,
        params: &Params,
        show: impl Fn(&T) -> Value,
    ) -> Answer<Self> {
        let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
        let after = params.get("cursor").map(cursor::read).transpose()?;
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut items = Vec::new();
        let mut last = None;
        for (name, document) in documents.range::<_, str>((from, Bound::Unbounded)) {
            if items.len() == limit {
                return Ok(Self { items, next: last.map(|name: &Arc<str>| cursor::write(name)) });
            }
            items.push(show(document));
            last = Some(name);
        }
        Ok(Self { items, next: None })
    }
}

/// Why there is no document of this name: there is a row that nobody understands,
/// or what `otherwise` says.
pub fn why_absent(world: &World, kind: Kind, name: &str, otherwise: &'static str) -> &'static str {
    match world.quarantine().any(|row| row.table == Table::Documents(kind) && *row.key == *name) {
        true => {
            "a row of this name cannot be read; optimization/health says why under `quarantine`, and a PUT replaces it"
        }
        false => otherwise,
    }
}
