//! Answers from the rollups.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::integers::from_sql;
use super::{FIGURE_COLUMNS, KEY_COLUMNS, OTHER, RollupKey, SPANS};
use crate::store::{PathStats, PathsAnswer, RequestStats, StatsFilter, TimelinePoint, statistics::VERDICTS};

/// Paths of an answer, at most; the requests of the others are in one of no path.
const MAX_PATHS: usize = 2_000;

/// The keys that a filter lets pass, read when a row has them.
struct Keys<'f, T> {
    filter: &'f StatsFilter,
    /// What `make` made of them; `None`: it does not pass.
    known: HashMap<i64, Option<T>>,
}

impl<T: Copy> Keys<'_, T> {
    fn get(
        &mut self,
        conn: &Connection,
        id: i64,
        make: impl FnOnce(RollupKey) -> T,
    ) -> rusqlite::Result<Option<T>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(*known);
        }
        let key = conn
            .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM rollup_keys WHERE id = ?1"))?
            .query_row([id], |row| RollupKey::read(row, 0))
            .optional()?
            .unwrap_or_else(|| RollupKey::default().other());
        let is =
            |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let StatsFilter { route, host, template, method, .. } = self.filter;
        let passes = is(route, &key.route)
            && is(host, &key.host)
            && is(template, &key.template)
            && is(method, &key.method);
        let made = passes.then(|| make(key));
        self.known.insert(id, made);
        Ok(made)
    }
}

/// Runs `each` on the rows of spans that have a moment of `filter`: their span, beginning, and the row with the
/// key and `columns`.
fn visit(
    conn: &Connection,
    filter: &StatsFilter,
    columns: &str,
    mut each: impl FnMut(i64, i64, &Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT at, key, {columns} FROM rollups WHERE span = ?1 AND at > ?2 AND at < ?3"
    ))?;
    for span in SPANS {
        let mut rows = statement.query(params![span, filter.since.saturating_sub(span), filter.until])?;
        while let Some(row) = rows.next()? {
            each(span, row.get(0)?, row)?;
        }
    }
    Ok(())
}

/// Requests by route, template and method.
pub(in super::super) fn paths(conn: &Connection, filter: &StatsFilter) -> rusqlite::Result<PathsAnswer> {
    let mut answer = PathsAnswer::default();
    let mut places: HashMap<[String; 3], usize> = HashMap::new();
    let mut keys = Keys { filter, known: HashMap::new() };
    visit(conn, filter, FIGURE_COLUMNS, |span, at, row| {
        let of_key = keys.get(conn, row.get(1)?, |key| {
            let is_denied = key.verdict == VERDICTS[1];
            let [template, method] =
                if filter.by_route { Default::default() } else { [key.template, key.method] };
            let mut path = [key.route, template, method];
            if places.len() >= MAX_PATHS && !places.contains_key(&path) {
                let method = if filter.by_route { "" } else { OTHER };
                path = [OTHER.to_owned(), String::new(), method.to_owned()];
            }
            let paths = &mut answer.paths;
            let place = *places.entry(path).or_insert_with_key(|[route, template, method]| {
                paths.push(PathStats {
                    route: route.clone(),
                    template: template.clone(),
                    method: method.clone(),
                    stats: RequestStats::default(),
                });
                paths.len() - 1
            });
            (place, usize::try_from(key.class).unwrap_or_default().min(5), is_denied)
        })?;
        let Some((place, class, is_denied)) = of_key else { return Ok(()) };
        let covers = answer.covers.get_or_insert((at, at + span));
        *covers = (covers.0.min(at), covers.1.max(at + span));
        let count = |column| row.get(column).map(from_sql);
        let stats = &mut answer.paths[place].stats;
        let requests = count(2)?;
        stats.requests = stats.requests.saturating_add(requests);
        stats.classes[class] = stats.classes[class].saturating_add(requests);
        stats.denied = stats.denied.saturating_add(if is_denied { requests } else { 0 });
        stats.bytes_in = stats.bytes_in.saturating_add(count(3)?);
        stats.bytes_out = stats.bytes_out.saturating_add(count(4)?);
        stats.checked = stats.checked.saturating_add(count(5)?);
        stats.cached = stats.cached.saturating_add(count(6)?);
        stats.duration.add(row.get_ref(7)?.as_blob().unwrap_or_default());
        stats.upstream.add(row.get_ref(8)?.as_blob().unwrap_or_default());
        stats.gate.add(row.get_ref(9)?.as_blob().unwrap_or_default());
        Ok(())
    })?;
    answer.paths.iter().for_each(|path| answer.total.add(&path.stats));
    Ok(answer)
}

/// Requests by time and verdict, oldest first, in steps of `step` seconds or, where only longer spans are kept,
/// of these.
pub(in super::super) fn timeline(
    conn: &Connection,
    filter: &StatsFilter,
    step: i64,
) -> rusqlite::Result<Vec<TimelinePoint>> {
    let mut points: BTreeMap<(i64, i64), TimelinePoint> = BTreeMap::new();
    let mut keys = Keys { filter, known: HashMap::new() };
    visit(conn, filter, "requests, checked, cached, duration, gate", |span, at, row| {
        let verdict = keys.get(conn, row.get(1)?, |key| {
            VERDICTS.iter().position(|name| *name == key.verdict).unwrap_or(VERDICTS.len() - 1)
        })?;
        let Some(verdict) = verdict else { return Ok(()) };
        let seconds = span.max(step);
        let at = at.div_euclid(seconds) * seconds;
        let point = points.entry((at, seconds)).or_insert_with(|| TimelinePoint {
            at,
            seconds,
            ..TimelinePoint::default()
        });
        let count = |column| row.get(column).map(from_sql);
        point.verdicts[verdict] = point.verdicts[verdict].saturating_add(count(2)?);
        point.checked = point.checked.saturating_add(count(3)?);
        point.cached = point.cached.saturating_add(count(4)?);
        point.duration.add(row.get_ref(5)?.as_blob().unwrap_or_default());
        point.gate.add(row.get_ref(6)?.as_blob().unwrap_or_default());
        Ok(())
    })?;
    Ok(points.into_values().collect())
}
