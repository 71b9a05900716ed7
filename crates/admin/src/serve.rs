//! The whole service: store, feed and both listeners, started in this order and stopped in
//! reverse.

mod auto_bans;
pub mod connections;
pub mod limits;
mod listener;
mod own_delay;
mod replaced_gateways;
mod rollouts;
pub mod tls;
mod token_files;
mod token_uses;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tidegate_policy::address::Prefix;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api;
use crate::api::address_limits::AddressLimits;
use crate::api::app_state::{AppParts, AppState, CountryHeaders, PerListener};
use crate::api::idempotency::RunningKeys;
use crate::api::places::StreamPlaces;
use crate::auth::Tokens;
use crate::feed::{Feed, FeedOptions};
use crate::gateways::{Gateways, Waiter};
use crate::metrics::Metrics;
use crate::protected_networks::ProtectedNetworks;
use crate::rollouts::Rollouts;
use crate::sources::Sources;
use crate::store::Store;
use crate::store::sqlite::{Options, SqliteStore};
use connections::Connections;
use limits::ConnectionLimits;
use tls::{Tls, TlsFiles};

pub use token_files::read as token_in_file;

/// Configuration of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database.
    pub db: PathBuf,
    /// Address of the people's listener; port 0: any free one.
    pub people: SocketAddr,
    /// Address of the gateways' listener.
    pub gateways: SocketAddr,
    /// Options of the store.
    pub store: Options,
    /// Names of backendRefs that the gateways' Envoys have clusters for; empty: it is not known.
    pub clusters: BTreeSet<String>,
    /// Networks that a ban needs `force` for, besides those that always are protected.
    pub protect: Vec<Prefix>,
    /// A directory with the files `admin-token` and `gateway-token`, whose tokens are registered;
    /// missing files are created.
    pub tokens: Option<PathBuf>,
    /// The directory with the files that sources of bans name.
    pub source_files: Option<PathBuf>,
    /// Bytes of a table of addresses, at most; entries beyond it have no effect.
    pub table_limit: usize,
    /// TLS of each listener; `None`: it speaks in the clear.
    pub tls: PerListener<Option<TlsFiles>>,
}

/// A running service.
pub struct Service {
    people: SocketAddr,
    gateways: SocketAddr,
    stop: watch::Sender<bool>,
    listeners: [JoinHandle<()>; 2],
    departed: JoinHandle<()>,
    own_delay: JoinHandle<()>,
    auto_bans: JoinHandle<()>,
    rollouts: JoinHandle<()>,
    token_uses: JoinHandle<()>,
    fetches: JoinHandle<()>,
    token_files: Option<PathBuf>,
    app: AppState,
    /// While it exists gateways ack at once, so that the delay until changes are enforced is
    /// measured.
    _asks: Waiter,
}

impl Service {
    /// Opens the database, reads it, and listens.
    ///
    /// # Errors
    /// When an address is taken, the database cannot be opened or is used by another service, or
    /// a file of tokens or TLS is invalid.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let bind = async |option: &str, address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("{option} {address}: cannot listen there"))
        };
        let people = bind("--listen", config.people).await?;
        let gateways = bind("--gateway-listen", config.gateways).await?;
        let tls = open_tls(config.tls)?;
        let path = config.db.display().to_string();
        let store = SqliteStore::open(&config.db, config.store).context("--db")?;
        let store: Arc<dyn Store> = Arc::new(store);
        if let Some(dir) = &config.tokens {
            token_files::register(dir, &*store).await?;
        }
        let limits = ConnectionLimits::of_this_process();
        let (stop, stopped) = watch::channel(false);
        let known = Gateways::new();
        let options = FeedOptions {
            gateways: known.clone(),
            table_limit: config.table_limit,
            ..FeedOptions::default()
        };
        let feed = Feed::start(store.clone(), options).await.context("read the database")?;
        let protected = ProtectedNetworks::new(&config.protect);
        let sources = Sources::new(
            Arc::clone(&store),
            feed.clone(),
            (protected.clone(), known.clone()),
            config.source_files,
        );
        let rollouts = Rollouts::new(Arc::clone(&store), feed.clone(), known.clone(), sources.clone());
        // What runs is known before anybody asks. If this fails, the driver says so and tries again.
        let _ = rollouts.look().await;
        let app = AppState::from(AppParts {
            tokens: Arc::new(Tokens::new(Arc::clone(&store))),
            store,
            feed,
            gateways: known,
            sessions: Arc::default(),
            stop: stopped.clone(),
            started: Instant::now(),
            country_headers: CountryHeaders::default(),
            clusters: Arc::new(config.clusters),
            protected,
            sources,
            rollouts,
            documents: Arc::default(),
            running_keys: RunningKeys::default(),
            imports: Arc::default(),
            metrics: Metrics::default(),
            limits: AddressLimits::default(),
            metrics_page: Arc::default(),
            places: StreamPlaces::default(),
            connections: PerListener {
                people: Connections::new(limits.people),
                gateways: Connections::new(limits.gateways),
            },
            tls,
        });
        let asks = app.gateways.waiter();
        tokio::spawn(tls::follow(app.all_tls(), stopped.clone()));
        let fetches = tokio::spawn(app.sources.clone().run(stopped.clone()));
        let token_uses = tokio::spawn(token_uses::follow(Arc::clone(&app.tokens), stopped.clone()));
        let service = Self {
            people: people.local_addr()?,
            gateways: gateways.local_addr()?,
            stop,
            listeners: [
                tokio::spawn(listener::listen(
                    people,
                    api::people(app.clone()),
                    Arc::clone(&app.connections.people),
                    app.tls.people.clone(),
                    stopped.clone(),
                )),
                tokio::spawn(listener::listen(
                    gateways,
                    api::data_plane(app.clone()),
                    Arc::clone(&app.connections.gateways),
                    app.tls.gateways.clone(),
                    stopped,
                )),
            ],
            departed: tokio::spawn(replaced_gateways::follow(app.gateways.clone(), Arc::clone(&app.store))),
            own_delay: tokio::spawn(own_delay::follow(app.gateways.clone())),
            auto_bans: tokio::spawn(auto_bans::follow(app.clone())),
            rollouts: tokio::spawn(rollouts::follow(app.rollouts.clone())),
            token_uses,
            fetches,
            token_files: config.tokens,
            app,
            _asks: asks,
        };
        tracing::info!(people = %service.people, gateways = %service.gateways, db = path, "listening");
        Ok(service)
    }

    /// Address of the people's listener.
    #[must_use]
    pub fn people(&self) -> SocketAddr {
        self.people
    }

    /// Address of the gateways' listener.
    #[must_use]
    pub fn gateways(&self) -> SocketAddr {
        self.gateways
    }

    /// State of the handlers.
    #[must_use]
    pub fn app_state(&self) -> &AppState {
        &self.app
    }

    /// Reads the files of tokens and TLS again. What is wrong with them is logged, and what was read before
    /// stays.
    pub async fn reload(&self) {
        tls::reload(self.app.all_tls()).await;
        if let Some(dir) = &self.token_files {
            match token_files::register(dir, &*self.app.store).await {
                Ok(()) => self.app.tokens.note_change(),
                Err(error) => tracing::error!("the tokens that were read before stay: {error:#}"),
            }
        }
    }

    /// Ends long polls and waits, finishes all answers under way, and closes the database.
    ///
    /// # Errors
    /// When a listener had ended before, which should not happen.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let [people, gateways] = self.listeners;
        let (people, gateways) = tokio::join!(people, gateways);
        people.context("people's listener").and(gateways.context("gateways' listener"))?;
        self.departed.abort();
        self.own_delay.abort();
        self.auto_bans.abort();
        self.rollouts.abort();
        // They hold the database until they have ended.
        let _ = tokio::join!(self.auto_bans, self.rollouts);
        self.token_uses.await.context("uses of tokens")?;
        self.fetches.await.context("sources of bans")?;
        drop(self.app);
        Ok(())
    }
}

fn open_tls(files: PerListener<Option<TlsFiles>>) -> anyhow::Result<PerListener<Option<Arc<Tls>>>> {
    let open = |option, files: Option<TlsFiles>| files.map(Tls::open).transpose().context(option);
    Ok(PerListener {
        people: open("--tls-cert", files.people)?,
        gateways: open("--gateway-tls-cert", files.gateways)?,
    })
}
