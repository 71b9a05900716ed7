//! Tokens: who may use the service.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::Items;
use crate::api::{ApiError, Problem, Write, encoded};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command, command_of_form, form_problem};
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::show::shell::shell_word;
use crate::show::text::{foreign, optional};
use crate::show::time;
use crate::visitor::Visitor;

/// The path of the page.
const PATH: &str = "/ui/tokens";
/// Roles, with what each may do.
const ROLES: [(&str, &str); 4] = [
    ("read", "looks at everything but tokens"),
    ("operate", "bans, sets flags, orders refreshes as well"),
    ("admin", "everything, tokens as well"),
    ("gateway", "for the filter in Envoy, nothing else"),
];

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page).post(create)).route("/ui/tokens/revoke", get(ask_revoke).post(revoke))
}

#[derive(Deserialize)]
struct Token {
    id: String,
    name: String,
    role: String,
    node: Option<String>,
    created_at: Option<String>,
    created_by: Option<String>,
    expires_at: Option<String>,
    expired: bool,
    last_used_at: Option<String>,
}

/// What was typed into the form.
#[derive(Default)]
struct Typed {
    name: String,
    role: String,
    node: String,
    ttl: String,
}

impl Typed {
    /// The command that makes the same token.
    fn command(&self) -> String {
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { shell_word(text) };
        let mut text = format!(
            "tidegate token create --name {} --role {}",
            or(&self.name, "NAME"),
            or(&self.role, ROLES[0].0)
        );
        for (option, value) in [("--expires", &self.ttl), ("--node", &self.node)] {
            if !value.is_empty() {
                text.push_str(&format!(" {option} {}", shell_word(value)));
            }
        }
        text
    }
}

/// Answers the page.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    show(&visitor, query.get("cursor"), &Typed::default(), None).await
}

async fn show(
    visitor: &Visitor,
    cursor: &str,
    typed: &Typed,
    problem: Option<&Problem>,
) -> Result<Response, PageError> {
    let asked = PageQuery::default().with("limit", "100").with("cursor", cursor);
    let tokens: Items<Token> = visitor.api.get(&format!("tokens{}", asked.text())).await?;
    let body = html! {
        section.card aria-labelledby="tokens-heading" {
            h2 #tokens-heading { "Tokens" }
            div.scroll tabindex="0" role="group" aria-label="Tokens" {
                table.rows {
                    thead { tr {
                        th { "Name" } th { "Role" } th { "Node" } th { "Made" } th { "Ends" } th { "Last used" } th { "Beginning of its hash" } th { "Change" }
                    } }
                    tbody { @for token in &tokens.items { (row(token)) } }
                }
            }
            @if let Some(next) = &tokens.next {
                nav.pager aria-label="Further tokens" { a.button rel="next" href={ (PATH) "?cursor=" (encoded(next)) } { "More" } }
            }
            (command("tidegate token list"))
        }
        section.card aria-labelledby="create-heading" {
            h2 #create-heading { "Make a token" }
            (form_problem(problem))
            (form(visitor, typed, problem)?)
            (command_of_form("token-form", "tidegate token create", &typed.command()))
        }
    };
    let page = Page { title: "Tokens", menu: PATH, live: "", body }.show(visitor)?;
    let status =
        problem.and_then(|problem| StatusCode::from_u16(problem.status).ok()).unwrap_or(StatusCode::OK);
    Ok((status, page).into_response())
}

fn row(token: &Token) -> Markup {
    let now = Timestamp::now();
    html! {
        tr {
            td.name data-label="Name" { (foreign(&token.name)) }
            td data-label="Role" { span.tag { (foreign(&token.role)) } }
            td data-label="Node" { (optional(token.node.as_deref())) }
            td data-label="Made" { (time::optional_relative(token.created_at.as_deref(), now, "–")) " " span.quiet { "by " (optional(token.created_by.as_deref())) } }
            td data-label="Ends" { @if token.expired { span.tag.plain { "has ended" } } @else { (time::optional_relative(token.expires_at.as_deref(), now, "never")) } }
            td data-label="Last used" { (time::optional_relative(token.last_used_at.as_deref(), now, "never")) }
            td data-label="Hash" { code { (token.id) } }
            td data-label="Change" { a.button href={ "/ui/tokens/revoke?name=" (encoded(&token.name)) } { "Revoke" } }
        }
    }
}

fn form(visitor: &Visitor, typed: &Typed, problem: Option<&Problem>) -> Result<Markup, PageError> {
    let field = |name: &str,
                 label: &str,
                 value: &str,
                 example: &str,
                 (option, word): (&str, Option<&str>)| {
        let wrong = problem.and_then(|problem| problem.of_field(name));
        let described = wrong.map(|_| format!("{name}-problem"));
        html! {
            div {
                label for={ "token-" (name) } { (label) }
                input id={ "token-" (name) } name=(name) value=(value) placeholder=(example) data-option=(option) data-word=[word]
                    aria-invalid=[wrong.map(|_| "true")] aria-describedby=[described.as_deref()];
                @if let Some(wrong) = wrong { p.field-problem id={ (name) "-problem" } { (foreign(wrong)) } }
            }
        }
    };
    Ok(html! {
        form #token-form.fields method="post" action=(PATH) {
            (hidden_fields(visitor)?)
            (field("name", "Name", &typed.name, "on-call", ("--name", Some("NAME"))))
            div {
                label for="token-role" { "Role" }
                select #token-role name="role" {
                    @for (role, may) in ROLES { option value=(role) data-words={ "--role " (role) } selected[typed.role == role] { (role) ": " (may) } }
                }
            }
            (field("ttl", "Ends after", &typed.ttl, "90d; empty: never", ("--expires", None)))
            (field("node", "Only for gateways of node", &typed.node, "empty: any", ("--node", None)))
            div.actions { button.primary type="submit" { "Make it" } }
        }
    })
}

/// Makes a token, and shows it once.
async fn create(form: Form) -> Result<Response, PageError> {
    let typed = Typed {
        name: form.get("name").to_owned(),
        role: form.get("role").to_owned(),
        node: form.get("node").to_owned(),
        ttl: form.get("ttl").to_owned(),
    };
    let mut wanted = json!({ "name": typed.name, "role": typed.role });
    for (name, value) in [("node", &typed.node), ("ttl", &typed.ttl)] {
        if !value.is_empty() {
            wanted[name] = json!(value);
        }
    }
    let visitor = &form.visitor;
    match visitor.api.send(Write::json(Method::POST, "tokens", &wanted).once(form.once())).await {
        Ok(answer) => shown_once(visitor, &answer),
        Err(ApiError::Problem(problem)) if problem.status < 500 && problem.status != 401 => {
            show(visitor, "", &typed, Some(&problem)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The only page that has the token.
fn shown_once(visitor: &Visitor, answer: &Value) -> Result<Response, PageError> {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let body = html! {
        section.card {
            p { "This is the token " strong { (foreign(&text("name"))) } " of the role " (text("role")) ". It is shown this once; only its hash is kept." }
            p { code data-copy { (text("token")) } }
            p { a.button href=(PATH) { "I have it: to the tokens" } }
        }
    };
    Page { title: "A new token", menu: PATH, live: "", body }.show(visitor)
}

/// Asks once whether a token is to be revoked.
async fn ask_revoke(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let name = query.get("name");
    let body = html! {
        section.card {
            p { "From then on nobody gets in with " strong { (foreign(name)) } ", and sessions that were begun with it end." }
            @if name == visitor.name { p.problem { "This is the token that you are signed in with: you will be signed out." } }
            form.actions method="post" action="/ui/tokens/revoke" {
                (hidden_fields(&visitor)?)
                input type="hidden" name="name" value=(name);
                button.danger.primary type="submit" { "Revoke it" }
                a.button href=(PATH) { "Leave it" }
            }
            (command(&format!("tidegate token revoke --name {}", shell_word(name))))
        }
    };
    Page { title: "Revoke a token?", menu: PATH, live: "", body }.show(&visitor)
}

/// Revokes a token.
async fn revoke(form: Form) -> Result<Response, PageError> {
    let name = form.get("name");
    form.visitor
        .api
        .send(Write::json(Method::DELETE, format!("tokens/{}", encoded(name)), &Value::Null))
        .await?;
    form.visitor.note(format!("{name} is revoked."));
    Ok(see_other(PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_makes_what_the_form_does() {
        assert_eq!(Typed::default().command(), "tidegate token create --name NAME --role read");
        let typed = Typed {
            name: "on call".to_owned(),
            role: "operate".to_owned(),
            ttl: "90d".to_owned(),
            ..Typed::default()
        };
        assert_eq!(typed.command(), "tidegate token create --name 'on call' --role operate --expires 90d");
    }
}
