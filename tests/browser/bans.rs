//! Bans, imports and sources.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::list_server::ListServer;

use crate::browser::LIMIT;
use crate::chromium::Settings;
use crate::scene::Scene;

/// Somebody of the internet.
const CLIENT: &str = "11.66.0.9";

#[test]
fn somebody_is_banned_and_let_in_again() {
    let scene = Scene::start("bans").unwrap();
    a_ban_holds_and_is_taken_back(&scene).unwrap();
    a_wrong_address_is_told_at_its_field(&scene).unwrap();
    a_ban_works_without_scripts(&scene).unwrap();
    a_list_is_looked_at_before_it_is_imported(&scene).unwrap();
    a_list_that_shrank_is_held_back_until_it_is_released(&scene).unwrap();
}

/// The status that the gate answers a client.
fn gate_answers(scene: &Scene, client: &str, path: &str) -> Result<u16> {
    Ok(http::send(scene.stack.gate(), &Request::get(path).from(client))?.status)
}

fn a_ban_holds_and_is_taken_back(scene: &Scene) -> Result<()> {
    ensure!(gate_answers(scene, CLIENT, "/before")? == 200, "it is banned already");
    scene.visit_signed_in(|browser| {
        browser.follow("Bans")?;
        browser.wait_heading("Bans")?;
        // It is open where there is no ban yet.
        browser.part("#ban-form").fill("Address or block", CLIENT)?;
        browser.part("#ban-form").fill("Reason", "password guessing")?;
        browser.part("#ban-form").choose("How long", "1 hour")?;
        let command = format!("tidegate ban {CLIENT} --reason 'password guessing' --ttl 1h");
        browser.part("code[data-form=ban-form]").check_text(&command)?;
        browser.part("#ban-form").press("Ban")?;
        browser.part(".notice").wait_text(&format!("{CLIENT} is banned until"))?;
        browser.wait_text("The gateway enforces it.")?;
        ensure!(gate_answers(scene, CLIENT, "/while-banned")? == 403, "the gate lets it in");
        scene.stack.recorded(LIMIT)?;
        browser.follow("Its requests")?;
        browser.wait_heading("Events")?;
        browser.part("#event-rows").check_text("/while-banned")?;
        browser.part("#event-rows").check_text("ip_banned")?;
        browser.follow("Bans")?;
        browser.part("form[role=search]").fill("Address or block", CLIENT)?;
        browser.press("Search")?;
        browser.part("#status").wait_text("banned")?;
        browser.part("#covering").check_text("password guessing")?;
        browser.part("#covering").press(&format!("Unban {CLIENT}"))?;
        browser.part("#status").wait_text("No entry covers it")?;
        browser.wait("the gate lets it in again", || {
            Ok((gate_answers(scene, CLIENT, "/after")? == 200).then_some(()))
        })
    })
}

fn a_wrong_address_is_told_at_its_field(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/bans/ban")?;
        browser.fill("Address or block", "11.66.0.300")?;
        browser.fill("Reason", "typed twice")?;
        browser.press("Ban")?;
        browser.part("#ban-ip[aria-invalid=true]").wait_text("")?;
        ensure!(browser.value("#ban-ip")? == "11.66.0.300", "what was typed is gone");
        ensure!(browser.value("#ban-reason")? == "typed twice", "what was typed is gone");
        Ok(())
    })
}

fn a_ban_works_without_scripts(scene: &Scene) -> Result<()> {
    scene.visit_with(Settings { no_script: true }, |browser| {
        browser.sign_in(scene.stack.token())?;
        browser.open("/ui/bans/ban")?;
        browser
            .page()
            .check_text("Command line, for the form as it was loaded: tidegate ban ADDRESS --ttl 4h")?;
        browser.fill("Address or block", "11.66.0.10")?;
        browser.press("Ban")?;
        browser.part(".notice").wait_text("11.66.0.10 is banned")?;
        browser
            .wait("the gate denies it", || Ok((gate_answers(scene, "11.66.0.10", "/")? == 403).then_some(())))
    })
}

fn a_list_is_looked_at_before_it_is_imported(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/bans/import")?;
        browser.fill("Source", "friends")?;
        browser.page().paste("Or paste the list", "11.67.0.1\n11.67.0.0/24\nnonsense <b>\n")?;
        browser.press("Check what it would change")?;
        browser.wait_heading("Import this list?")?;
        browser.part("#added").check_text("2")?;
        browser.part("#refusals").check_text("nonsense <b>")?;
        ensure!(gate_answers(scene, "11.67.0.1", "/")? == 200, "it is banned before it was imported");
        browser.press("Import it")?;
        browser.wait_text("The list is imported.")?;
        browser.wait("the gate denies whom the list has", || {
            Ok((gate_answers(scene, "11.67.0.1", "/")? == 403).then_some(()))
        })?;
        scene.stack.recorded(LIMIT)?;
        browser.open("/ui/")?;
        let titles = "return [...document.querySelectorAll('#charts svg .mark')].map((mark) => mark.parentElement.textContent)";
        let titles = browser.run_script(titles, Vec::new())?.to_string();
        ensure!(titles.contains("the list friends imported, 2 added"), "{titles}");
        Ok(())
    })
}

fn a_list_that_shrank_is_held_back_until_it_is_released(scene: &Scene) -> Result<()> {
    let server = ListServer::start()?;
    let list = |count: u8| {
        (0..count).fold(String::new(), |mut list, last| {
            // Writing to a string cannot fail.
            let _ = writeln!(list, "11.68.0.{last}");
            list
        })
    };
    server.serve(list(100));
    let source = json!({ "url": server.url(), "allow_private": true, "interval": "12h" });
    scene.stack.api_ok(Method::PUT, "/api/admin/sources/drop", Some(&source))?;
    scene.visit_signed_in(|browser| {
        browser.open("/ui/sources/drop")?;
        browser.press("Fetch now")?;
        browser.part("#state").wait_text("ok")?;
        let last_is_banned = |wanted: u16| {
            browser.wait(&format!("the gate answers {wanted}"), || {
                Ok((gate_answers(scene, "11.68.0.99", "/")? == wanted).then_some(()))
            })
        };
        last_is_banned(403)?;
        server.serve(list(3));
        browser.press("Fetch now")?;
        browser.part("#state").wait_text("held back")?;
        last_is_banned(403)?;
        browser.follow("Sources")?;
        browser.press("Take the list of drop with 3 entries")?;
        browser.part("#state").wait_text("ok")?;
        ensure!(browser.count("#held-back")? == 0, "it is still held back");
        last_is_banned(200)
    })
}
