//! What can be done to an entry with one button, and the button that does all the same what was refused.

use axum::http::Method;
use maud::{Markup, html};
use serde_json::json;

use super::urls::ENTRY;
use crate::api::{Problem, Write, encoded};
use crate::error::PageError;
use crate::form::hidden_fields;
use crate::session::NoRandomBytes;
use crate::show::text::foreign;
use crate::visitor::Visitor;

/// Problems that `force` passes over.
pub const NEEDS_FORCE: [&str; 2] = ["protected_network", "address_allowed"];

/// What is done.
#[derive(Clone, Copy)]
pub enum Action {
    Unban,
    Enforce,
    Disallow,
}

impl Action {
    /// The action of this name.
    pub fn of(name: &str) -> Result<Self, PageError> {
        match name {
            "unban" => Ok(Self::Unban),
            "enforce" => Ok(Self::Enforce),
            "disallow" => Ok(Self::Disallow),
            _ => Err(PageError::not_found()),
        }
    }

    /// The request that carries it out for the entry `ip`.
    pub fn write(self, ip: &str, force: bool) -> Write {
        match self {
            Self::Unban => Write::json(Method::POST, "ip/unban", &json!({ "ip": ip })),
            Self::Enforce => Write::json(Method::POST, "bans/enforce", &json!({ "ip": ip, "force": force })),
            Self::Disallow => {
                Write::json(Method::DELETE, format!("allow-list/{}", encoded(ip)), &json!(null))
            }
        }
    }
}

/// What was refused, and why.
pub struct Refused {
    pub ip: String,
    pub action: Action,
    pub problem: Problem,
}

/// The button that does what was refused all the same, where the API lets it.
pub fn all_the_same(visitor: &Visitor, of: &str, refused: &Refused) -> Result<Markup, NoRandomBytes> {
    let can_force = NEEDS_FORCE.contains(&refused.problem.code.as_str());
    if !matches!(refused.action, Action::Enforce) || !can_force {
        return Ok(Markup::default());
    }
    Ok(html! {
        form.actions.card method="post" action=(ENTRY) {
            (hidden_fields(visitor)?)
            input type="hidden" name="of" value=(of);
            input type="hidden" name="ip" value=(refused.ip);
            input type="hidden" name="force" value="1";
            button.danger type="submit" name="action" value="enforce" {
                "Enforce the ban of " (foreign(&refused.ip)) " all the same"
            }
        }
    })
}
