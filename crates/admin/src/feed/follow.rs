//! Following the store: every change makes a new state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::AddressTable;
use tidegate_policy::wire::WireError;
use tidegate_policy::wire::sync::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::answer::Cache;
use super::base::{Base, named};
use super::blobs::{Blobs, Kind};
use super::load::Loaded;
use super::log::{Changed, Log, Moment};
use super::state::{Past, State, Whole};
use super::world::{Figures, World};
use super::{Shared, lock};
use crate::store::{Changes, IpRow, RouteRow, Snapshot, Store, StoreError, Table};

/// The store is asked at least this often, hint or no hint.
const BACKSTOP: Duration = Duration::from_secs(1);
/// A change of more rows is worked on outside the async threads.
const FEW: usize = 500;

/// What else happens to the follower.
pub(super) enum Event {
    /// A refresh was ordered.
    Refresh {
        id: u64,
        /// What is not as the store says.
        differs: Option<String>,
        /// Gets the tables that gateways are to load.
        done: oneshot::Sender<Result<Arc<World>, StoreError>>,
    },
    /// A base was cut in the background, when the log was as given.
    Cut(Result<(Base, Bytes), WireError>, Changed),
    /// Somebody waits for what is committed by now.
    CatchUp(oneshot::Sender<()>),
    /// The world is not what the store says.
    Differs(String),
}

/// Follows the store.
pub(super) struct Follower {
    shared: Arc<Shared>,
    state: State,
    cutting: bool,
}

/// A world with what changed in it, and new bytes of the tables that travel whole.
struct Step {
    world: World,
    bans: Vec<Prefix>,
    allow: Option<Whole>,
    routes: Option<Whole>,
}

/// The state at the start.
pub(super) async fn first_state(store: &dyn Store) -> Result<(State, Blobs), StoreError> {
    let snapshot = store.snapshot(&[Table::Ip, Table::Routes]).await?;
    let moment = Moment { era: 0, seq: snapshot.seq };
    let build = move || -> Result<(State, Blobs), WireError> {
        let mut step = Step::reload(World::empty(), snapshot)?;
        let (base, base_bytes) = Base::cut(&step.world, moment)?;
        let empty = || named(AddressTable::encode(std::iter::empty())?);
        let or_empty = |whole: Option<Whole>| match whole {
            Some(whole) => Ok(whole),
            None => empty().map(|(blob, bytes)| Whole { blob, bytes }),
        };
        let (allow, routes) = (or_empty(step.allow)?, or_empty(step.routes)?);
        let mut blobs = Blobs::default();
        blobs.put(Kind::Base, base.blob, base_bytes, Duration::ZERO);
        blobs.put(Kind::Allow, allow.blob, allow.bytes.clone(), Duration::ZERO);
        blobs.put(Kind::Routes, routes.blob, routes.bytes.clone(), Duration::ZERO);
        step.world.version = Version { epoch: mint(&[]), seq: moment.seq };
        let mut state = State {
            moment,
            past: Arc::default(),
            world: Arc::new(step.world),
            base: Arc::new(base),
            log: Log::new(moment),
            allow,
            routes,
            refresh: 0,
            cache: Cache::default(),
        };
        state.fill_in_figures();
        Ok((state, blobs))
    };
    let built = spawn_blocking(build).await.map_err(|error| StoreError::Failed(error.to_string()))?;
    built.map_err(|error| StoreError::Failed(format!("the tables cannot be laid out: {error}")))
}

impl Step {
    /// Makes `world` what the snapshot says.
    fn reload(mut world: World, snapshot: Snapshot) -> Result<Self, WireError> {
        let touched = Loaded::read(snapshot.ips).replace_all(&mut world);
        world.replace_routes(snapshot.routes);
        Self { world, bans: touched.bans, allow: None, routes: None }.lay_out(true, true)
    }

    fn apply(
        mut world: World,
        ips: Vec<(String, Option<IpRow>)>,
        routes: Vec<(String, Option<RouteRow>)>,
    ) -> Result<Self, WireError> {
        let touched = world.apply_ips(ips);
        let with_routes = !routes.is_empty();
        world.apply_routes(routes);
        Self { world, bans: touched.bans, allow: None, routes: None }.lay_out(touched.allow, with_routes)
    }

    fn lay_out(mut self, allow: bool, routes: bool) -> Result<Self, WireError> {
        let whole = |bytes| named(bytes).map(|(blob, bytes)| Whole { blob, bytes });
        if allow {
            self.allow = Some(whole(AddressTable::encode(self.world.allow_entries())?)?);
        }
        if routes {
            self.routes = Some(whole(self.world.compile_routes())?);
        }
        Ok(self)
    }
}

impl Follower {
    pub fn new(shared: Arc<Shared>, state: State) -> Self {
        Self { shared, state, cutting: false }
    }

    /// Follows until the task is ended.
    pub async fn run(mut self, mut hints: watch::Receiver<u64>, mut inbox: mpsc::UnboundedReceiver<Event>) {
        let mut backstop = interval(BACKSTOP);
        backstop.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hinting = true;
        loop {
            tokio::select! {
                hint = hints.changed(), if hinting => {
                    // A store that is closing hints no more; the backstop says so.
                    hinting = hint.is_ok();
                    self.catch_up().await;
                }
                _ = backstop.tick() => {
                    self.catch_up().await;
                    self.forget_old();
                }
                Some(event) = inbox.recv() => self.take(event).await,
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Refresh { id, differs, done } => {
                let ordered = self.refresh(id, differs).await;
                // Whoever asked may have gone.
                let _ = done.send(ordered);
            }
            Event::Cut(cut, at_cut) => {
                self.cutting = false;
                match cut {
                    Ok((base, bytes)) => self.install(base, bytes, at_cut),
                    Err(error) => {
                        self.shared.notice(format!("no new base of the bans could be cut: {error}"));
                    }
                }
                self.cut_if_due();
            }
            Event::CatchUp(done) => {
                self.catch_up().await;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Event::Differs(what) => {
                if let Err(error) = self.reload(true, &what).await {
                    self.shared.set_trouble(Some(error.to_string()));
                }
            }
        }
    }

    async fn refresh(&mut self, id: u64, differs: Option<String>) -> Result<Arc<World>, StoreError> {
        self.catch_up().await;
        if let Some(trouble) = lock(&self.shared.trouble).clone() {
            return Err(StoreError::Failed(trouble));
        }
        if let Some(what) = differs {
            self.reload(true, &what).await?;
        }
        self.state.refresh = self.state.refresh.max(id);
        self.publish();
        Ok(self.state.world.clone())
    }

    /// Takes all changes that the store has.
    async fn catch_up(&mut self) {
        let trouble = loop {
            let seq = self.state.moment.seq;
            let step = match self.shared.store.changes_since(seq).await {
                Ok(Changes::Rows { seq: now, .. }) if now == seq => break None,
                Ok(Changes::Rows { seq: now, ips, routes }) if now > seq => {
                    self.apply(now, ips, routes).await
                }
                Ok(Changes::Rows { .. }) => self.reload(true, "the sequence of changes went back").await,
                Ok(Changes::Reload { new_epoch, why }) => self.reload(new_epoch, why).await,
                Err(error) => Err(error),
            };
            match step {
                Err(error) => break Some(error.to_string()),
                // A reload that brought nothing would be asked for again at once.
                Ok(()) if self.state.moment.seq <= seq => break None,
                Ok(()) => {}
            }
        };
        self.shared.set_trouble(trouble);
    }

    async fn apply(
        &mut self,
        seq: u64,
        ips: Vec<(String, Option<IpRow>)>,
        routes: Vec<(String, Option<RouteRow>)>,
    ) -> Result<(), StoreError> {
        let world = World::clone(&self.state.world);
        let few = ips.len() <= FEW && routes.is_empty();
        let work = move || Step::apply(world, ips, routes);
        let step = if few { work() } else { blocking(work).await? };
        self.advance(step.map_err(laid_out)?, Moment { seq, ..self.state.moment }).await
    }

    /// Reads everything again; what differs becomes an ordinary change. In a new
    /// epoch when what was numbered before no longer counts, or when the number
    /// did not move though the rows did.
    async fn reload(&mut self, new_epoch: bool, why: &str) -> Result<(), StoreError> {
        self.shared.notice(format!("all tables are read again: {why}"));
        let snapshot = self.shared.store.snapshot(&[Table::Ip, Table::Routes]).await?;
        let seq = snapshot.seq;
        let world = World::clone(&self.state.world);
        let mut step = blocking(move || Step::reload(world, snapshot)).await?.map_err(laid_out)?;
        let mut moment = Moment { seq, ..self.state.moment };
        if !new_epoch && moment == self.state.moment && !self.differs(&step) {
            // Gateways have all of it; people may see what they do not.
            step.world.version = self.state.version();
            self.state.world = Arc::new(step.world);
            self.publish();
            return Ok(());
        }
        if new_epoch || moment <= self.state.moment {
            moment.era = moment.era.saturating_add(1);
        }
        self.advance(step, moment).await
    }

    fn differs(&self, step: &Step) -> bool {
        let same = |new: &Option<Whole>, held: &Whole| new.as_ref().is_none_or(|new| new.blob == held.blob);
        !step.bans.is_empty()
            || !same(&step.allow, &self.state.allow)
            || !same(&step.routes, &self.state.routes)
    }

    /// Makes `step` the state at `moment`, and publishes it.
    async fn advance(&mut self, mut step: Step, moment: Moment) -> Result<(), StoreError> {
        let mut state = self.state.clone();
        let mut epoch = state.version().epoch;
        if moment.era != state.moment.era {
            let past = Past { epoch, last_seq: state.moment.seq };
            Arc::make_mut(&mut state.past).push(past);
            epoch = mint(&state.past);
        }
        step.world.version = Version { epoch, seq: moment.seq };
        (state.world, state.moment) = (Arc::new(step.world), moment);
        let limit = self.shared.options.overlay_limit;
        let mut base = None;
        // So much at once: gateways fetch it rather than being told of each key.
        let bulk = step.bans.len() > limit;
        if !bulk {
            state.log.note(&step.bans, moment);
        }
        if bulk || state.log.current.len() > limit {
            let world = state.world.clone();
            let (cut, bytes) = blocking(move || Base::cut(&world, moment)).await?.map_err(laid_out)?;
            base = Some((cut.blob, bytes));
            state.base = Arc::new(cut);
            if bulk {
                state.log = Log::new(moment);
            } else {
                let at_cut = state.log.current.clone();
                state.log.cut(at_cut, moment);
            }
        }
        let keep = self.shared.options.keep;
        {
            let mut blobs = lock(&self.shared.blobs);
            if let Some((blob, bytes)) = base {
                blobs.put(Kind::Base, blob, bytes, keep);
            }
            for (kind, new, slot) in
                [(Kind::Allow, step.allow, &mut state.allow), (Kind::Routes, step.routes, &mut state.routes)]
            {
                if let Some(whole) = new {
                    blobs.put(kind, whole.blob, whole.bytes.clone(), keep);
                    *slot = whole;
                }
            }
        }
        let new_epoch = epoch != self.state.version().epoch;
        self.state = state;
        if new_epoch {
            self.shared.options.gateways.set_epoch(epoch);
        }
        self.publish();
        self.cut_if_due();
        Ok(())
    }

    fn publish(&mut self) {
        // A gateway may have spoken of a later refresh from before a restart.
        self.shared.refresh.fetch_max(self.state.refresh, Ordering::AcqRel);
        self.state.fill_in_figures();
        self.shared.applied.send_replace(Arc::new(self.state.clone()));
    }

    /// Begins to cut a base in the background when the overlay has grown enough.
    fn cut_if_due(&mut self) {
        let options = &self.shared.options;
        let base = usize::try_from(self.state.base.digest.count).unwrap_or(usize::MAX);
        let due = options.overlay_min.max(base / options.overlay_fraction.max(1)).min(options.overlay_max);
        if self.cutting || self.state.log.current.len() <= due {
            return;
        }
        self.cutting = true;
        let (world, moment) = (self.state.world.clone(), self.state.moment);
        let at_cut = self.state.log.current.clone();
        let events = self.shared.events.clone();
        spawn_blocking(move || {
            let cut = Base::cut(&world, moment);
            // Nobody listens any more when the feed has ended meanwhile.
            let _ = events.send(Event::Cut(cut, at_cut));
        });
    }

    /// Puts a base that was cut in the background in its place.
    fn install(&mut self, base: Base, bytes: Bytes, at_cut: Changed) {
        if base.cut <= self.state.base.cut {
            return;
        }
        lock(&self.shared.blobs).put(Kind::Base, base.blob, bytes, self.shared.options.keep);
        self.state.log.cut(at_cut, base.cut);
        self.state.base = Arc::new(base);
        self.forget_old();
        self.publish();
    }

    fn forget_old(&mut self) {
        let options = &self.shared.options;
        self.state.log.prune(options.keep, options.overlay_limit.saturating_mul(8));
        lock(&self.shared.blobs).prune_all(options.keep);
    }
}

impl State {
    fn fill_in_figures(&mut self) {
        let figures = Figures {
            bans: self.world.bans,
            base: self.base.blob,
            overlay: self.log.current.len(),
            allow_entries: self.world.allow.len(),
            allow: self.allow.blob.hash,
            routes_entries: self.world.routes.len(),
            routes: self.routes.blob.hash,
        };
        if self.world.tables != figures {
            Arc::make_mut(&mut self.world).tables = figures;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

fn laid_out(error: WireError) -> StoreError {
    StoreError::Failed(format!("the tables cannot be laid out: {error}"))
}

/// A new epoch: random, not zero, not one of `past`.
fn mint(past: &[Past]) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        // Without the system's randomness, the standard library's is still
        // different at each start.
        let epoch = getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(past.len()));
        if epoch != 0 && past.iter().all(|past| past.epoch != epoch) {
            return epoch;
        }
    }
}
