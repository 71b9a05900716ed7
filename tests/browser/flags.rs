//! The rollout, as an operator sees it.

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_stack::FlagsAtStart;
use tidegate_stack::http::{self, Method, Request};

use crate::browser::{Browser, LIMIT};
use crate::scene::Scene;

#[test]
fn a_rollout_is_seen_and_taken_back() {
    let scene = Scene::with("flags", |options| options.flags = FlagsAtStart::Off).unwrap();
    a_flag_is_set_and_seen_on_the_chart(&scene).unwrap();
    a_share_that_is_none_is_refused(&scene).unwrap();
    all_flags_are_taken_back(&scene).unwrap();
}

fn section(flag: &str) -> String {
    format!("section[aria-labelledby={flag}-heading]")
}

fn set(browser: &Browser<'_>, flag: &str, state: &str) -> Result<()> {
    browser.open("/ui/rollout")?;
    browser.part(&section(flag)).choose("State", state)?;
    browser.part(&section(flag)).press("Set")
}

fn a_flag_is_set_and_seen_on_the_chart(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        ensure!(browser.count("#charts svg .mark")? == 0, "a change is marked already");
        set(browser, "enableIpBlacklistCache", "shadow")?;
        browser.part(".notice").wait_text("enableIpBlacklistCache is shadow. 1 of 1 gateways enforce it by now.")?;
        browser.part("#enforced").check_text("enforces it")?;
        for _ in 0..20 {
            http::send(scene.stack.gate(), &Request::get("/"))?;
        }
        scene.stack.recorded(LIMIT)?;
        // By itself, without loading anything.
        browser.wait("the page counts what was compared", || {
            let shown = browser.part("#enableIpBlacklistCache").text()?;
            let compared = shown.split_once("Compared in shadow").map_or("", |(_, rest)| rest.trim());
            let compared: u64 = compared.split_whitespace().next().unwrap_or("0").parse()?;
            Ok((compared >= 20).then_some(()))
        })?;
        browser.part("#mismatches").check_text("No request was answered differently")?;
        browser.follow("Overview")?;
        browser.wait_heading("Overview")?;
        let title = "return document.querySelector('#charts svg .mark').parentElement.querySelector('title').textContent";
        let title = browser.run_script(title, Vec::new())?;
        let title = title.as_str().unwrap_or_default();
        ensure!(title.contains("enableIpBlacklistCache") && title.contains("shadow"), "{title}");
        ensure!(browser.count("#charts svg .mark")? == 3, "it is not on each chart");
        browser.part("#charts").check_text("Changes in this time: 1")
    })
}

fn a_share_that_is_none_is_refused(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/rollout")?;
        let form = "section[aria-labelledby=enableRouteCache-heading] form";
        let of = |name: &str| browser.hidden(form, name);
        let (form_token, once, was) = (of("form_token")?, of("once")?, of("was")?);
        let fields = [
            ("form_token", &*form_token),
            ("once", &*once),
            ("was", &*was),
            ("flag", "enableRouteCache"),
            ("state", "percent"),
            ("percent", "120"),
        ];
        let answer = browser.post("/ui/rollout", &fields)?;
        ensure!(answer.status == 400 || answer.status == 422, "{}: {}", answer.status, answer.text());
        ensure!(answer.text().contains("Nothing was changed"), "{}", answer.text());
        // Two at the same page: the second is told.
        set(browser, "enableRouteCache", "on")?;
        browser.part(".notice").wait_text("enableRouteCache is on.")?;
        let late =
            [("state", "off"), ("was", &*was), ("flag", "enableRouteCache"), ("form_token", &*form_token)];
        let answer = browser.post("/ui/rollout", &late)?;
        ensure!(answer.status == 412, "{}: {}", answer.status, answer.text());
        Ok(())
    })
}

fn all_flags_are_taken_back(scene: &Scene) -> Result<()> {
    let flags = || scene.stack.api_ok(Method::GET, "/api/admin/optimization/flags", None);
    let is = |flags: &Value, state: bool| {
        flags.as_object().is_some_and(|all| all.values().all(|one| *one == state))
    };
    scene.visit_signed_in(|browser| {
        scene.stack.all_flags(true)?;
        ensure!(is(&flags()?, true), "{}", flags()?);
        // The same button on each page, and it asks once.
        for page in ["/ui/", "/ui/events", "/ui/audit"] {
            browser.open(page)?;
            browser.follow("All flags off")?;
            browser.wait_heading("All flags off?")?;
        }
        browser.follow("Leave them as they are")?;
        browser.wait_heading("Rollout")?;
        ensure!(is(&flags()?, true), "{}", flags()?);
        browser.follow("All flags off")?;
        browser.press("Turn all five flags off")?;
        browser.part(".notice").wait_text("All five flags are off. 1 of 1 gateways enforce it by now.")?;
        ensure!(is(&flags()?, false), "{}", flags()?);
        browser.open("/ui/audit?kind=flag")?;
        browser.page().check_text("enableAsyncRecording")
    })
}
