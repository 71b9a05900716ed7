//! The form that allows an address or a block.

use maud::{Markup, html};
use serde_json::{Value, json};

use crate::api::Problem;
use crate::form::{Form, hidden_fields};
use crate::page::{command_of_form, field_problem, marks};
use crate::pages::bans::span_field::{EVER, end, span_field};
use crate::session::NoRandomBytes;
use crate::show::shell::shell_word;
use crate::visitor::Visitor;

/// Where the form is sent to; also a page that has only the form.
pub const ADD: &str = "/ui/allow-list/add";
/// The problem that `force` passes over.
const NEEDS_FORCE: &str = "block_too_wide";

/// The form that allows an address or a block.
pub struct AllowForm {
    pub(super) ip: String,
    reason: String,
    ttl: String,
    until: String,
    force: bool,
}

impl Default for AllowForm {
    fn default() -> Self {
        let (ip, reason, until) = Default::default();
        Self { ip, reason, ttl: EVER.to_owned(), until, force: false }
    }
}

impl AllowForm {
    /// The form for an address.
    pub fn of(ip: &str) -> Self {
        Self { ip: ip.to_owned(), ..Self::default() }
    }

    pub(super) fn read(form: &Form) -> Self {
        let text = |name| form.get(name).to_owned();
        let (ip, reason, ttl, until) = (text("ip"), text("reason"), text("ttl"), text("until"));
        Self { ip, reason, ttl, until, force: form.is_ticked("force") }
    }

    pub(super) fn body(&self) -> Value {
        let mut body = json!({ "force": self.force });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        if let Some((field, value)) = end(&self.ttl, &self.until) {
            body[field] = json!(value);
        }
        body
    }

    fn command(&self) -> String {
        let ip = if self.ip.is_empty() { "ADDRESS" } else { &self.ip };
        let mut text = format!("tidegate allow {}", shell_word(ip));
        if !self.reason.is_empty() {
            text.push_str(&format!(" --reason {}", shell_word(&self.reason)));
        }
        if let Some((field, value)) = end(&self.ttl, &self.until) {
            let option = if field == "ttl" { "--ttl" } else { "--until" };
            text.push_str(&format!(" {option} {}", shell_word(value)));
        }
        text.push_str(if self.force { " --force" } else { "" });
        text
    }

    /// The form, with what was wrong with it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(&self, visitor: &Visitor, problem: Option<&Problem>) -> Result<Markup, NoRandomBytes> {
        let wrong = |field: &str| problem.and_then(|problem| problem.of_field(field));
        // In the API's address it is a parameter.
        let (ip, reason) = (wrong("prefix"), wrong("reason"));
        let [ip_marks, reason_marks] = [marks("allow-ip", ip), marks("allow-reason", reason)];
        Ok(html! {
            form #allow-form.stacked method="post" action=(ADD) {
                (hidden_fields(visitor)?)
                div.fields {
                    div {
                        label for="allow-ip" { "Address or block" }
                        input #allow-ip name="ip" required value=(self.ip) placeholder="192.0.2.0/28" data-word="ADDRESS" autocomplete="off"
                            spellcheck="false"
                            aria-invalid=[ip_marks.invalid] aria-describedby=[ip_marks.described_by];
                        (field_problem("allow-ip", ip))
                    }
                    div {
                        label for="allow-reason" { "Reason" }
                        input #allow-reason name="reason" value=(self.reason) data-option="--reason" maxlength="1000" autocomplete="off"
                            aria-invalid=[reason_marks.invalid] aria-describedby=[reason_marks.described_by];
                        (field_problem("allow-reason", reason))
                    }
                    (span_field("allow", &self.ttl, &self.until, wrong("ttl").or_else(|| wrong("expires_at"))))
                }
                @if problem.is_some_and(|problem| problem.code == NEEDS_FORCE) {
                    label.inline { input #allow-force type="checkbox" name="force" value="1" data-words="--force"; " Allow it all the same (force)" }
                }
                button.primary type="submit" { "Allow" }
            }
            (command_of_form("allow-form", "tidegate allow", &self.command()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_does_what_the_form_does() {
        let form = AllowForm { reason: "our office".to_owned(), force: true, ..AllowForm::of("192.0.0.0/7") };
        assert_eq!(form.command(), "tidegate allow 192.0.0.0/7 --reason 'our office' --force");
        assert_eq!(form.body(), json!({"force": true, "reason": "our office"}));
        let until = AllowForm { until: "2d".to_owned(), ..AllowForm::of("192.0.2.1") };
        assert_eq!(until.body(), json!({"force": false, "ttl": "2d"}));
    }
}
