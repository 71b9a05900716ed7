//! A rollout that runs itself, as an operator sees it.

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_stack::FlagsAtStart;
use tidegate_stack::http::{self, Method, Request};

use crate::browser::{Browser, LIMIT};
use crate::scene::Scene;

/// A plan whose first stage waits for approval, and whose second is held for long. `SHARE` takes a number.
const PLAN: &str = "\
description: routes first
stages:
- name: in shadow
  flags:
    enableRouteCache: shadow
  hold: 1s
  min_requests: 20
  approve: true
  gates:
  - mismatches:
      at_most: 0
      compared_at_least: 20
- name: for half
  flags:
    enableRouteCache:
      percent: SHARE
  hold: 1h
  min_requests: 1000
  gates:
  - latency:
      of: total
      percentile: 95
      at_most_times_control: 1.5
  - success:
      at_least: 0.99
";

#[test]
fn a_rollout_is_run_from_the_page() {
    let scene = Scene::with("rollouts", |options| options.flags = FlagsAtStart::Off).unwrap();
    a_plan_is_made(&scene).unwrap();
    its_run_is_started_approved_and_seen(&scene).unwrap();
    the_overview_tells_of_it(&scene).unwrap();
    who_may_only_read_sees_it_and_no_buttons(&scene).unwrap();
    it_is_aborted_when_it_was_asked_twice(&scene).unwrap();
}

fn a_plan_is_made(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.follow("Automatic rollouts")?;
        browser.page().check_text("tidegate rollout template guide")?;
        browser.follow("New rollout")?;
        browser.fill("So many times as fast", "10000")?;
        browser.press("Fill in the plan")?;
        browser.wait("the plan is the faster one", || {
            Ok(browser.value("#document")?.contains("hold: 8s640ms").then_some(()))
        })?;
        ensure!(browser.value("#name")? == "guide", "the plan of the guide has another name");
        browser.fill("Name", "canary")?;
        browser.page().paste("YAML", &PLAN.replace("SHARE", "120"))?;
        browser.press("Make it")?;
        browser.part("#document-problem").wait_text("Line 16")?;
        browser.part("#document-problem").check_text("/stages/1/flags/enableRouteCache")?;
        browser.page().paste("YAML", &PLAN.replace("SHARE", "50"))?;
        browser.press("Make it")?;
        browser.part(".notice").wait_text("Saved: rollout canary. It does nothing until it is started.")?;
        browser.wait_heading("Rollout canary")?;
        browser.part("#state").check_text("not started")?;
        browser.part(".stages").check_text("enableRouteCache shadow")
    })
}

/// Requests of several clients.
fn traffic(scene: &Scene) -> Result<()> {
    for client in 1..=10 {
        http::send(scene.stack.gate(), &Request::get("/").from(&format!("11.1.2.{client}")))?;
    }
    Ok(())
}

/// Sends requests until a part of the page, which is not loaded anew, shows a text.
fn wait_with_traffic(scene: &Scene, browser: &Browser<'_>, css: &str, text: &str) -> Result<()> {
    browser.wait(&format!("{css} shows {text}"), || {
        traffic(scene)?;
        Ok(browser.part(css).text().ok().filter(|shown| shown.contains(text)).map(drop))
    })
}

fn its_run_is_started_approved_and_seen(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/rollouts/canary")?;
        browser.press("Start")?;
        browser
            .part(".notice")
            .wait_text("The rollout canary has started. 1 of 1 gateways enforce it by now.")?;
        browser.page().check_text("Command line: tidegate rollout pause canary")?;
        wait_with_traffic(scene, browser, "#state", "waits for approval")?;
        browser.part("#gates").check_text("mismatches at most 0")?;
        browser.part("#gates").check_text("100 %")?;
        browser.press("Approve")?;
        browser.part(".notice").wait_text("The rollout canary is approved, and goes on.")?;
        browser.part(".stages .done").check_text("in shadow")?;
        browser.part(".stages .now").check_text("for half")?;
        browser.part("#run-decisions").check_text("passed")?;
        wait_with_traffic(scene, browser, "#run-curves", "P95 control")?;
        browser.part("#run-curves").check_text("Requests by group")?;
        wait_with_traffic(scene, browser, "#gates", "success at least 99 %")?;
        let answer = http::send(
            scene.stack.people(),
            &Request::get("/ui/rollouts/canary/report?format=markdown").header("cookie", browser.cookie()?),
        )?;
        ensure!(answer.status == 200 && answer.text().contains("in shadow"), "{}", answer.text());
        // Who is late is told, and the page shows what there is to do now: what was approved is not the next stage.
        let form = "#ask-form";
        let (form_token, once) = (browser.hidden(form, "form_token")?, browser.hidden(form, "once")?);
        let late = [("form_token", &*form_token), ("once", &*once), ("ask", "approve")];
        let answer = browser.post("/ui/rollouts/canary/ask?run=1&stage=1", &late)?;
        ensure!(
            answer.status == 409 && answer.text().contains("run_moved_on"),
            "{}: {}",
            answer.status,
            answer.text()
        );
        Ok(())
    })
}

fn the_overview_tells_of_it(scene: &Scene) -> Result<()> {
    scene.stack.recorded(LIMIT)?;
    scene.visit_signed_in(|browser| {
        browser.part("#rollouts").check_text("in stage 2 of 2, for half")?;
        let titles = "return [...document.querySelectorAll('#charts svg .mark')].map((mark) => mark.parentElement.textContent)";
        let titles = browser.run_script(titles, Vec::new())?.to_string();
        for part in ["rollout canary", "in shadow", "for half"] {
            ensure!(titles.contains(part), "{part}: {titles}");
        }
        browser.part("#rollouts").follow("Rollout canary")?;
        browser.wait_heading("Rollout canary")
    })
}

fn who_may_only_read_sees_it_and_no_buttons(scene: &Scene) -> Result<()> {
    let (token, _) = scene.token("watcher", "read")?;
    scene.visit(|browser| {
        browser.sign_in(&token)?;
        browser.open("/ui/rollouts/canary")?;
        browser.part("#state").wait_text("running")?;
        ensure!(
            browser.count("#run-asks button:not(.copy), #run-asks a.button")? == 0,
            "it is offered buttons"
        );
        ensure!(browser.count("#ask-form")? == 0, "it is offered a form");
        let form_token = browser.hidden("details.account form", "form_token")?;
        let fields = [("form_token", &*form_token), ("ask", "abort")];
        let answer = browser.post("/ui/rollouts/canary/ask", &fields)?;
        ensure!(answer.status == 403, "{}: {}", answer.status, answer.text());
        Ok(())
    })
}

fn it_is_aborted_when_it_was_asked_twice(scene: &Scene) -> Result<()> {
    let flag = || -> Result<Value> {
        let flags = scene.stack.api_ok(Method::GET, "/api/admin/optimization/flags", None)?;
        Ok(flags["enableRouteCache"].clone())
    };
    scene.visit_signed_in(|browser| {
        ensure!(flag()?["percent"] == 50, "{}", flag()?);
        browser.open("/ui/rollouts/canary")?;
        browser.follow("Abort…")?;
        browser.wait_heading("Abort the rollout canary?")?;
        browser.follow("Let it go on")?;
        browser.wait_heading("Rollout canary")?;
        ensure!(flag()?["percent"] == 50, "{}", flag()?);
        browser.follow("Abort…")?;
        browser.press("Abort the run")?;
        browser.part(".notice").wait_text("The rollout canary is aborted")?;
        browser.part("#state").check_text("aborted")?;
        browser.part("#why").check_text("It was aborted")?;
        ensure!(flag()? == false, "{}", flag()?);
        Ok(())
    })
}
