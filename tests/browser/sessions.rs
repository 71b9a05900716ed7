//! Signing in and out, and forms that come too late.

use anyhow::{Context, Result, ensure};
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::wait;

use crate::browser::{Browser, LIMIT, post};
use crate::scene::Scene;

/// The form that every page has for who is signed in.
const ACCOUNT: &str = "details.account form";

#[test]
fn sessions_begin_and_end_as_they_say() {
    let scene = Scene::start("sessions").unwrap();
    signing_in_and_out(&scene).unwrap();
    a_link_signs_in_once(&scene).unwrap();
    all_sessions_of_a_token_end_together(&scene).unwrap();
    a_revoked_token_lets_nobody_in(&scene).unwrap();
    forms_that_come_too_late_change_nothing(&scene).unwrap();
    a_form_that_is_sent_twice_does_once(&scene).unwrap();
    a_reader_who_takes_nothing_holds_nobody(&scene).unwrap();
}

fn signing_in_and_out(scene: &Scene) -> Result<()> {
    scene.visit(|browser| {
        browser.open("/ui/rollout")?;
        browser.wait_heading("Sign in")?;
        browser.fill("Token", "tg_wrong")?;
        browser.press("Sign in")?;
        browser.wait_text("This token is not known")?;
        ensure!(browser.count("a[href='/ui/events']")? == 0, "the menu is shown to nobody");
        browser.fill("Token", scene.stack.token())?;
        browser.press("Sign in")?;
        // What was asked for before.
        browser.wait_heading("Rollout")?;
        // The cookie went, as after an idle hour.
        browser.forget_cookies()?;
        browser.open("/ui/events?verdict=deny")?;
        browser.wait_heading("Sign in")?;
        browser.fill("Token", scene.stack.token())?;
        browser.press("Sign in")?;
        browser.wait_heading("Events")?;
        ensure!(browser.path()? == "/ui/events?verdict=deny", "{}", browser.path()?);
        let cookie = browser.cookie()?;
        sign_out(browser, "Sign out")?;
        // What the browser had before does not help.
        let answer = http::send(scene.stack.people(), &Request::get("/ui/").header("cookie", &cookie))?;
        ensure!(answer.status == 303, "{}", answer.status);
        Ok(())
    })
}

fn sign_out(browser: &Browser<'_>, how: &str) -> Result<()> {
    browser.run_script("document.querySelector('details.account').open = true", Vec::new())?;
    browser.part(ACCOUNT).press(how)?;
    browser.wait_heading("Sign in")
}

fn a_link_signs_in_once(scene: &Scene) -> Result<()> {
    let answer = scene.stack.api(Method::POST, "/api/admin/sign-in-links", None)?;
    let link = answer.json()?["path"].as_str().context("no link")?.to_owned();
    let by_link = |browser: &Browser<'_>| {
        browser.open(&link)?;
        browser.wait_text("This link signs in once")?;
        browser.press("Sign in")
    };
    scene.visit(|browser| {
        by_link(browser)?;
        browser.wait_heading("Overview")
    })?;
    scene.visit(|browser| {
        by_link(browser)?;
        browser.wait_text("This link was used already")
    })
}

fn all_sessions_of_a_token_end_together(scene: &Scene) -> Result<()> {
    let (token, _) = scene.token("on-call", "operate")?;
    scene.visit(|one| {
        one.sign_in(&token)?;
        scene.visit_signed_in(|operator| {
            scene.visit(|other| {
                other.sign_in(&token)?;
                sign_out(other, "Sign out everywhere")
            })?;
            operator.open("/ui/rollout")?;
            operator.wait_heading("Rollout")
        })?;
        one.open("/ui/rollout")?;
        one.wait_heading("Sign in")
    })
}

fn a_revoked_token_lets_nobody_in(scene: &Scene) -> Result<()> {
    let (token, _) = scene.token("leaving", "admin")?;
    scene.visit(|browser| {
        browser.sign_in(&token)?;
        scene.stack.api_ok(Method::DELETE, "/api/admin/tokens/leaving", None)?;
        let once = browser.hidden(ACCOUNT, "form_token")?;
        let answer = browser.post("/ui/rollout/all-off", &[("form_token", &once)])?;
        ensure!(answer.status == 401, "{}: {}", answer.status, answer.text());
        ensure!(answer.text().contains("Your session has ended"), "{}", answer.text());
        browser.open("/ui/tokens")?;
        browser.wait_heading("Sign in")
    })?;
    let flags = scene.stack.api_ok(Method::GET, "/api/admin/optimization/flags", None)?;
    ensure!(flags["enableRouteCache"] == true, "{flags}");
    Ok(())
}

fn forms_that_come_too_late_change_nothing(scene: &Scene) -> Result<()> {
    let all_off = "/ui/rollout/all-off";
    scene.visit_signed_in(|browser| {
        let (cookie, old) = (browser.cookie()?, browser.hidden(ACCOUNT, "form_token")?);
        sign_out(browser, "Sign out")?;
        let answer = post(&scene.stack, all_off, &cookie, &[("form_token", &old)])?;
        ensure!(answer.status == 401, "after signing out: {}", answer.status);
        browser.sign_in(scene.stack.token())?;
        for fields in [&[("form_token", old.as_str())][..], &[]] {
            let answer = browser.post(all_off, fields)?;
            ensure!(answer.status == 403, "{fields:?}: {}", answer.status);
            ensure!(answer.text().contains("This form is out of date"), "{}", answer.text());
        }
        let form_token = browser.hidden(ACCOUNT, "form_token")?;
        let from_elsewhere = Request::new(Method::POST, all_off)
            .header("cookie", browser.cookie()?)
            .header("sec-fetch-site", "cross-site")
            .body("application/x-www-form-urlencoded", format!("form_token={form_token}").into_bytes());
        let answer = http::send(scene.stack.people(), &from_elsewhere)?;
        ensure!(answer.status == 403, "from another site: {}", answer.status);
        Ok(())
    })?;
    let flags = scene.stack.api_ok(Method::GET, "/api/admin/optimization/flags", None)?;
    ensure!(flags["enableRouteCache"] == true, "{flags}");
    Ok(())
}

fn a_form_that_is_sent_twice_does_once(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/tokens")?;
        let form = "form[action='/ui/tokens']";
        let (form_token, once) = (browser.hidden(form, "form_token")?, browser.hidden(form, "once")?);
        let fields = [("form_token", &*form_token), ("once", &*once), ("name", "twice"), ("role", "read")];
        let [first, second] = [browser.post("/ui/tokens", &fields)?, browser.post("/ui/tokens", &fields)?];
        ensure!(first.status == 200, "{}: {}", first.status, first.text());
        // It was done, and what came of it, a secret, is not kept.
        ensure!(second.status == 409, "{}: {}", second.status, second.text());
        ensure!(second.text().contains("idempotency_answer_gone"), "{}", second.text());
        // Loaded anew it is another form, for a name that there is.
        browser.open("/ui/tokens")?;
        browser.fill("Name", "twice")?;
        browser.press("Make it")?;
        browser.part(".problem").wait_text("token_exists")?;
        ensure!(browser.count("[name=name][value=twice]")? == 1, "what was typed is gone");
        Ok(())
    })
}

/// Whoever follows a page and does not read what comes: others are answered, and the service ends when it is told.
fn a_reader_who_takes_nothing_holds_nobody(scene: &Scene) -> Result<()> {
    use std::io::Write as _;
    scene.visit_signed_in(|browser| {
        let cookie = browser.cookie()?;
        let mut held = Vec::new();
        for path in ["/ui/live/overview", "/ui/live/health", "/ui/events/follow"] {
            let mut stream = std::net::TcpStream::connect(scene.stack.people())?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie}\r\n\r\n")?;
            held.push(stream);
        }
        for number in 0..200 {
            let path = format!("/{}/{number}", "long".repeat(200));
            http::send(scene.stack.gate(), &Request::get(&path))?;
        }
        scene.stack.recorded(LIMIT)?;
        browser.open("/ui/events")?;
        browser.wait_heading("Events")?;
        wait::until("pages are answered", LIMIT, || {
            let answer =
                http::send(scene.stack.people(), &Request::get("/ui/health").header("cookie", &cookie))?;
            Ok((answer.status == 200).then_some(()))
        })
    })
}
