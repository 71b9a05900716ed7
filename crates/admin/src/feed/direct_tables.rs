//! Compiled tables that direct questions are answered from. They are compiled from the newest
//! state on request, once for all requests that wait; tables that did not change are reused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::bans::{self, BanTable};
use tidegate_policy::codec::FormatError;
use tidegate_policy::decide::Tables;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry};
use tidegate_policy::tables::{PerTable, Table, TableDecoder, TableSet};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::blocking::blocking;
use super::change_log::LogPosition;
use super::countries;
use super::snapshot::Snapshot;
use super::state::FeedState;
use crate::lock::locked;
use crate::store::StoreError;

/// Compiled tables are dropped after this long without a request.
const KEPT_UNASKED: Duration = Duration::from_secs(60);

/// The database at one moment: its snapshot and its compiled tables.
#[derive(Clone)]
pub struct CurrentTables {
    /// The tables that requests are decided by.
    pub tables: Arc<Tables>,
    /// The snapshot of the same version.
    pub snapshot: Arc<Snapshot>,
}

/// Channel to a caller that waits for the tables.
pub(super) type TablesReply = oneshot::Sender<Result<CurrentTables, StoreError>>;

/// The follower's side; it never blocks.
pub(super) struct DirectTables {
    compiled: Arc<Mutex<Option<CompiledTables>>>,
    asked: Instant,
    orders: mpsc::UnboundedSender<CompileOrder>,
}

/// The compiler's side.
pub(super) struct TableCompiler {
    compiled: Arc<Mutex<Option<CompiledTables>>>,
    orders: mpsc::UnboundedReceiver<CompileOrder>,
}

struct CompileOrder {
    state: Arc<FeedState>,
    askers: Vec<TablesReply>,
}

/// Compiled tables, and the hashes of what they were compiled from.
#[derive(Clone)]
pub(super) struct CompiledTables {
    tables: Arc<Tables>,
    snapshot: Arc<Snapshot>,
    position: LogPosition,
    base: BlobHash,
    hashes: PerTable<BlobHash>,
}

impl DirectTables {
    pub fn new() -> (Self, TableCompiler) {
        let compiled: Arc<Mutex<Option<CompiledTables>>> = Arc::default();
        let (orders, inbox) = mpsc::unbounded_channel();
        let compiler = TableCompiler { compiled: compiled.clone(), orders: inbox };
        (Self { compiled, asked: Instant::now(), orders }, compiler)
    }

    /// The tables that were compiled last.
    pub fn compiled(&self) -> Arc<Mutex<Option<CompiledTables>>> {
        self.compiled.clone()
    }

    /// Answers callers from `state`: at once if its tables are compiled, otherwise through the
    /// compiler.
    pub fn answer(&mut self, state: &Arc<FeedState>, askers: Vec<TablesReply>) {
        self.asked = Instant::now();
        let compiled = locked(&self.compiled).clone();
        match compiled.filter(|compiled| compiled.is_of(state)) {
            Some(compiled) => tell(askers, Ok(compiled.current_tables())),
            // Without a compiler the feed has ended, and the dropped channels tell the callers.
            None => drop(self.orders.send(CompileOrder { state: state.clone(), askers })),
        }
    }

    /// Drops compiled tables that were not requested for a minute.
    pub fn forget_unasked(&self) {
        if self.asked.elapsed() > KEPT_UNASKED {
            *locked(&self.compiled) = None;
        }
    }
}

impl TableCompiler {
    /// Compiles what is requested, until the follower ends.
    pub async fn run(mut self) {
        while let Some(mut order) = self.orders.recv().await {
            // Callers that asked for an earlier state may get a later one.
            while let Ok(next) = self.orders.try_recv() {
                order.state = next.state;
                order.askers.extend(next.askers);
            }
            let made = self.compile(order.state).await;
            tell(order.askers, made);
        }
    }

    async fn compile(&self, state: Arc<FeedState>) -> Result<CurrentTables, StoreError> {
        let before = locked(&self.compiled).clone();
        let compiled = match before {
            Some(before) if before.is_of(&state) => return Ok(before.current_tables()),
            before => blocking(move || CompiledTables::new(&state, before.as_ref())).await?,
        };
        let compiled = compiled
            .map_err(|error| StoreError::Failed(format!("the tables cannot be compiled: {error}")))?;
        let answer = compiled.current_tables();
        *locked(&self.compiled) = Some(compiled);
        Ok(answer)
    }
}

pub(super) fn tell(askers: Vec<TablesReply>, answer: Result<CurrentTables, StoreError>) {
    for asker in askers {
        // The caller may be gone.
        let _ = asker.send(answer.clone());
    }
}

impl CompiledTables {
    /// Whether these are the tables of `state`, which the version decides.
    fn is_of(&self, state: &FeedState) -> bool {
        self.tables.version == state.version()
    }

    pub fn current_tables(&self) -> CurrentTables {
        CurrentTables { tables: self.tables.clone(), snapshot: self.snapshot.clone() }
    }

    /// Compiles the tables of `state`; those that are as `before` are shared.
    ///
    /// # Errors
    /// When one does not decode, or the bans are not those of the snapshot.
    pub fn new(state: &FeedState, before: Option<&Self>) -> Result<Self, FormatError> {
        let hashes = PerTable::from_fn(|table| state.whole[table].blob.hash);
        let bans = compile_bans(state, before)?;
        let mut set = before.map_or_else(TableSet::empty, |before| before.tables.set.clone());
        set.ban_base = bans.base().clone();
        set.ban_overlay = bans.overlay().clone();
        set.ban_recent = bans.recent().clone();
        for table in Table::whole() {
            let is_held = before.is_some_and(|before| before.hashes[table] == hashes[table]);
            match table {
                _ if is_held => {}
                // Checked already, and its bytes are shared.
                Table::Countries => set.countries = countries::table(state.snapshot.countries.as_deref()),
                table => decode(table, &state.whole[table].bytes, &mut set)?,
            }
        }
        let tables = Arc::new(Tables { version: state.version(), bans, set });
        let base = state.base.blob.hash;
        Ok(Self { tables, snapshot: state.snapshot.clone(), position: state.position, base, hashes })
    }
}

fn decode(table: Table, bytes: &[u8], set: &mut TableSet) -> Result<(), FormatError> {
    let mut decoder = TableDecoder::new(table, &Arc::new(bytes.to_vec()))?;
    while !decoder.step(set)? {}
    Ok(())
}

/// The bans of `state`; their digest is checked.
fn compile_bans(state: &FeedState, before: Option<&CompiledTables>) -> Result<BanTable, FormatError> {
    let wanted = state.snapshot.ips.bans;
    let is_right = |bans: &BanTable| bans.digest() == wanted;
    if let Some(before) = before {
        if is_right(&before.tables.bans) {
            return Ok(before.tables.bans.clone());
        }
        // It has the same base, and the log has all changes since then.
        if before.base == state.base.blob.hash && before.position >= state.base.cut {
            let changed = changes(state, state.log.current.after(before.position));
            let bans = before.tables.bans.with_changes(&changed)?;
            if is_right(&bans) {
                return Ok(bans);
            }
        }
    }
    let overlay = bans::apply(&AddressTable::empty(), &changes(state, state.log.current.keys()))?;
    let bans = BanTable::new(state.base.table.clone(), AddressTable::from_bytes(overlay)?);
    match is_right(&bans) {
        true => Ok(bans),
        false => Err(FormatError::Malformed("base and overlay are not the bans that were followed")),
    }
}

/// The current bans of the prefixes that `changed`.
fn changes(state: &FeedState, changed: impl Iterator<Item = Prefix>) -> Vec<Entry> {
    let change = |prefix| Entry { prefix, state: state.snapshot.ips.ban(&prefix) };
    changed.map(change).collect()
}
