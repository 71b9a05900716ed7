//! Days: at midnight, when the clock is set back, and after a crash.

use super::*;
use crate::store::sqlite::schema::{Upgrade, ensure};

/// Two days, each at its noon, milliseconds.
const NOON: i64 = 20_000 * DAY_MS + DAY_MS / 2;
const NEXT_NOON: i64 = NOON + DAY_MS;

fn database() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    ensure(&conn, Upgrade::Allowed).unwrap();
    conn
}

/// A request of this path.
fn request(path: &str) -> NewCounts {
    let mut new = NewCounts::default();
    let event = TrafficEvent { path: Some(path.as_bytes().to_vec()), ..TrafficEvent::default() };
    new.add_values(&event, None);
    new
}

/// The paths that are stored of the day of this time, and how often each came.
fn paths(conn: &Connection, ms: i64) -> Vec<(String, u64)> {
    let rows = stored(conn, TopOf::Path, day_of(ms)..=day_of(ms)).unwrap();
    rows.into_iter().map(|row| (row.value, row.count)).collect()
}

#[test]
fn a_clock_that_is_set_back_over_midnight_goes_on_with_what_the_day_had() {
    let conn = database();
    let mut top = TopCounts::load_at(&conn, NOON).unwrap();
    for (path, now) in [("/a", NOON), ("/b", NEXT_NOON), ("/a", NOON), ("/c", NOON)] {
        top.add(&conn, &request(path), now).unwrap();
    }
    top.write(&conn).unwrap();
    assert_eq!(paths(&conn, NOON), [("/a".to_owned(), 2), ("/c".to_owned(), 1)]);
    assert_eq!(paths(&conn, NEXT_NOON), [("/b".to_owned(), 1)]);
    let again = TopCounts::load_at(&conn, NEXT_NOON).unwrap();
    assert_eq!(again.today(TopOf::Path).1[0].value, "/b");
}

#[test]
fn what_a_crash_before_midnight_left_uncounted_is_of_that_day() {
    let conn = database();
    let mut top = TopCounts::load_at(&conn, NOON).unwrap();
    top.add(&conn, &request("/a"), NOON).unwrap();
    top.write(&conn).unwrap();
    // The clocks of gateways may say anything: a day before the counts were written, one to come.
    let times =
        [(NOON, "/a"), (NOON - 9 * DAY_MS, "/late"), (NEXT_NOON, "/b"), (NEXT_NOON + 9 * DAY_MS, "/early")];
    for (number, (at, path)) in times.into_iter().enumerate() {
        conn.execute(
            "INSERT INTO events (source, number, timestamp, node, path, verdict, tunnel, tables_seq)
             VALUES (x'01', ?1, ?2, 'n', ?3, 'allow', 0, 0)",
            params![number as i64, time_text::from_ms(at), path],
        )
        .unwrap();
    }
    let mut top = TopCounts::load_at(&conn, NEXT_NOON).unwrap();
    assert!(top.is_changed());
    top.write(&conn).unwrap();
    assert_eq!(paths(&conn, NOON), [("/a".to_owned(), 2), ("/late".to_owned(), 1)]);
    let mut today = paths(&conn, NEXT_NOON);
    today.sort();
    assert_eq!(today, [("/b".to_owned(), 1), ("/early".to_owned(), 1)]);
    assert!(!TopCounts::load_at(&conn, NEXT_NOON).unwrap().is_changed());
}

#[test]
fn a_value_that_another_program_wrote_twice_breaks_nothing() {
    let conn = database();
    let mut put = conn
        .prepare("INSERT INTO top_values (day, kind, place, value, count, over, last_ms) VALUES (?1, 'path', ?2, ?3, 5, 0, 0)")
        .unwrap();
    for place in 0..MAX_VALUES {
        put.execute(params![day_of(NOON), place as i64, format!("/{}", place / 2)]).unwrap();
    }
    let days = day_of(NOON)..=day_of(NOON);
    let found = values(&conn, TopOf::Path, days, 1, &(day_of(NEXT_NOON), Vec::new())).unwrap();
    assert_eq!((found[0].count, found[0].under), (10, 0));
}
