//! Tables of named documents: each row is parsed by itself, all documents of a kind are laid out
//! together.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::Value;
use tidegate_author::DocumentError;

use super::clock::{self, Millis};
use super::fingerprint::FingerprintedRow;
use super::row_index::{RowIndex, UnreadableRow};
use crate::store::{DocumentKind, DocumentRow, StoreTable};
use tidegate_author::strict_json::StrictValue;

/// A valid document.
#[derive(Debug)]
pub struct ParsedDocument<T> {
    /// Its name; of a route its id.
    pub name: Arc<str>,
    /// The document as JSON, as in the database.
    pub document: String,
    /// The parsed document.
    pub parsed: T,
    created: Option<Millis>,
    updated: Option<Millis>,
}

/// All valid documents of a kind.
#[derive(Clone)]
pub struct Documents<T> {
    /// Those in force, by name.
    pub in_force: OrdMap<Arc<str>, Arc<ParsedDocument<T>>>,
    /// Those that did not fit into the table; they are quarantined as well.
    left_out: OrdMap<Arc<str>, Arc<ParsedDocument<T>>>,
}

/// The parsed form of one kind of document.
pub(super) trait DocumentContent: Clone {
    /// The kind.
    const KIND: DocumentKind;

    /// Parses `document`, the JSON of `row`; the error says what is wrong with it.
    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String>;
}

/// The documents of one kind, independent of their type.
pub(super) trait DocumentTable {
    /// Applies changed documents; `None`: deleted. An invalid document leaves the one before it
    /// in force: a mistake in a document that denies requests, or sends some of them elsewhere,
    /// must not let them through.
    fn apply(&mut self, index: &mut RowIndex, changes: Vec<(String, Option<DocumentRow>)>);

    /// Replaces all documents by these.
    fn replace(&mut self, index: &mut RowIndex, rows: Vec<DocumentRow>);

    /// The row that the document in force with this name was read from.
    fn row(&self, name: &str) -> Option<DocumentRow>;

    /// Name and text of each document in force.
    #[cfg(test)]
    fn texts_in_force(&self) -> Vec<(String, String)>;
}

impl<T> Default for Documents<T> {
    fn default() -> Self {
        Self { in_force: OrdMap::new(), left_out: OrdMap::new() }
    }
}

impl<T> Documents<T> {
    /// The same with this document, as it would be.
    pub fn insert(&mut self, name: &str, document: String, parsed: T) {
        let name: Arc<str> = name.into();
        let document =
            ParsedDocument { name: Arc::clone(&name), document, parsed, created: None, updated: None };
        self.in_force.insert(name, Arc::new(document));
    }
}

impl<T> ParsedDocument<T> {
    /// When the document was created.
    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.created?.get()).ok()
    }

    /// When it was last written.
    #[must_use]
    pub fn updated(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.updated?.get()).ok()
    }
}

/// Reads a row. `created_at` decides which of two routes wins, so one that cannot be read is a
/// mistake like any other; without a document before it, this one holds as the youngest.
fn read<T: DocumentContent>(row: DocumentRow) -> Result<ParsedDocument<T>, UnreadableRow<ParsedDocument<T>>> {
    let unreadable = |why| UnreadableRow { why, kept: None };
    let StrictValue(document) = serde_json::from_str(&row.document).map_err(|error| {
        unreadable(format!("not JSON in which every name stands once in its object: {error}"))
    })?;
    let parsed = T::read(&row, &document).map_err(unreadable)?;
    let created = clock::optional(row.created_at.as_deref());
    let document = ParsedDocument {
        name: row.name.into(),
        document: row.document,
        parsed,
        created: created.as_ref().copied().ok().flatten(),
        updated: row.updated_at.as_deref().and_then(clock::millis),
    };
    match created {
        Ok(_) => Ok(document),
        Err(why) => Err(UnreadableRow { why: format!("created_at {why}"), kept: Some(document) }),
    }
}

impl FingerprintedRow for DocumentRow {
    fn key(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        let [created_at, updated_at] =
            [&self.created_at, &self.updated_at].map(|time| time.as_deref().map(str::as_bytes));
        [Some(self.document.as_bytes()), created_at, updated_at]
    }
}

impl<T: DocumentContent> DocumentTable for Documents<T> {
    fn apply(&mut self, index: &mut RowIndex, mut changes: Vec<(String, Option<DocumentRow>)>) {
        let table = StoreTable::Documents(T::KIND);
        // A document is still held under a name that it had when its new one is read.
        changes.sort_by_key(|(_, row)| row.is_none());
        for (name, row) in changes {
            index.note(table, &name, row.as_ref());
            if row.is_some() {
                index.replace_origin(table, &name);
            }
            let kept_for_another = row.is_none() && index.is_origin(table, &name);
            let own = if kept_for_another { None } else { self.take(&name) };
            match row.map(read) {
                None => {}
                Some(Ok(info)) => drop(self.in_force.insert(info.name.clone(), Arc::new(info))),
                Some(Err(UnreadableRow { why, kept })) => {
                    let origin = index.origin(table, &name);
                    let held = if *origin == *name { own } else { self.take(&origin) };
                    let instead = match (&held, &kept) {
                        (Some(_), _) => "the one before it stays in force",
                        (None, Some(_)) => "until it has one that can be read it is the youngest",
                        (None, None) => "it is not in force",
                    };
                    let kept = held.or(kept.map(Arc::new));
                    self.in_force.extend(kept.map(|kept| (kept.name.clone(), kept)));
                    index.quarantine(table, &name, format!("{why}; {instead}"));
                    continue;
                }
            }
            if let Some(origin) = index.take_origin(table, &name) {
                self.take(&origin);
            }
        }
    }

    fn replace(&mut self, index: &mut RowIndex, rows: Vec<DocumentRow>) {
        let there: HashSet<String> = rows.iter().map(|row| row.name.clone()).collect();
        let table = StoreTable::Documents(T::KIND);
        let held = self.in_force.keys().chain(self.left_out.keys()).cloned().chain(index.moved(table));
        let gone = held.filter(|name| !there.contains(&**name)).map(|name| (name.to_string(), None));
        let gone = gone.collect();
        index.forget(table);
        self.apply(index, gone);
        self.apply(index, rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
    }

    fn row(&self, name: &str) -> Option<DocumentRow> {
        let held = self.in_force.get(name)?;
        let [created_at, updated_at] = [held.created, held.updated].map(|at| at.map(clock::text));
        Some(DocumentRow { name: name.to_owned(), document: held.document.clone(), created_at, updated_at })
    }

    #[cfg(test)]
    fn texts_in_force(&self) -> Vec<(String, String)> {
        self.in_force.values().map(|info| (info.name.to_string(), info.document.clone())).collect()
    }
}

impl<T> Documents<T> {
    fn take(&mut self, name: &str) -> Option<Arc<ParsedDocument<T>>> {
        let left_out = self.left_out.remove(name);
        self.in_force.remove(name).or(left_out)
    }

    /// The bytes that `lay_out` makes of all documents, the oldest first, and the number of
    /// documents in them. If they are too many, the newest by `created_at` are left out and
    /// quarantined; those without `created_at` are left out first. The API refuses documents that
    /// would be too many, so this follows from writes by SQL: a row with an old `created_at` then
    /// displaces one that is in force.
    pub(super) fn lay_out<E: Display>(
        &mut self,
        index: &mut RowIndex,
        lay_out: impl Fn(&[T]) -> Result<Vec<u8>, E>,
    ) -> (Vec<u8>, usize)
    where
        T: DocumentContent,
    {
        let table = StoreTable::Documents(T::KIND);
        let near = if self.left_out.is_empty() { usize::MAX } else { self.in_force.len() };
        for (name, info) in std::mem::take(&mut self.left_out) {
            index.unquarantine(table, &name);
            self.in_force.insert(name, info);
        }
        let mut by_age: Vec<Arc<ParsedDocument<T>>> = self.in_force.values().cloned().collect();
        by_age.sort_by_key(|info| (info.created.is_none(), info.created));
        let all: Vec<T> = by_age.iter().map(|info| info.parsed.clone()).collect();
        let (mut bytes, mut why) = (None, String::new());
        let fits = how_many_fit(all.len(), near, |count| match lay_out(&all[..count]) {
            Ok(laid_out) => {
                bytes = Some(laid_out);
                true
            }
            Err(error) => {
                why = error.to_string();
                false
            }
        });
        for info in by_age.drain(fits..) {
            index.quarantine(table, &info.name, format!("left out, with every younger one: {why}"));
            self.in_force.remove(&info.name);
            self.left_out.insert(info.name.clone(), info);
        }
        // An empty list always fits.
        (bytes.unwrap_or_else(|| lay_out(&[]).unwrap_or_default()), fits)
    }
}

/// The first problems of a document, for health.
pub(super) fn describe(problems: &[DocumentError]) -> String {
    let shown = problems.iter().take(3).map(|problem| match problem.pointer.as_str() {
        "" => problem.message.clone(),
        pointer => format!("{pointer}: {}", problem.message),
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if let more @ 1.. = problems.len().saturating_sub(3) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// How many of `all`, counted from the oldest, fit together. It is looked for from `near` on: each try
/// costs as much as the whole table, and meanwhile every other change waits. The last try that succeeds
/// is that of the result, unless nothing fits.
fn how_many_fit(all: usize, near: usize, mut fit: impl FnMut(usize) -> bool) -> usize {
    let (mut fits, mut too_many) = (0, all.saturating_add(1));
    let (mut next, mut step) = (near.clamp(1, all.max(1)), 1usize);
    while too_many - fits > 1 {
        match fit(next) {
            true => fits = next,
            false => too_many = next,
        }
        next = if too_many > all {
            fits.saturating_add(step).min(all)
        } else if fits == 0 {
            too_many.saturating_sub(step).max(1)
        } else {
            fits.midpoint(too_many)
        };
        step = step.saturating_mul(2);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_found_in_few_tries_near_where_it_was() {
        for all in 0..40 {
            for (limit, near) in (0..=all).flat_map(|limit| (0..=all).map(move |near| (limit, near))) {
                let mut tries = Vec::new();
                let fits = how_many_fit(all, near, |count| {
                    tries.push(count);
                    count <= limit
                });
                assert_eq!(fits, limit, "of {all} from {near}");
                let succeeded = tries.iter().rfind(|count| **count <= limit);
                assert_eq!(succeeded, Some(&limit).filter(|limit| **limit > 0));
                assert!(tries.len() <= if near.abs_diff(limit) < 2 { 4 } else { 12 }, "{tries:?}");
            }
        }
        let mut tries = 0;
        let all_fit = how_many_fit(20_000, usize::MAX, |_| {
            tries += 1;
            true
        });
        assert_eq!((all_fit, tries), (20_000, 1));
    }
}
