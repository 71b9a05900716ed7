//! The rollout: the five flags, what each does now, and what changed since it was set.

mod before_after;
mod flag;
mod mismatches;

use std::collections::BTreeMap;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answers::Gateway;
use crate::api::{ApiError, Problem, Write};
use crate::chart::{ShareBar, share_bar};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::flag_state::State;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command, command_of_form, form_problem};
use crate::part::Part;
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::role::Role;
use crate::show::number::{count, percent};
use crate::show::text::{foreign, visible};
use crate::show::time;
use crate::visitor::Visitor;
use before_after::LastChange;
use flag::{FLAGS, Flag};

/// The path of the page.
const PATH: &str = "/ui/rollout";
/// The flags in the API.
const API: &str = "optimization/flags";

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(PATH, get(page).post(set))
        .route("/ui/rollout/all-off", get(ask_all_off).post(all_off))
}

/// The flags with their effect.
#[derive(Deserialize)]
struct Flags {
    #[serde(flatten)]
    states: Map<String, Value>,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    version: String,
    checks: BTreeMap<String, Check>,
    changed: BTreeMap<String, Option<LastChange>>,
    gateways: Vec<Gateway>,
}

/// How one check is answered.
#[derive(Deserialize)]
struct Check {
    flag: String,
    clients: Clients,
    asked: u64,
    hit_ratio: Option<f64>,
    fallback: u64,
    unavailable: u64,
    compared: u64,
    mismatched: u64,
    lagging: u64,
}

/// Of a hundred clients.
#[derive(Deserialize)]
struct Clients {
    cached: u8,
    shadow: u8,
    direct: u8,
}

/// Answers the page.
async fn page(visitor: Visitor) -> Result<Response, PageError> {
    show(&visitor, None).await
}

/// The page, with what was wrong with a form.
async fn show(visitor: &Visitor, problem: Option<&Problem>) -> Result<Response, PageError> {
    let query = PageQuery::default();
    let (tagged, parts, earlier) = try_join!(
        async { visitor.api.get_tagged(API).await.map_err(PageError::from) },
        parts(visitor, &query),
        before_after::earlier(&visitor.api)
    )?;
    let states = tagged.document.as_object().cloned().unwrap_or_default();
    let body = html! {
        p {
            "Five flags move a gateway from asking the service about every request to deciding by itself. Switch them \
             on in this order, each in shadow or for a share of the clients first; "
            strong { "All flags off" } " takes everything back at once. "
            a href="/ui/rollouts" { "A rollout that runs itself" } " does it in stages, measures each, and goes back when a gate fails."
        }
        (form_problem(problem))
        @for (number, flag) in FLAGS.iter().enumerate() {
            section.card aria-labelledby={ (flag.name) "-heading" } {
                div.heading {
                    h2 id={ (flag.name) "-heading" } { (number + 1) ". " code { (flag.name) } }
                }
                p.quiet { (flag.does) }
                @if visitor.may(Role::Operate) { (form(visitor, flag, &states)?) }
                @for part in parts.iter().filter(|part| part.id == flag.name) { (part.in_page()) }
            }
        }
        (earlier)
        @for part in parts.iter().filter(|part| FLAGS.iter().all(|flag| flag.name != part.id)) { (part.in_page()) }
    };
    let response = Page { title: "Rollout", menu: PATH, live: "/ui/live/rollout", body }.show(visitor)?;
    let status =
        problem.and_then(|problem| StatusCode::from_u16(problem.status).ok()).unwrap_or(StatusCode::OK);
    Ok((status, response).into_response())
}

/// The parts of the page that change by themselves: one for each flag, and the gateways and mismatches.
pub async fn parts(visitor: &Visitor, _: &PageQuery) -> Result<Vec<Part>, PageError> {
    let flags: Flags = visitor.api.get(&format!("{API}?status=1")).await?;
    let (examples, effects) =
        try_join!(mismatches::ask(&visitor.api), before_after::ask(&visitor.api, &flags.status.changed))?;
    let mut parts = Vec::new();
    for flag in &FLAGS {
        let check = flags.status.checks.values().find(|check| check.flag == flag.name);
        let changed = flags.status.changed.get(flag.name).and_then(Option::as_ref);
        let body = html! {
            p { "Now " (State::read(flags.states.get(flag.name)).tag()) }
            @if let Some(check) = check { (figures(check)) }
            (last_change(changed))
            @if let Some(effect) = effects.iter().find(|effect| effect.flag == flag.name) { (effect.show()) }
        };
        parts.push(Part::new(flag.name, body));
    }
    parts.push(Part::new("mismatches", mismatches::show(&examples)));
    parts.push(Part::new("enforced", enforced(&flags.status)));
    Ok(parts)
}

/// The form that sets one flag.
fn form(visitor: &Visitor, flag: &Flag, states: &Map<String, Value>) -> Result<Markup, PageError> {
    let now = State::read(states.get(flag.name));
    let id = |what: &str| format!("{}-{what}", flag.name);
    Ok(html! {
        form.fields id=(id("form")) method="post" action=(PATH) {
            (hidden_fields(visitor)?)
            input type="hidden" name="flag" value=(flag.name);
            input type="hidden" name="was" value=(states.get(flag.name).unwrap_or(&Value::Null));
            div {
                label for=(id("state")) { "State" }
                select id=(id("state")) name="state" {
                    @for (value, words) in State::CHOICES {
                        @if value != "shadow" || flag.has_shadow {
                            option value=(value) selected[now.value() == value]
                                data-words={ (flag.name) "=" @if value == "percent" { "{percent}%" (now.options()) } @else { (value) } } { (words) }
                        }
                    }
                }
            }
            div {
                label for=(id("percent")) { "Percent, where it is a share" }
                input.short id=(id("percent")) name="percent" type="number" min="0" max="100" step="1"
                    value=(now.percent());
            }
            div.actions { button type="submit" { "Set" } }
        }
        @if !now.limits().is_empty() {
            p.quiet { "It is limited to " (foreign(&now.limits())) ". A share that is set here stays so; any other state is for all requests." }
        }
        (command_of_form(&id("form"), "tidegate flags set", &format!("tidegate flags set {}={}", flag.name, now.argument())))
    })
}

fn figures(check: &Check) -> Markup {
    let clients = &check.clients;
    let words = format!(
        "{} % of the clients from the cache, {} % in shadow, {} % directly",
        clients.cached, clients.shadow, clients.direct
    );
    let part = |name, ink, amount: u8| ShareBar { name, ink, amount: amount.into() };
    let bar = [
        part("from the cache", "cached", clients.cached),
        part("in shadow", "shadow", clients.shadow),
        part("directly", "direct", clients.direct),
    ];
    html! {
        p { (words) (share_bar(&bar, 100.0, &words)) }
        @if check.asked == 0 {
            p.empty { "No request was checked yet: send one through a gateway, and figures are here within seconds." }
        } @else { (counts(check)) }
    }
}

fn counts(check: &Check) -> Markup {
    html! {
        dl.figures {
            div { dt { "Asked" } dd { (count(check.asked)) small { "since the beginning" } } }
            div { dt { "From the cache" } dd { (check.hit_ratio.map_or_else(|| "–".to_owned(), percent)) } }
            div { dt { "Compared in shadow" } dd { (count(check.compared)) } }
            div { dt { "Differed" } dd { (count(check.mismatched)) small { "of these, because the cache was not yet up to date: " (count(check.lagging)) } } }
            div {
                dt { "Not answered by the service" }
                dd { (count(check.fallback + check.unavailable)) small {
                    "the cache answered " (count(check.fallback)) " in its place; for " (count(check.unavailable)) " nothing could, and "
                    code { "on_unavailable" } " decided"
                } }
            }
        }
    }
}

fn last_change(change: Option<&LastChange>) -> Markup {
    let Some(change) = change else {
        return html! { p.quiet { "Never set through the API: it is as it was at first, or as SQL has set it." } };
    };
    html! {
        p.quiet {
            "Set " (time::relative(&change.at.to_string(), Timestamp::now())) " by " (foreign(&change.by)) ": from "
            (State::read(change.from.as_ref()).tag()) " to " (State::read(change.to.as_ref()).tag())
        }
    }
}

/// Which gateways have the flags as they are.
fn enforced(status: &Status) -> Markup {
    html! {
        section.card aria-labelledby="enforced-heading" {
            h2 #enforced-heading { "What gateways enforce" }
            @if status.gateways.is_empty() { p.empty { "No gateway has reported yet. Start an Envoy with the filter: " code { "docs/DEPLOY.md" } "." } }
            @else {
                p { "The service is at version " code { (status.version) } "." }
                ul { @for gateway in &status.gateways {
                    li { (foreign(&gateway.node)) " " (gateway.state()) " " (gateway.enforces_tag(&status.version)) }
                } }
            }
        }
    }
}

/// Sets one flag.
async fn set(form: Form) -> Result<Response, PageError> {
    let flag = form.get("flag");
    let was: Value = serde_json::from_str(form.get("was")).unwrap_or_default();
    let state = match form.get("state") {
        "on" => json!(true),
        "shadow" => json!("shadow"),
        "percent" => {
            // What a share is limited to stays. The API says what would be right.
            let mut share = was.as_object().cloned().unwrap_or_default();
            let percent = form.get("percent");
            share.insert(
                "percent".to_owned(),
                percent.parse::<u8>().map_or_else(|_| percent.into(), Value::from),
            );
            Value::Object(share)
        }
        _ => json!(false),
    };
    let words = State::read(Some(&state)).words();
    let now = form.visitor.api.get_tagged(API).await?;
    if now.document.get(flag).unwrap_or(&Value::Null) != &was {
        return show(&form.visitor, Some(&changed_meanwhile(flag))).await;
    }
    let write = Write::json(Method::PUT, format!("{API}?wait_applied=2s"), &json!({ flag: state }));
    match form.visitor.api.send(write.if_unchanged(&now.etag)).await {
        Ok(answer) => {
            form.visitor.note(format!("{flag} is {words}. {}", applied(&answer)));
            Ok(see_other(PATH))
        }
        Err(ApiError::Problem(problem)) if problem.status == 412 => {
            show(&form.visitor, Some(&changed_meanwhile(flag))).await
        }
        Err(ApiError::Problem(problem)) if problem.status < 500 && problem.status != 401 => {
            show(&form.visitor, Some(&problem)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// What is said to the second of two operators.
fn changed_meanwhile(flag: &str) -> Problem {
    Problem {
        status: 412,
        code: "precondition_failed".to_owned(),
        title: format!("{} was changed meanwhile", visible(flag)),
        detail: "This page has all flags as they are now: look again, and set it if that is still right."
            .to_owned(),
        errors: Vec::new(),
    }
}

/// Asks once whether all flags are to be off.
async fn ask_all_off(visitor: Visitor) -> Result<Response, PageError> {
    let body = html! {
        section.card {
            p { "Every request is then decided by the service's database, and recorded before it is answered, as before the rollout. Bans, geo rules, limits and routes go on as they are." }
            form.actions method="post" action="/ui/rollout/all-off" {
                (hidden_fields(&visitor)?)
                button.danger.primary type="submit" { "Turn all five flags off" }
                a.button href=(PATH) { "Leave them as they are" }
            }
            (command(&format!("tidegate flags set {}", FLAGS.map(|flag| format!("{}=off", flag.name)).join(" "))))
        }
    };
    Page { title: "All flags off?", menu: PATH, live: "", body }.show(&visitor)
}

/// Turns all flags off.
async fn all_off(form: Form) -> Result<Response, PageError> {
    let off: Map<String, Value> = FLAGS.iter().map(|flag| (flag.name.to_owned(), json!(false))).collect();
    let write = Write::json(Method::PUT, format!("{API}?wait_applied=5s"), &Value::Object(off));
    let answer = form.visitor.api.send(write).await?;
    form.visitor.note(format!("All five flags are off. {}", applied(&answer)));
    Ok(see_other(PATH))
}

/// How many gateways enforce a write that was waited for.
pub fn applied(answer: &Value) -> String {
    let number = |name: &str| answer["applied"][name].as_u64().unwrap_or_default();
    let (enforcing, all, lost) = (number("gateways"), number("of"), number("lost"));
    let lost = if lost > 0 { format!("; {lost} are lost, so nobody knows of these") } else { String::new() };
    match all {
        0 => format!("No gateway is live{lost}."),
        _ => format!("{enforcing} of {all} gateways enforce it by now{lost}."),
    }
}
