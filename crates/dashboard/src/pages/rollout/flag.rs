//! The flags of the rollout.

/// A flag.
pub struct Flag {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// Whether it can be in shadow.
    pub has_shadow: bool,
}

/// All flags, in the order in which they are switched on.
pub const FLAGS: [Flag; 5] = [
    Flag { name: "enableRouteCache", does: "Routes are matched in the gateway's tables.", has_shadow: true },
    Flag {
        name: "enableIpBlacklistCache",
        does: "Bans and the allow list are looked up in the gateway's tables.",
        has_shadow: true,
    },
    Flag {
        name: "enableGeoRulesCache",
        does: "Countries and geo rules are looked up in the gateway's tables.",
        has_shadow: true,
    },
    Flag {
        name: "enableParallelExecution",
        does: "What is still asked of the service is asked at once, and not one after the other.",
        has_shadow: false,
    },
    Flag {
        name: "enableAsyncRecording",
        does: "Events are queued, and posted while requests go on.",
        has_shadow: false,
    },
];
