//! The form that bans an address or a block, and the page that has nothing else.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::action::NEEDS_FORCE;
use super::entries::WrittenEntry;
use super::span_field::{end, span_field};
use super::urls::{BAN, BANS, page_of};
use crate::api::{ApiError, Problem, Write, encoded};
use crate::enforced::VERSION;
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command_of_form, field_problem, form_problem, marks};
use crate::query::PageQuery;
use crate::session::NoRandomBytes;
use crate::show::shell::shell_word;
use crate::visitor::Visitor;

/// What is filled in.
#[derive(Default)]
pub struct BanForm {
    pub ip: String,
    pub reason: String,
    /// How long, as chosen.
    pub ttl: String,
    /// How long, or until when, as written.
    pub until: String,
    /// Hostnames that it is held to, as written; empty: of all.
    pub hosts: String,
    /// The same of routes.
    pub routes: String,
    pub is_shadow: bool,
    pub force: bool,
}

impl BanForm {
    /// The form for an address.
    pub fn of(ip: &str) -> Self {
        Self { ip: ip.to_owned(), ttl: "4h".to_owned(), ..Self::default() }
    }

    fn read(form: &Form) -> Self {
        let text = |name| form.get(name).to_owned();
        Self {
            ip: text("ip"),
            reason: text("reason"),
            ttl: text("ttl"),
            until: text("until"),
            hosts: text("hosts"),
            routes: text("routes"),
            is_shadow: form.get("mode") == "shadow",
            force: form.is_ticked("force"),
        }
    }

    /// The body of the API's request.
    fn body(&self) -> Value {
        let mut body = json!({ "ip": self.ip, "mode": if self.is_shadow { "shadow" } else { "enforce" } });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        if let Some((field, value)) = end(&self.ttl, &self.until) {
            body[field] = json!(value);
        }
        for (field, written) in [("hostnames", &self.hosts), ("routes", &self.routes)] {
            let names: Vec<&str> = names(written).collect();
            if !names.is_empty() {
                body["applies_to"][field] = json!(names);
            }
        }
        if self.force {
            body["force"] = json!(true);
        }
        body
    }

    /// The command that does the same.
    fn command(&self) -> String {
        let ip = if self.ip.is_empty() { "ADDRESS" } else { &self.ip };
        let mut text = format!("tidegate ban {}", shell_word(ip));
        if !self.reason.is_empty() {
            text.push_str(&format!(" --reason {}", shell_word(&self.reason)));
        }
        if let Some((field, value)) = end(&self.ttl, &self.until) {
            let option = if field == "ttl" { "--ttl" } else { "--until" };
            text.push_str(&format!(" {option} {}", shell_word(value)));
        }
        for (option, written) in [("--host", &self.hosts), ("--route", &self.routes)] {
            for name in names(written) {
                text.push_str(&format!(" {option} {}", shell_word(name)));
            }
        }
        text.push_str(if self.is_shadow { " --shadow" } else { "" });
        text.push_str(if self.force { " --force" } else { "" });
        text
    }

    /// The fields that say where it applies.
    fn places(&self, problem: Option<&Problem>) -> Markup {
        let wrong = |field| problem.and_then(|problem| problem.of_nested_field("applies_to", field));
        let fields = [
            (
                "hosts",
                "--host",
                "Only for hostnames",
                &self.hosts,
                "shop.example.com, *.example.com",
                wrong("hostnames"),
            ),
            ("routes", "--route", "Only on routes", &self.routes, "orders, team-a/login", wrong("routes")),
        ];
        html! {
            fieldset aria-describedby="ban-places" {
                legend { "Where it applies" }
                div.fields {
                    @for (name, option, words, written, example, wrong) in fields {
                        @let id = format!("ban-{name}");
                        @let marks = marks(&id, wrong);
                        div.wide {
                            label for=(id) { (words) }
                            input id=(id) name=(name) value=(written) placeholder=(example) data-each=(option)
                                autocomplete="off" spellcheck="false"
                                aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
                            (field_problem(&id, wrong))
                        }
                    }
                }
                p.quiet #ban-places {
                    "Everywhere, if both are empty. With both, only where both are met. Several names: with commas between them."
                }
            }
        }
    }

    /// The form, with what was wrong with it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(&self, visitor: &Visitor, problem: Option<&Problem>) -> Result<Markup, NoRandomBytes> {
        let offers_force = problem.is_some_and(|problem| NEEDS_FORCE.contains(&problem.code.as_str()));
        let wrong = |field: &str| problem.and_then(|problem| problem.of_field(field));
        let (ip, reason) = (wrong("ip"), wrong("reason"));
        let [ip_marks, reason_marks] = [marks("ban-ip", ip), marks("ban-reason", reason)];
        Ok(html! {
            form #ban-form.stacked method="post" action=(BAN) {
                (hidden_fields(visitor)?)
                div.fields {
                    div {
                        label for="ban-ip" { "Address or block" }
                        input #ban-ip name="ip" required value=(self.ip) placeholder="203.0.113.7 or 203.0.113.0/24" data-word="ADDRESS"
                            autocomplete="off" spellcheck="false"
                            aria-invalid=[ip_marks.invalid] aria-describedby=[ip_marks.described_by];
                        (field_problem("ban-ip", ip))
                    }
                    div {
                        label for="ban-reason" { "Reason" }
                        input #ban-reason name="reason" value=(self.reason) data-option="--reason" maxlength="1000" autocomplete="off"
                            aria-invalid=[reason_marks.invalid] aria-describedby=[reason_marks.described_by];
                        (field_problem("ban-reason", reason))
                    }
                    (span_field("ban", &self.ttl, &self.until, wrong("ttl").or_else(|| wrong("expires_at"))))
                }
                (self.places(problem))
                fieldset {
                    legend { "What it does" }
                    label.inline {
                        input type="radio" name="mode" value="enforce" checked[!self.is_shadow];
                        " Denies its requests"
                    }
                    label.inline {
                        input type="radio" name="mode" value="shadow" data-words="--shadow" checked[self.is_shadow];
                        " Only records what it would deny (shadow)"
                    }
                }
                @if offers_force {
                    label.inline { input #ban-force type="checkbox" name="force" value="1" data-words="--force"; " Ban it all the same (force)" }
                }
                button.primary type="submit" { "Ban" }
            }
            (command_of_form("ban-form", "tidegate ban", &self.command()))
        })
    }
}

/// The names in a field: between commas or blanks.
fn names(written: &str) -> impl Iterator<Item = &str> {
    written.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty())
}

/// The page that has only the form: from an event, for example.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    show(&visitor, &BanForm { reason: query.get("reason").to_owned(), ..BanForm::of(query.get("ip")) }, None)
}

fn show(visitor: &Visitor, form: &BanForm, problem: Option<&Problem>) -> Result<Response, PageError> {
    let body = html! {
        p { a href=(BANS) { "All bans" } " › ban" }
        (form_problem(problem))
        section.card { (form.show(visitor, problem)?) }
    };
    let status = problem.and_then(|problem| StatusCode::from_u16(problem.status).ok());
    let page = Page { title: "Ban an address", menu: BANS, live: "", body }.show(visitor)?;
    Ok((status.unwrap_or(StatusCode::OK), page).into_response())
}

/// Bans.
pub async fn ban(form: Form) -> Result<Response, PageError> {
    let asked = BanForm::read(&form);
    let write = Write::json(Method::POST, "ip/ban", &asked.body()).once(form.once());
    let answer = match form.visitor.api.send(write).await {
        Ok(answer) => answer,
        Err(ApiError::Problem(problem)) if problem.status != 401 => {
            return show(&form.visitor, &asked, Some(&problem));
        }
        Err(error) => return Err(error.into()),
    };
    let written: WrittenEntry =
        serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))?;
    let shadow = if asked.is_shadow { " in shadow" } else { "" };
    form.visitor.note(written.notice(&asked.ip, &format!("is banned{shadow}")));
    let WrittenEntry { ip, version, warnings, .. } = written;
    for warning in warnings {
        form.visitor.note(format!("Warning: {warning}."));
    }
    Ok(Redirect::to(&format!("{}&{VERSION}={}", page_of(&ip), encoded(&version))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_does_what_the_form_does() {
        let form = BanForm {
            reason: "it's $(x)".to_owned(),
            is_shadow: true,
            force: true,
            ..BanForm::of("203.0.113.0/24")
        };
        assert_eq!(
            form.command(),
            r"tidegate ban 203.0.113.0/24 --reason 'it'\''s $(x)' --ttl 4h --shadow --force"
        );
        let places = BanForm {
            hosts: " a.example,*.b.example ".to_owned(),
            routes: "team/r".to_owned(),
            ..BanForm::of("203.0.113.7")
        };
        assert_eq!(
            places.command(),
            "tidegate ban 203.0.113.7 --ttl 4h --host a.example --host '*.b.example' --route team/r"
        );
        assert_eq!(
            places.body()["applies_to"],
            json!({"hostnames": ["a.example", "*.b.example"], "routes": ["team/r"]})
        );
        let until = BanForm { until: "2027-01-31".to_owned(), ..BanForm::of("") };
        assert_eq!(until.command(), "tidegate ban ADDRESS --until 2027-01-31");
        assert_eq!(
            form.body(),
            json!({"ip": "203.0.113.0/24", "mode": "shadow", "reason": "it's $(x)", "ttl": "4h", "force": true})
        );
        assert_eq!(until.body(), json!({"ip": "", "mode": "enforce", "expires_at": "2027-01-31"}));
    }
}
