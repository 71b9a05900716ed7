//! The three checks of a request that can be answered by the admin service or
//! from a cache.

use serde::{Deserialize, Serialize};

/// A check.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Check {
    /// Allow and ban list.
    Ip,
    /// Country and geo rules.
    Geo,
    /// Routes.
    Route,
}

impl Check {
    /// All of them, in the order of the decision, in which the admin service is also asked: a
    /// later check does not change an earlier one's denial, so a denial saves the questions after
    /// it. To ask for the route first would save two questions on a 404, but then a banned client
    /// would get 404 or 403 depending on a flag.
    pub const ALL: [Self; 3] = [Self::Ip, Self::Geo, Self::Route];

    /// The name in paths, rows, headers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Geo => "geo",
            Self::Route => "route",
        }
    }
}

/// One value per check.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PerCheck<T> {
    /// Of allow and ban list.
    pub ip: T,
    /// Of country and geo rules.
    pub geo: T,
    /// Of routes.
    pub route: T,
}

impl<T> PerCheck<T> {
    /// What `make` makes for each.
    pub fn from_fn(mut make: impl FnMut(Check) -> T) -> Self {
        Self { ip: make(Check::Ip), geo: make(Check::Geo), route: make(Check::Route) }
    }

    /// The one of `check`.
    pub fn get(&self, check: Check) -> &T {
        match check {
            Check::Ip => &self.ip,
            Check::Geo => &self.geo,
            Check::Route => &self.route,
        }
    }

    /// The one of `check`, to change.
    pub fn get_mut(&mut self, check: Check) -> &mut T {
        match check {
            Check::Ip => &mut self.ip,
            Check::Geo => &mut self.geo,
            Check::Route => &mut self.route,
        }
    }
}

/// What answered a check of one request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Answered {
    /// Nothing: the decision did not need the check.
    #[default]
    Unneeded,
    /// The cache, because its flag is on for the client.
    Cache,
    /// The admin service, from its database.
    Direct,
    /// The cache, because the admin service did not answer.
    Fallback,
    /// Nothing: the admin service did not answer, and there is no cache.
    Nobody,
}

impl Answered {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unneeded, Self::Cache, Self::Direct, Self::Fallback, Self::Nobody];

    /// The name in rows, headers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unneeded => "unneeded",
            Self::Cache => "hit",
            Self::Direct => "direct",
            Self::Fallback => "fallback",
            Self::Nobody => "unavailable",
        }
    }
}
