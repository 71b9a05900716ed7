//! Explain: what would happen to a request, and why, without sending one.

mod answer;
mod drawn;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::{Markup, html};
use serde::Deserialize;

use crate::answers::Items;
use crate::api::{ApiError, Problem, encoded};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::page::{Page, command, form_problem};
use crate::query::PageQuery;
use crate::show::sentence::sentence;
use crate::show::shell::shell_word;
use crate::visitor::Visitor;
use answer::Explanation;

const PATH: &str = "/ui/explain";
/// Methods that are offered; others can be in the address.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// The page here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page))
}

#[derive(Deserialize)]
struct Listener {
    name: String,
}

/// A request as the form describes it.
struct Described {
    method: String,
    scheme: String,
    host: String,
    path: String,
    ip: String,
    country: String,
    listener: String,
    headers: String,
}

impl Described {
    /// From the page's address. A whole URL in the place of the path is taken apart.
    fn of(query: &PageQuery) -> Self {
        let text = |name: &str| query.get(name).to_owned();
        let mut described = Self {
            method: text("method"),
            scheme: text("scheme"),
            host: text("host"),
            path: text("path"),
            ip: text("ip"),
            country: text("country"),
            listener: text("listener"),
            headers: query.get("headers").replace("\r\n", "\n"),
        };
        if let Some((scheme, rest)) = described.path.split_once("://") {
            let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            (described.scheme, described.host, described.path) = (scheme.to_owned(), host.to_owned(), path);
        }
        described
    }

    fn is_empty(&self) -> bool {
        self.path.is_empty() && self.host.is_empty() && self.ip.is_empty()
    }

    fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    fn header_lines(&self) -> impl Iterator<Item = &str> {
        self.headers.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// The fields that the API has under the same name, as far as they are given.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = [
            ("method", self.method.as_str()),
            ("scheme", &self.scheme),
            ("host", &self.host),
            ("path", self.path()),
            ("ip", &self.ip),
            ("country", &self.country),
            ("listener", &self.listener),
        ];
        let headers = self.header_lines().map(|line| ("header", line));
        fields.into_iter().filter(|(_, value)| !value.is_empty()).chain(headers)
    }

    /// The API's path.
    fn asked(&self) -> String {
        let query: Vec<String> =
            self.given().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        format!("explain?{}", query.join("&"))
    }

    fn command(&self) -> String {
        let scheme = if self.scheme.is_empty() { "http" } else { &self.scheme };
        let host = if self.host.is_empty() { "127.0.0.1" } else { &self.host };
        let mut text =
            format!("tidegate explain {}", shell_word(&format!("{scheme}://{host}{}", self.path())));
        for (name, value) in self.given() {
            let option = match name {
                "method" if value != "GET" => "-X",
                "header" => "-H",
                "ip" => "--ip",
                "country" => "--country",
                "listener" => "--listener",
                _ => continue,
            };
            text.push_str(&format!(" {option} {}", shell_word(value)));
        }
        text
    }
}

async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let described = Described::of(&query);
    let listeners: Items<Listener> = visitor.api.get("listeners?limit=1000").await?;
    let (mut status, mut problem, mut answer) = (StatusCode::OK, None, Markup::default());
    if !described.is_empty() {
        match visitor.api.get::<Explanation>(&described.asked()).await {
            Ok(explanation) => answer = drawn::show(&explanation),
            Err(ApiError::Problem(refused)) if refused.status != 401 => {
                status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
                problem = Some(refused);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let body = html! {
        p { "What would happen to this request, and why? It is decided as gateways decide it, on the tables as they are now." }
        (form_problem(problem.as_deref()))
        (form(&described, &listeners.items, problem.as_deref()))
        (answer)
        @if !described.is_empty() { (command(&described.command())) }
    };
    Ok((status, Page { title: "Explain", menu: PATH, live: "", body }.show(&visitor)?).into_response())
}

fn form(described: &Described, listeners: &[Listener], problem: Option<&Problem>) -> Markup {
    let methods = METHODS.iter().copied().map(str::to_owned);
    let other = Some(described.method.clone()).filter(|method| !METHODS.contains(&method.as_str()));
    let methods: Vec<String> = methods.chain(other.filter(|method| !method.is_empty())).collect();
    let schemes = ["", "http", "https"].map(str::to_owned);
    let listeners: Vec<String> =
        std::iter::once(String::new()).chain(listeners.iter().map(|one| one.name.clone())).collect();
    html! {
        form.card.stacked method="get" action=(PATH) {
            div.fields {
                (choice("method", "Method", &methods, &described.method, problem))
                (choice("scheme", "Scheme", &schemes, &described.scheme, problem))
                (field("host", "Host", "shop.example.com", &described.host, problem))
                div.wide {
                    label for="path" { "Path with its query, or a whole URL" }
                    (input("path", "/cart?id=7", &described.path, problem))
                }
            }
            div.fields {
                (field("ip", "Client address", "203.0.113.7", &described.ip, problem))
                (field("country", "or its country", "DE", &described.country, problem))
                (choice("listener", "Listener", &listeners, &described.listener, problem))
            }
            div {
                label for="headers" { "Headers, one a line" }
                textarea.code #headers name="headers" rows="2" spellcheck="false" placeholder="X-Version: 2"
                    aria-invalid=[wrong("header", problem).map(|_| "true")]
                    aria-describedby=[wrong("header", problem).map(|_| "headers-problem")] { "\n" (described.headers) }
                @if let Some(detail) = wrong("header", problem) { p.field-problem #headers-problem { (sentence(detail)) } }
            }
            button.primary type="submit" { "Explain" }
        }
    }
}

fn wrong<'p>(name: &str, problem: Option<&'p Problem>) -> Option<&'p str> {
    problem.and_then(|problem| problem.of_field(name))
}

fn field(name: &str, label: &str, example: &str, value: &str, problem: Option<&Problem>) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            (input(name, example, value, problem))
        }
    }
}

fn input(name: &str, example: &str, value: &str, problem: Option<&Problem>) -> Markup {
    let detail = wrong(name, problem);
    html! {
        input id=(name) name=(name) value=(value) placeholder=(example) autocomplete="off" autocapitalize="off" spellcheck="false"
            aria-invalid=[detail.map(|_| "true")] aria-describedby=[detail.map(|_| format!("{name}-problem"))];
        @if let Some(detail) = detail { p.field-problem id={ (name) "-problem" } { (sentence(detail)) } }
    }
}

fn choice(name: &str, label: &str, values: &[String], chosen: &str, problem: Option<&Problem>) -> Markup {
    let detail = wrong(name, problem);
    html! {
        div {
            label for=(name) { (label) }
            select id=(name) name=(name) aria-invalid=[detail.map(|_| "true")]
                aria-describedby=[detail.map(|_| format!("{name}-problem"))] {
                @for value in values {
                    option value=(value) selected[value == chosen] { @if value.is_empty() { "not said" } @else { (value) } }
                }
            }
            @if let Some(detail) = detail { p.field-problem id={ (name) "-problem" } { (sentence(detail)) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let described =
            Described::of(&PageQuery::read("path=https%3A%2F%2Fa.example%3Fq%3D1&host=b&method=POST"));
        assert_eq!(
            (described.scheme.as_str(), described.host.as_str(), described.path()),
            ("https", "a.example", "/?q=1")
        );
        assert_eq!(described.asked(), "explain?method=POST&scheme=https&host=a.example&path=%2F%3Fq%3D1");
    }

    #[test]
    fn the_command_asks_the_same() {
        let query = "method=GET&host=a.example&path=%2Fx&ip=192.0.2.1&headers=A%3A+1%0D%0A%0D%0AB%3A+it's";
        let described = Described::of(&PageQuery::read(query));
        assert_eq!(
            described.command(),
            r"tidegate explain http://a.example/x --ip 192.0.2.1 -H 'A: 1' -H 'B: it'\''s'"
        );
        assert!(
            described.asked().ends_with("&header=A%3A%201&header=B%3A%20it%27s"),
            "{}",
            described.asked()
        );
        assert!(Described::of(&PageQuery::read("method=GET")).is_empty());
    }
}
