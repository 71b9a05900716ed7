//! Questions about single requests, answered from the current tables.

use std::sync::Arc;

use tidegate_policy::UnixSeconds;
use tidegate_policy::check::Check;
use tidegate_policy::decide::{GeoFinding, IpFinding, Tables};
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::{TableDecoder, TableSet};
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, MAX_ANSWER, Question, RouteAnswer};

use super::{Feed, LastingFault, Reply};
use crate::process::Sim;
use crate::world::CallView;

/// The answer to one check, by the code that the admin service runs.
#[must_use]
pub fn find(check: Check, question: &Question<'_>, tables: &Tables, now: UnixSeconds) -> Found {
    match check {
        Check::Ip => Found::Ip(IpFinding::look_up(&question.facts(), tables, || now)),
        Check::Geo => {
            let country = GeoFinding::look_up(question.client, question.country_source, tables).country();
            Found::Geo(GeoAnswer { country, verdicts: tables.geo.verdicts(country) })
        }
        Check::Route => {
            let found = tables.routes.find(&question.facts());
            Found::Route(found.map(|found| found.as_ref().map(RouteAnswer::new)))
        }
    }
}

impl Feed {
    /// The current tables.
    ///
    /// # Panics
    /// When a table was set to bytes that do not decode.
    pub fn tables(&mut self) -> &Tables {
        let version = self.version();
        if self.compiled.as_ref().is_none_or(|(compiled, _)| *compiled != version) {
            self.compiled = Some((version, self.compile()));
        }
        &self.compiled.as_ref().expect("compiled").1
    }

    fn compile(&self) -> Tables {
        let entries = self.bans.iter();
        let entries =
            entries.map(|(prefix, expires)| Entry { prefix: *prefix, state: EntryState::Present(*expires) });
        let bans = AddressTable::from_bytes(AddressTable::encode(entries).expect("bans")).expect("bans");
        let mut set = TableSet { ban_base: bans, ..TableSet::empty() };
        for (table, bytes) in &self.whole {
            let mut decoder = TableDecoder::new(*table, &Arc::new(bytes.clone())).expect("a table");
            while !decoder.step(&mut set).expect("a table") {}
        }
        Tables::new(self.version(), set)
    }

    /// This service's clock, milliseconds since the Unix epoch.
    #[must_use]
    pub fn clock_ms(&self, sim: &Sim) -> u64 {
        sim.wall_ms().saturating_add_signed(self.clock_ahead_ms)
    }

    /// This service's clock, seconds.
    ///
    /// # Panics
    /// After the year 2106.
    #[must_use]
    pub fn now(&self, sim: &Sim) -> UnixSeconds {
        UnixSeconds::try_from(self.clock_ms(sim) / 1_000).expect("a date")
    }

    pub(super) fn check(&mut self, check: Check, call: &CallView, sim: &Sim) -> Option<Reply> {
        let fault = *self.check_faults.get(check);
        if self.seen.insert(call.id) {
            *self.asked.get_mut(check) += 1;
        }
        if self.waits(fault, call, sim) {
            return None;
        }
        let bad = Some(Reply::Answer(400, Vec::new()));
        if call.method != "POST" || call.header("authorization").is_none() {
            return bad;
        }
        let Ok(question) = Question::from_bytes(&call.body) else { return bad };
        let now = self.now(sim);
        let version = self.version();
        let other = Check::ALL.into_iter().find(|other| *other != check).unwrap_or(check);
        let about = if fault == Some(LastingFault::OtherCheck) { other } else { check };
        let found = find(about, &question, self.tables(), now);
        let id = if fault == Some(LastingFault::OtherQuestion) { question.id ^ 1 } else { question.id };
        let mut bytes = Answer { id, version, found }.to_bytes().ok()?;
        Some(match fault {
            Some(LastingFault::Garbage) => Reply::Answer(200, b"<html>".to_vec()),
            Some(LastingFault::Empty) => Reply::Answer(200, Vec::new()),
            Some(LastingFault::Status(status)) => Reply::Answer(status, bytes),
            Some(LastingFault::InPlace(status)) => Reply::InPlace(status),
            Some(LastingFault::Reset) => Reply::Reset,
            Some(LastingFault::Trailing) => {
                bytes.push(0);
                Reply::Answer(200, bytes)
            }
            Some(LastingFault::Long) => {
                bytes.resize(2 * MAX_ANSWER, 0);
                Reply::Answer(200, bytes)
            }
            Some(LastingFault::Version) => {
                bytes[0] ^= 0x80;
                Reply::Answer(200, bytes)
            }
            _ => Reply::Answer(200, bytes),
        })
    }
}
