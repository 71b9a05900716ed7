//! The update that a gateway needs, given what it holds; encoded once for all gateways that need
//! the same.

use bytes::Bytes;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::table::Entry;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{
    BansUpdate, Held, MAX_INLINE, MAX_PAGE, OverlayUpdate, SyncAnswer, WholeUpdate,
};

use super::change_log::LogPosition;
use super::clock;
use super::plan::{BansPlan, Plan};
use super::state::FeedState;

impl Plan {
    pub fn new(
        state: &FeedState,
        since: Option<Version>,
        held: &Held,
        formats: &Formats,
        ack_wanted: bool,
    ) -> Self {
        let reads = |table: Table| formats.reads(table.name());
        let missing = |table: &Table| reads(*table) && !state.is_held(*table, held);
        Self {
            bans: match reads(Table::BanBase) && reads(Table::BanOverlay) {
                true => BansPlan::new(state, since, held),
                false => BansPlan::Unchanged,
            },
            whole: Table::whole().filter(missing).collect(),
            ack_wanted,
        }
    }
}

impl BansPlan {
    fn new(state: &FeedState, since: Option<Version>, held: &Held) -> Self {
        let Some(base) = held.hashes[Table::BanBase] else { return Self::Whole };
        let on_our_base = base == state.base.blob.hash;
        let same_bans = held.bans == Some(state.snapshot.ips.bans);
        if let Some(position) = since.and_then(|since| state.position_of(since)) {
            let same_epoch = position.epoch_index == state.position.epoch_index;
            let quiet = position >= state.base.cut && state.log.current.after(position).next().is_none();
            // The digest of its bans, if it sent one, must match.
            if same_epoch && quiet && (same_bans || held.bans.is_none()) {
                return Self::Unchanged;
            }
            match on_our_base {
                true if same_epoch && !quiet && position >= state.base.cut => return Self::Delta(position),
                true if same_bans => return Self::Unchanged,
                true => return Self::Whole,
                false if held.bans == Some(state.base.digest) => return Self::FoldNothing,
                false => return Self::FoldSince(position),
            }
        }
        match on_our_base {
            true if same_bans => Self::Unchanged,
            true => Self::Whole,
            false if held.bans == Some(state.base.digest) => Self::FoldNothing,
            false if same_bans => Self::FoldSince(state.position),
            false => Self::Whole,
        }
    }
}

impl FeedState {
    /// The `seq` of a former process that a guess of the changed bans would begin at: set if the
    /// gateway would otherwise fetch the whole base.
    pub fn to_guess(&self, plan: &Plan, since: Option<Version>, held: &Held) -> Option<u64> {
        let fetches = plan.bans == BansPlan::Whole && held.hashes[Table::BanBase]? != self.base.blob.hash;
        let since = since.filter(|since| self.position_of(*since).is_none())?;
        (fetches && since.epoch != self.version().epoch).then_some(since.seq)
    }

    /// Bytes of the tables that a gateway that holds `held` fetches after the answer to `plan`, as far as that is
    /// known before.
    pub fn to_fetch(&self, plan: &Plan, held: &Held) -> usize {
        let whole = plan.whole.iter().map(|table| self.whole[*table].bytes.len());
        let fetches_base = match &plan.bans {
            BansPlan::Whole => held.hashes[Table::BanBase] != Some(self.base.blob.hash),
            BansPlan::FoldSince(since) => !self.log.reaches(*since),
            BansPlan::FoldRestartGuess(guess) => !self.log.reaches(guess.upto),
            BansPlan::Unchanged | BansPlan::Delta(_) | BansPlan::FoldNothing => false,
        };
        let base = fetches_base.then(|| self.base.table.as_bytes().len());
        whole.filter(|bytes| *bytes > MAX_INLINE).chain(base).fold(0, usize::saturating_add)
    }

    /// The bytes of the answer to `plan`.
    pub fn answer(&self, plan: &Plan) -> Bytes {
        self.answers.get_or_encode(plan, || self.encode(plan))
    }

    fn encode(&self, plan: &Plan) -> Bytes {
        let mut answer = SyncAnswer {
            version: self.version(),
            refresh: self.refresh,
            server_time_ms: clock::now_ms(),
            ack_wanted: plan.ack_wanted,
            whole: plan.whole.iter().map(|table| self.whole_update(*table)).collect(),
            bans: self.bans_update(&plan.bans),
        };
        let fits = |answer: &SyncAnswer| -> Option<Result<Vec<u8>, FormatError>> {
            let bytes = answer.to_bytes();
            bytes.as_ref().map_or(true, |bytes| bytes.len() <= MAX_PAGE).then_some(bytes)
        };
        // Drops first what can be fetched by pages, then what saves fetching the base.
        let bytes = fits(&answer).or_else(|| {
            answer.whole.iter_mut().for_each(|update| update.bytes = None);
            fits(&answer)
        });
        let bytes = bytes.unwrap_or_else(|| {
            answer.bans.iter_mut().for_each(|bans| bans.fold = None);
            answer.to_bytes()
        });
        // Encoding these types cannot fail. If it did, the gateway would treat the empty answer
        // as malformed and poll again.
        bytes.unwrap_or_default().into()
    }

    fn whole_update(&self, table: Table) -> WholeUpdate {
        let whole = &self.whole[table];
        let inline = whole.bytes.len() <= MAX_INLINE;
        WholeUpdate { table, blob: whole.blob, bytes: inline.then(|| whole.bytes.to_vec()) }
    }

    fn bans_update(&self, plan: &BansPlan) -> Option<BansUpdate> {
        let changed = |prefix: Prefix| Entry { prefix, state: self.snapshot.ips.ban(&prefix) };
        let whole = || OverlayUpdate::Whole(self.log.current.keys().map(changed).collect());
        let (fold, overlay) = match plan {
            BansPlan::Unchanged => return None,
            BansPlan::Delta(since) => {
                // Sorted, so that the gateway need not sort.
                let mut prefixes: Vec<Prefix> = self.log.current.after(*since).collect();
                prefixes.sort_unstable();
                (None, OverlayUpdate::Delta(prefixes.into_iter().map(changed).collect()))
            }
            BansPlan::Whole => (None, whole()),
            BansPlan::FoldNothing => (Some(Vec::new()), whole()),
            BansPlan::FoldSince(since) => (self.fold(*since, &[]), whole()),
            BansPlan::FoldRestartGuess(guess) => (self.fold(guess.upto, &guess.keys), whole()),
        };
        Some(BansUpdate { base: self.base.blob, fold, overlay, digest: self.snapshot.ips.bans })
    }

    /// Entries that turn the bans of `since`, which may also differ in `more`, into those of the
    /// base. `None`: the log does not reach back to `since`.
    fn fold(&self, since: LogPosition, more: &[Prefix]) -> Option<Vec<Entry>> {
        let mut keys = self.log.between(since, self.base.cut)?;
        keys.extend(more);
        let at_cut = |prefix: Prefix| Entry { prefix, state: self.base.state(&prefix) };
        Some(keys.into_iter().map(at_cut).collect())
    }
}
