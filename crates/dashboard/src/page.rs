//! What is around each page: head, menu, the button that turns all flags off, notices.

use axum::response::Response;
use maud::{Markup, html};

use crate::api::Problem;
use crate::error::PageError;
use crate::form::hidden_fields;
use crate::html_document::{document, logo};
use crate::role::Role;
use crate::show::sentence::sentence;
use crate::show::text::{foreign, visible};
use crate::show::time::moment;
use crate::visitor::Visitor;

/// The menu: heading, and the pages under it as path and name.
const MENU: [(&str, &[(&str, &str)]); 5] = [
    (
        "Now",
        &[
            ("/ui/", "Overview"),
            ("/ui/rollout", "Rollout"),
            ("/ui/rollouts", "Automatic rollouts"),
            ("/ui/gateways", "Gateways"),
            ("/ui/health", "Health"),
        ],
    ),
    ("Traffic", &[("/ui/events", "Events"), ("/ui/paths", "Paths"), ("/ui/explain", "Explain")]),
    (
        "Who is turned away",
        &[
            ("/ui/bans", "Bans"),
            ("/ui/sources", "Sources"),
            ("/ui/auto-bans", "Automatic bans"),
            ("/ui/allow-list", "Allow list"),
            ("/ui/geo", "Geo"),
            ("/ui/limits", "Limits"),
        ],
    ),
    ("Where requests go", &[("/ui/routes", "Routes"), ("/ui/backends", "Backends")]),
    ("Administration", &[("/ui/audit", "Audit"), ("/ui/tokens", "Tokens")]),
];

/// Pages that only a token of the role `admin` can see.
const FOR_ADMINS: [&str; 1] = ["/ui/tokens"];

/// A page.
pub struct Page<'a> {
    /// What the window is called, and the page's heading.
    pub title: &'a str,
    /// The path of the menu's entry that this page is of.
    pub menu: &'a str,
    /// The path of its live parts, with a query; empty: it has none.
    pub live: &'a str,
    /// What it is made of.
    pub body: Markup,
}

impl Page<'_> {
    /// The page as it is sent to a visitor.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(self, visitor: &Visitor) -> Result<Response, PageError> {
        let notices = visitor.take_notices();
        let live = Some(self.live).filter(|path| !path.is_empty());
        let body = html! {
            a.skip href="#content" { "To the content" }
            (header(visitor)?)
            div.frame {
                (menu(visitor, self.menu))
                main #content tabindex="-1" {
                    div.heading {
                        h1 { (self.title) }
                        @if live.is_some() {
                            // The script says in its place whether it is followed.
                            p.quiet #live-state role="status" { "As it was when it was loaded. " a href="" { "Load anew" } }
                        }
                    }
                    @for notice in notices { p.notice role="status" { (sentence(&notice)) } }
                    (self.body)
                }
            }
        };
        Ok(document(self.title, live, &body))
    }
}

/// What is wrong with a form that was sent, above the form.
pub fn form_problem(problem: Option<&Problem>) -> Markup {
    let Some(problem) = problem else { return Markup::default() };
    let others = problem.errors.iter().map(|error| &error.detail).filter(|detail| **detail != problem.detail);
    html! {
        div.problem role="alert" {
            p { strong { (problem.title) } }
            @if !problem.detail.is_empty() { p { (sentence(&problem.detail)) } }
            @for detail in others { p { (sentence(detail)) } }
            p.quiet { "Nothing was changed. Code: " code { (problem.code) } }
        }
    }
}

/// What an input says of itself where it is wrong.
pub struct Marks {
    /// `aria-invalid`.
    pub invalid: Option<&'static str>,
    /// `aria-describedby`: the id of what [`field_problem`] shows.
    pub described_by: Option<String>,
}

/// The marks of the input with this id.
pub fn marks(id: &str, wrong: Option<&str>) -> Marks {
    Marks { invalid: wrong.map(|_| "true"), described_by: wrong.map(|_| format!("{id}-problem")) }
}

/// What is wrong with the input of this id, below it.
pub fn field_problem(id: &str, wrong: Option<&str>) -> Markup {
    html! { @if let Some(wrong) = wrong { p.field-problem id={ (id) "-problem" } { (sentence(wrong)) } } }
}

/// A command that does the same, to copy.
pub fn command(text: &str) -> Markup {
    html! {
        div.command {
            span.quiet { "Command line: " }
            code data-copy { (visible(text)) }
        }
    }
}

/// A command that does what a form does: `begin`, with what the fields add to it. `text`: all of it, of the form as it
/// is sent to the reader. The page's script keeps it in step with what is filled in, by what fields say of themselves:
/// `data-option` (an option that takes the value), `data-word` (what stands for a value that is missing; without an
/// option it is an argument), `data-words` (of a box or a choice: what it adds, with `{NAME}` for the value of another
/// field), `data-each` (an option that takes
/// each name of a list), `data-end` (a span or a moment), and `data-instead` (the name of a field that does not count beside it).
pub fn command_of_form(form: &str, begin: &str, text: &str) -> Markup {
    html! {
        div.command {
            span.quiet { "Command line, for the form as it was loaded: " }
            code data-copy data-form=(form) data-begin=(begin) { (visible(text)) }
        }
    }
}

fn header(visitor: &Visitor) -> Result<Markup, PageError> {
    Ok(html! {
        header.top {
            a.brand href="/ui/" { (logo()) "Tidegate" }
            div.top-right {
                @if visitor.may(Role::Operate) {
                    a.button.danger href="/ui/rollout/all-off" { "All flags off" }
                }
                details.account {
                    summary { (foreign(&visitor.name)) " " span.role { (visitor.role.name()) } }
                    div.card {
                        form method="post" action="/ui/sign-out" {
                            (hidden_fields(visitor)?)
                            button type="submit" { "Sign out" }
                            button type="submit" name="everywhere" value="1" { "Sign out everywhere" }
                        }
                        p.quiet { "Everywhere: all sessions of this token end." }
                        p.quiet {
                            @if let Some(end) = &visitor.token_ends { "The token ends " (moment(end)) "." }
                            @else { "The token does not end by itself." }
                        }
                    }
                }
            }
        }
    })
}

fn menu(visitor: &Visitor, current: &str) -> Markup {
    let entries = html! {
        @for (heading, pages) in MENU {
            h2 { (heading) }
            ul {
                @for (path, name) in pages.iter().filter(|(path, _)| {
                    !FOR_ADMINS.contains(path) || visitor.may(Role::Admin)
                }) {
                    li { a href=(path) aria-current=[(*path == current).then_some("page")] { (name) } }
                }
            }
        }
    };
    html! {
        nav.side aria-label="Pages" { (entries) }
        details.small-menu {
            summary { "Menu" }
            nav aria-label="Pages" { (entries) }
        }
    }
}
