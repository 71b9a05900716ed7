//! Bans that a rule has for those who reached its threshold.

use std::sync::Arc;

use tidegate_author::AutoBan;
use tidegate_policy::address::Prefix;

/// Bans of one rule, written in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleBans {
    /// The rule: length of the bans, and whether they are in shadow.
    pub rule: Arc<AutoBan>,
    /// Each prefix once.
    pub bans: Vec<RuleBan>,
}

/// A ban of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleBan {
    /// What is banned.
    pub prefix: Prefix,
    /// The requests that caused it,
    pub bad: u64,
    /// of so many; `None`: they were not counted.
    pub all: Option<u64>,
}

impl RuleBans {
    /// Why, as people read it.
    #[must_use]
    pub fn reason(&self, ban: &RuleBan) -> String {
        let AutoBan { name, window_s, .. } = &*self.rule;
        let of = ban.all.map(|all| format!(" of {all}")).unwrap_or_default();
        format!("auto-bans/{name}: {}{of} requests within {window_s} s", ban.bad)
    }
}
