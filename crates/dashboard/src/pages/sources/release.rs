//! The button that takes a list that is held back.

use maud::{Markup, html};

use super::source::{HeldBack, SOURCES};
use crate::form::hidden_fields;
use crate::page::command;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::grouped;
use crate::show::shell::shell_word;
use crate::show::text::foreign;
use crate::visitor::Visitor;

/// The button that takes a list that is held back.
pub fn release(visitor: &Visitor, name: &str, why: &HeldBack) -> Result<Markup, NoRandomBytes> {
    Ok(html! {
        @if visitor.may(Role::Operate) {
            form.actions method="post" action={ (SOURCES.page_of(name)) "/refresh" } {
                (hidden_fields(visitor)?)
                button.danger type="submit" name="force" value="1" {
                    "Take the list of " (foreign(name)) " with " (grouped(why.has)) " entries"
                }
            }
        }
        (command(&format!("tidegate sources refresh {} --force", shell_word(name))))
    })
}
