//! The tables that this VM enforces, kept up to date with what is published.

use std::rc::Rc;

use tidegate_policy::decide::Tables;

use super::snapshot_load::{LoadEnd, SnapshotLoad};
use crate::host::{Cas, Host};
use crate::metrics::{Count, Metrics};
use crate::sync::shared::keys::Keys;
use crate::sync::shared::manifest::Manifest;
use crate::sync::snapshot::Snapshot;

/// How often [`TableLoader::load_published_now`] begins anew.
const TRIES: u8 = 3;

/// Loads that fail for a manifest that stays as it is, before it is taken for one that cannot be
/// loaded: something else than a publish has overwritten its tables.
const FUTILE_LOADS: u8 = 3;

/// The manifest that was last dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ManifestSeen {
    /// None yet, or it must be read again.
    Never,
    /// There was none.
    Nothing,
    /// The one with this compare-and-set token: loaded, or found undecodable. The token
    /// changes with every write, so a manifest that does not decode is read only once.
    Token(Cas),
}

/// The tables that are enforced, and a load under way.
pub struct TableLoader {
    loaded: Option<Rc<Snapshot>>,
    load: Option<SnapshotLoad>,
    seen: ManifestSeen,
    undecodable: bool,
    /// The manifest that was last begun to load, and how often that failed.
    tried: Option<(Cas, u8)>,
}

impl Default for TableLoader {
    fn default() -> Self {
        Self { loaded: None, load: None, seen: ManifestSeen::Never, undecodable: false, tried: None }
    }
}

impl TableLoader {
    /// The set in force.
    #[must_use]
    pub fn loaded(&self) -> Option<&Rc<Snapshot>> {
        self.loaded.as_ref()
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> Option<Rc<Tables>> {
        self.loaded.as_ref().map(|loaded| loaded.tables.clone())
    }

    /// Whether a load is under way.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.load.is_some()
    }

    /// Whether what is published was loaded, or cannot be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.load.is_none() && self.seen != ManifestSeen::Never
    }

    /// Whether what is published does not decode.
    #[must_use]
    pub fn is_undecodable(&self) -> bool {
        self.undecodable
    }

    /// Enforces a snapshot that this VM has published itself.
    pub fn enforce<H: Host>(&mut self, metrics: &Metrics<H>, loaded: Rc<Snapshot>) {
        self.load = None;
        self.loaded = Some(loaded);
        self.undecodable = false;
        self.seen = ManifestSeen::Never;
        metrics.count(Count::Loads);
    }

    /// Begins to load what is published, if it changed since the last time. One host
    /// call.
    pub fn check_manifest<H: Host>(&mut self, host: &H, keys: &Keys) {
        if self.load.is_some() {
            return;
        }
        match host.shared_get(&keys.manifest()) {
            Ok(None) => self.seen = ManifestSeen::Nothing,
            Ok(Some((_, cas))) if self.seen == ManifestSeen::Token(cas) => {}
            Ok(Some((bytes, cas))) => {
                if self.tried.is_none_or(|(tried, _)| tried != cas) {
                    self.tried = Some((cas, 0));
                }
                let refreshes = self.loaded.as_ref().zip(Manifest::from_bytes(&bytes).ok());
                let is_refresh = refreshes.is_some_and(|(held, manifest)| held.refresh < manifest.refresh);
                let held = self.loaded.clone();
                self.seen = ManifestSeen::Never;
                self.load = Some(if is_refresh {
                    SnapshotLoad::of_all_tables(held)
                } else {
                    SnapshotLoad::new(held)
                });
            }
            Err(_) => self.seen = ManifestSeen::Never,
        }
    }

    /// Makes a step of the load under way. True if other tables are in force after it.
    pub fn step<H: Host>(&mut self, host: &H, keys: &Keys, metrics: &Metrics<H>) -> bool {
        let Some(end) = self.load.as_mut().and_then(|load| load.step(host, keys)) else { return false };
        self.load = None;
        match end {
            LoadEnd::Loaded(loaded, cas) => {
                self.loaded = Some(loaded);
                self.seen = ManifestSeen::Token(cas);
                self.undecodable = false;
                metrics.count(Count::Loads);
                return true;
            }
            LoadEnd::Same(cas) => {
                self.seen = ManifestSeen::Token(cas);
                self.undecodable = false;
            }
            LoadEnd::Nothing => self.seen = ManifestSeen::Nothing,
            LoadEnd::Undecodable(cas, what) => self.give_up(host, metrics, cas, what),
            LoadEnd::Retry => {
                self.seen = ManifestSeen::Never;
                if let Some((cas, failures)) = &mut self.tried {
                    *failures = failures.saturating_add(1);
                    let cas = *cas;
                    if *failures >= FUTILE_LOADS {
                        self.give_up(host, metrics, cas, "tables that are not the manifest's");
                    }
                }
            }
        }
        false
    }

    /// Leaves the manifest `cas` aside. `what` of it is wrong.
    fn give_up<H: Host>(&mut self, host: &H, metrics: &Metrics<H>, cas: Cas, what: &str) {
        self.seen = ManifestSeen::Token(cas);
        self.undecodable = true;
        metrics.count(Count::DecodeFailures);
        let say = ["what is published does not decode (", what, "); the tables before stay in force"];
        host.log(log::Level::Error, &say.concat());
    }

    /// Loads what is published before it returns. For a VM that has no tables yet, or
    /// has not looked for long: its next request must not be decided by old tables.
    /// True if tables changed.
    pub fn load_published_now<H: Host>(&mut self, host: &H, keys: &Keys, metrics: &Metrics<H>) -> bool {
        // A load that began before may be of something older.
        self.load = None;
        let mut changed = false;
        for _ in 0..TRIES {
            self.check_manifest(host, keys);
            while self.load.is_some() {
                changed |= self.step(host, keys, metrics);
            }
            if self.is_settled() {
                break;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::fixtures::{empty_set, publish};
    use tidegate_host_sim::SimHost;

    #[test]
    fn a_refresh_reads_everything_whatever_the_epoch() {
        for epoch in [1, 2] {
            let (host, keys) = (SimHost::alone(), Keys::new(7));
            let (mut loader, metrics) = (TableLoader::default(), Metrics::new(host.clone()));
            publish(&host, &keys, empty_set(1, 1, 0));
            assert!(loader.load_published_now(&host, &keys, &metrics));
            publish(&host, &keys, empty_set(epoch, 2, 1));
            let (manifest, _) = host.shared()[&keys.manifest()].clone();
            host.shared().retain(|key, _| *key == keys.manifest());
            assert!(
                !loader.load_published_now(&host, &keys, &metrics),
                "what it holds is not taken for what is there"
            );
            assert!(Manifest::from_bytes(&manifest).is_ok_and(|manifest| manifest.refresh == 1));
        }
    }
}
