//! How many connections each listener may have, below the limit of descriptors that the process
//! has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::connections::RESERVE;

/// Open connections on the people's listener, at most.
const MAX_PEOPLE: usize = 1_024;
/// Open connections on the gateways' listener, at most: each thread of each Envoy has some.
const MAX_GATEWAYS: usize = 32_768;
/// Descriptors for everything else: the database's connections with their logs, the runtime, the
/// listeners, files that are imported.
const OTHERS: usize = 96;
/// The least that a listener gets.
const LEAST: usize = 16;

/// The most open connections of each listener, without its reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// The people's listener.
    pub people: usize,
    /// The gateways' listener.
    pub gateways: usize,
}

impl ConnectionLimits {
    /// Those that fit into the process's limit of descriptors at this moment.
    #[must_use]
    pub fn of_this_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        Self::within(descriptors.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX))
    }

    /// Those that fit into this many descriptors. The people's listener gets an eighth, so that
    /// whoever connects there takes nothing from the gateways.
    fn within(descriptors: usize) -> Self {
        let room = descriptors.saturating_sub(OTHERS).saturating_sub(2 * RESERVE);
        let people = (room / 8).clamp(LEAST, MAX_PEOPLE);
        Self { people, gateways: room.saturating_sub(people).clamp(LEAST, MAX_GATEWAYS) }
    }
}

/// Raises the process's limit of descriptors as far as it may be: the usual 1,024 are for programs
/// that use `select`.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_listeners_and_the_files_fit() {
        for descriptors in [256, 1_024, 4_096, 20_000, 65_536] {
            let ConnectionLimits { people, gateways } = ConnectionLimits::within(descriptors);
            assert!(people + gateways + 2 * RESERVE + OTHERS <= descriptors, "{descriptors}");
            assert!(people >= 16 && gateways >= 7 * people.min(100), "{descriptors}: {people} {gateways}");
        }
        let most = ConnectionLimits { people: MAX_PEOPLE, gateways: MAX_GATEWAYS };
        assert_eq!(ConnectionLimits::within(usize::MAX), most);
        assert_eq!(ConnectionLimits::within(0), ConnectionLimits { people: LEAST, gateways: LEAST });
    }
}
