//! Entries that stand although nobody should write them by mistake: an export of them says so, and is applied
//! as it is.

use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;

use super::{AddressStatus, Entry};
use crate::api::app_state::AppState;
use crate::api::entry_fields;
use crate::feed::{RowStatus, Snapshot};

/// Fills in why entries would be refused without `force`.
pub fn fill(app: &AppState, snapshot: &Snapshot, now: UnixSeconds, items: &mut [Entry]) {
    if items.is_empty() {
        return;
    }
    let protected = app.protected.list(&app.gateways);
    for item in items {
        let Ok(prefix) = item.ip.parse::<Prefix>() else { continue };
        item.needs_force = match item.status == RowStatus::Allowed.name() {
            true => entry_fields::too_wide_to_allow(&prefix),
            false => protected
                .iter()
                .find(|network| network.overlaps(&prefix))
                .map(|network| format!("it has addresses of {network}"))
                .or_else(|| allowed_by(snapshot, &prefix, now)),
        };
    }
}

fn allowed_by(snapshot: &Snapshot, prefix: &Prefix, now: UnixSeconds) -> Option<String> {
    let status = AddressStatus::of(snapshot, prefix, now);
    let entry = status.entry.filter(|_| status.status == RowStatus::Allowed.name())?;
    Some(format!("{entry} is on the allow list"))
}
