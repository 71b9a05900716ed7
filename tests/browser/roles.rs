//! Who may only read, and who reads on a telephone, by keyboard, or without JavaScript.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::Method;

use crate::all_pages;
use crate::browser::Browser;
use crate::chromium::Settings;
use crate::filled;
use crate::scene::Scene;

/// Marks what the tabulator key should stop at, and gives how many that are. Of radio buttons it is the chosen one.
const MARK_STOPS: &str = "
const all = document.querySelectorAll('a[href], button, summary, select, textarea, [tabindex=\"0\"], input');
const skipped = 'input[type=hidden], input[type=radio]:not(:checked), :disabled';
const stops = [...all].filter((one) => one.checkVisibility() && !one.matches(skipped));
for (const one of stops) one.dataset.stop = '1';
return stops.length;
";
/// Those that the focus has not reached.
const MISSED_STOPS: &str =
    "return [...document.querySelectorAll('[data-stop]:not([data-reached])')].map((one) => one.outerHTML)";
/// A telephone.
const PHONE: (u32, u32) = (390, 844);

#[test]
fn pages_are_for_all_readers() {
    let scene = Scene::with("readers", filled::options).unwrap();
    let filled = filled::fill(&scene.stack).unwrap();
    filled::rollouts(&scene.stack).unwrap();
    let pages = all_pages::all(&scene.stack, &filled).unwrap();
    who_may_only_read_is_offered_nothing_else(&scene, &pages).unwrap();
    a_telephone_shows_all_pages(&scene, &pages).unwrap();
    pages_are_read_without_scripts(&scene, &pages).unwrap();
    a_page_is_used_by_keyboard(&scene).unwrap();
    somebody_is_banned_by_keyboard(&scene).unwrap();
}

fn who_may_only_read_is_offered_nothing_else(scene: &Scene, pages: &[all_pages::Page]) -> Result<()> {
    let (token, _) = scene.token("watcher", "read")?;
    scene.visit(|browser| {
        browser.sign_in(&token)?;
        for page in pages.iter().filter(|page| page.role == "read") {
            browser.open(&page.path)?;
            browser.wait_heading(page.heading)?;
            let forms = "form[method=post]:not([action='/ui/sign-out'])";
            ensure!(browser.count(forms)? == 0, "{} offers a form", page.path);
            ensure!(browser.count("a.danger")? == 0, "{} offers a button", page.path);
        }
        ensure!(browser.count("a[href='/ui/tokens']")? == 0, "tokens are in the menu");
        let form_token = browser.hidden("details.account form", "form_token")?;
        let fields = [("form_token", &*form_token), ("name", "x"), ("role", "admin"), ("ip", "11.1.1.1")];
        for path in ["/ui/rollout/all-off", "/ui/tokens", "/ui/bans/ban"] {
            let answer = browser.post(path, &fields)?;
            ensure!(answer.status == 403, "{path}: {} {}", answer.status, answer.text());
        }
        browser.open("/ui/tokens")?;
        browser.wait_text("wrong_role")
    })?;
    let flags = scene.stack.api_ok(Method::GET, "/api/admin/optimization/flags", None)?;
    ensure!(flags["enableRouteCache"] == true, "{flags}");
    Ok(())
}

fn a_telephone_shows_all_pages(scene: &Scene, pages: &[all_pages::Page]) -> Result<()> {
    scene.visit(|browser| {
        browser.set_width(PHONE.0, PHONE.1, true)?;
        browser.sign_in(scene.stack.token())?;
        for page in pages {
            browser.open(&page.path)?;
            browser.wait_heading(page.heading)?;
            browser.check_width()?;
        }
        every_page_of_the_menu_is_there(browser, pages)?;
        browser.press("Menu")?;
        browser.part(".small-menu").follow("Rollout")?;
        browser.wait_heading("Rollout")
    })
}

/// The list that tests and pictures go by has what the menu has.
fn every_page_of_the_menu_is_there(browser: &Browser<'_>, pages: &[all_pages::Page]) -> Result<()> {
    let links = "return [...document.querySelectorAll('nav a')].map((link) => link.getAttribute('href'))";
    let links = browser.run_script(links, Vec::new())?;
    for link in links.as_array().into_iter().flatten().filter_map(|link| link.as_str()) {
        let is_listed = pages.iter().any(|page| page.path.split('?').next() == Some(link));
        ensure!(is_listed, "{link} is not in tests/browser/all_pages.rs");
    }
    Ok(())
}

fn pages_are_read_without_scripts(scene: &Scene, pages: &[all_pages::Page]) -> Result<()> {
    scene.visit_with(Settings { no_script: true }, |browser| {
        browser.sign_in(scene.stack.token())?;
        for page in pages {
            browser.open(&page.path)?;
            browser.wait_heading(page.heading)?;
        }
        browser.open("/ui/events?follow=1")?;
        browser.page().check_text("As it was when it was loaded.")?;
        browser.follow("Load anew")?;
        browser.wait_heading("Events")?;
        ensure!(browser.path()? == "/ui/events?follow=1", "{}", browser.path()?);
        browser.open("/ui/")?;
        browser.page().check_text("Times: UTC")?;
        browser.follow("All flags off")?;
        browser.press("Turn all five flags off")?;
        browser.part(".notice").wait_text("All five flags are off.")
    })?;
    scene.stack.all_flags(true)
}

/// The first stop is the way past the menu; a button is pressed with the key.
fn a_page_is_used_by_keyboard(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        press_key(browser, "\u{e004}")?;
        let focus =
            "return document.activeElement.textContent + ' ' + document.activeElement.getAttribute('href')";
        let focused = browser.run_script(focus, Vec::new())?;
        ensure!(focused == json!("To the content #content"), "{focused}");
        press_key(browser, "\u{e007}")?;
        browser.wait("the content has the focus", || {
            let id = browser.run_script("return document.activeElement.id", Vec::new())?;
            Ok((id == json!("content")).then_some(()))
        })
    })
}

/// The tabulator key leads through every page to all that can be used, and out of it: nothing holds the focus. A ban
/// needs nothing but keys.
fn somebody_is_banned_by_keyboard(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        // Pages that are not live: what has the focus is not made anew while keys are sent to it.
        for page in ["/ui/paths", "/ui/routes/moved", "/ui/explain", "/ui/bans/ban"] {
            browser.open(page)?;
            let stops = browser.run_script(MARK_STOPS, Vec::new())?;
            let stops = stops.as_u64().context("no number")?;
            ensure!(stops > 20, "{page} has {stops} stops");
            // A box that scrolls is a stop as well, for some browsers.
            for _ in 0..stops + 10 {
                press_key(browser, "\u{e004}")?;
                browser.run_script("document.activeElement.dataset.reached = '1'", Vec::new())?;
            }
            let missed = browser.run_script(MISSED_STOPS, Vec::new())?;
            ensure!(missed == json!([]), "keys do not reach on {page}: {missed}");
        }
        browser.run_script("document.getElementById('ban-ip').focus()", Vec::new())?;
        press_key(browser, "11.66.0.77")?;
        press_key(browser, "\u{e007}")?;
        browser.part(".notice").wait_text("11.66.0.77 is banned")
    })
}

fn press_key(browser: &Browser<'_>, key: &str) -> Result<()> {
    let element = browser.session.run(browser.session.client.active_element())?;
    Ok(browser.session.run(element.send_keys(key))?)
}
