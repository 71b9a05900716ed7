//! Bans those who have reached the threshold of a rule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_author::AutoBan;
use tidegate_policy::address::Prefix;

use crate::api::app_state::AppState;
use crate::auto_bans::{Reached, RuleOutcome};
use crate::feed::{RowStatus, Snapshot};
use crate::protected_networks::is_not_public;
use crate::store::{Author, Change, RULES, RuleBan, RuleBans};
use crate::time;

/// Bans in one transaction, which other changes wait for.
const MOST_AT_ONCE: usize = 200;
/// Pause after the database took no ban.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the rules of `app` as the database has them, and bans, until the task is aborted.
pub async fn follow(app: AppState) {
    tokio::join!(follow_rules(&app), ban_all(&app));
}

async fn follow_rules(app: &AppState) {
    let mut snapshot = app.feed.snapshot();
    let mut rules: Option<Vec<Arc<AutoBan>>> = None;
    loop {
        let in_force = snapshot.auto_bans.in_force.values();
        let now: Vec<Arc<AutoBan>> = in_force.map(|info| Arc::new(info.parsed.clone())).collect();
        if rules.as_ref() != Some(&now) {
            app.store.set_auto_bans(now.clone());
            rules = Some(now);
        }
        snapshot = app.feed.after(&snapshot).await;
    }
}

async fn ban_all(app: &AppState) {
    let mut guard = BanGuard::default();
    loop {
        let reached = app.store.auto_bans().reached(MOST_AT_ONCE).await;
        let mut by_rule: Vec<(Arc<AutoBan>, Vec<Reached>)> = Vec::new();
        for one in reached {
            match by_rule.iter_mut().find(|(rule, _)| Arc::ptr_eq(rule, &one.rule)) {
                Some((_, of_rule)) => of_rule.push(one),
                None => by_rule.push((Arc::clone(&one.rule), vec![one])),
            }
        }
        for (rule, reached) in by_rule {
            if !ban(app, &mut guard, &rule, reached).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Bans those whom the rule may ban; false: the database took nothing.
async fn ban(app: &AppState, guard: &mut BanGuard, rule: &Arc<AutoBan>, reached: Vec<Reached>) -> bool {
    let engine = app.store.auto_bans();
    let snapshot = app.feed.snapshot();
    let in_force = snapshot.auto_bans.in_force.get(rule.name.as_str());
    if in_force.is_none_or(|info| info.parsed != **rule) {
        // Removed or changed since.
        return true;
    }
    let now = time::now_seconds();
    let mut room = guard.room(rule, now);
    let mut bans: Vec<RuleBan> = Vec::new();
    for one in reached {
        let ban = RuleBan { prefix: one.prefix, bad: one.bad, all: one.all };
        if let Some(why_not) = why_not(app, &snapshot, rule, &ban.prefix) {
            engine.note(rule, why_not, 1);
        } else if room == 0 {
            engine.note(rule, RuleOutcome::HeldBack, 1);
        } else {
            room -= 1;
            bans.push(ban);
        }
    }
    if bans.is_empty() {
        return true;
    }
    let asked = bans.len() as u64;
    let change = Change::BanByRule(Arc::new(RuleBans { rule: Arc::clone(rule), bans }));
    let by = Author::from(format!("{RULES}{}", rule.name).as_str());
    match app.store.commit(change, &by).await {
        Ok(committed) => {
            let done = if rule.is_shadow { RuleOutcome::Watched } else { RuleOutcome::Banned };
            engine.note(rule, done, committed.import.added);
            engine.note(rule, RuleOutcome::Known, committed.import.kept);
            engine.note(rule, RuleOutcome::Allowed, committed.import.allowed);
            guard.note(rule, committed.import.added);
            let (bans, seq) = (committed.import.added, committed.seq);
            tracing::info!(rule = rule.name, bans, shadow = rule.is_shadow, seq, "banned by a rule");
            true
        }
        Err(error) => {
            tracing::warn!(rule = rule.name, %error, "an automatic ban could not be written");
            engine.note(rule, RuleOutcome::Failed, asked);
            false
        }
    }
}

/// Why this is not to be banned.
fn why_not(app: &AppState, snapshot: &Snapshot, rule: &AutoBan, prefix: &Prefix) -> Option<RuleOutcome> {
    let is_protected = app.protected.overlapping(prefix, &app.gateways).is_some();
    if is_protected || is_not_public(prefix) && !rule.include_private {
        return Some(RuleOutcome::Protected);
    }
    let now = time::now_seconds();
    let mut entries = snapshot.covering(prefix.ends().0);
    let allows = entries.any(|entry| {
        entry.status == RowStatus::Allowed
            && !entry.left_out
            && entry.prefix.len() <= prefix.len()
            && entry.expires.is_none_or(|end| now < end)
    });
    allows.then_some(RuleOutcome::Allowed)
}

/// How many bans each rule has written in its present window: windows follow each other by the
/// service's clock.
#[derive(Default)]
struct BanGuard(HashMap<String, (u32, u64)>);

impl BanGuard {
    /// How many more the rule may write at the second `now`.
    fn room(&mut self, rule: &AutoBan, now: u32) -> u64 {
        let window = now / rule.window_s.max(1);
        let of = self.0.entry(rule.name.clone()).or_default();
        if of.0 != window {
            *of = (window, 0);
        }
        u64::from(rule.max_bans).saturating_sub(of.1)
    }

    fn note(&mut self, rule: &AutoBan, bans: u64) {
        if let Some((_, written)) = self.0.get_mut(&rule.name) {
            *written = written.saturating_add(bans);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_author::read_auto_ban;

    use super::*;

    #[test]
    fn a_rule_may_write_so_many_bans_in_each_of_its_windows() {
        let rule = |name: &str| {
            let document = json!({"match": {"status": 404}, "threshold": 1, "window": "10s", "ban": {"ttl": "1h"},
                "max_bans": 5});
            read_auto_ban(name, &document).unwrap()
        };
        let (one, other, mut guard) = (rule("one"), rule("other"), BanGuard::default());
        assert_eq!(guard.room(&one, 20), 5);
        guard.note(&one, 4);
        assert_eq!((guard.room(&one, 29), guard.room(&other, 29)), (1, 5));
        guard.note(&one, 1);
        assert_eq!((guard.room(&one, 29), guard.room(&one, 30)), (0, 5));
        assert_eq!(guard.room(&one, 29), 5, "the clock was set back: another window");
    }
}
