//! Texts of strangers: markup, marks that turn the direction of writing, and 8 KiB of it. They are shown as texts.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{self, Method};

use crate::browser::{Browser, LIMIT};
use crate::scene::Scene;

/// Would take effect wherever it is not escaped.
const MARKUP: &str =
    "</td></textarea><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\"'&lt;";
/// The override of UAX 9 that shows what follows from right to left.
const OVERRIDE: char = '\u{202e}';

/// Who sends them.
const STRANGER: &str = "11.66.0.1";

#[test]
fn texts_of_strangers_are_texts() {
    let scene = Scene::start("strangers").unwrap();
    let path = MARKUP.replace([' ', '\''], "");
    for (path, host) in
        [(path.as_str(), "shop.example.com"), (&"w".repeat(7_900), "a'onclick=hurt().example")]
    {
        let agent = format!("{MARKUP}{OVERRIDE}{}", "w".repeat(7_000));
        let request = format!(
            "GET /{path} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: {STRANGER}\r\nuser-agent: {agent}\r\n\
             connection: close\r\n\r\n"
        );
        let answer = http::raw(scene.stack.gate(), request.as_bytes(), LIMIT, 1 << 20).unwrap();
        println!("{host}: {:?}", http::raw_status(&answer));
    }
    scene.stack.recorded(LIMIT).unwrap();
    let reason = format!("{MARKUP}{OVERRIDE}{}", "w".repeat(800));
    scene.stack.ban_with(&json!({ "ip": STRANGER, "reason": reason })).unwrap();
    scene.visit_signed_in(|browser| shown_as_texts(&scene, browser)).unwrap();
    scene
        .visit_signed_in(|browser| {
            browser.set_width(390, 844, true)?;
            shown_as_texts(&scene, browser)
        })
        .unwrap();
    scene.visit_signed_in(a_reason_that_is_too_long_is_told).unwrap();
}

fn shown_as_texts(scene: &Scene, browser: &Browser<'_>) -> Result<()> {
    let events =
        scene.stack.api_ok(Method::GET, &format!("/api/admin/events?ip={STRANGER}&limit=10"), None)?;
    ensure!(events["items"].as_array().is_some_and(|items| items.len() == 2), "not two events: {events}");
    browser.open(&format!("/ui/events?ip={STRANGER}"))?;
    harmless(browser)?;
    let one: &Value = &events["items"][0];
    let at = one["timestamp"].as_str().unwrap_or_default().replace(':', "%3A");
    let source = one["source"].as_str().unwrap_or_default();
    browser.open(&format!("/ui/events/one?source={source}&number={}&at={at}", one["number"]))?;
    browser.wait_heading("One event")?;
    harmless(browser)?;
    browser.open("/ui/audit?kind=ban")?;
    browser.run_script(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })",
        Vec::new(),
    )?;
    browser.page().check_text("\\u{202e}")?;
    harmless(browser)?;
    let address = format!("/ui/bans/address?ip={STRANGER}");
    for page in ["/ui/", "/ui/paths", "/ui/health", "/ui/bans", &address] {
        browser.open(page)?;
        harmless(browser)?;
    }
    Ok(())
}

/// Nothing of the texts has become a part of the page, ran, or pushed it out of the window.
fn harmless(browser: &Browser<'_>) -> Result<()> {
    let hurt = browser.run_script("return window.hurt === undefined", Vec::new())?;
    ensure!(hurt == json!(true), "a script of a stranger ran on {}", browser.path()?);
    ensure!(
        browser.count("img:not(.logo), main script")? == 0,
        "markup of a stranger is on {}",
        browser.path()?
    );
    let raw = "return document.documentElement.textContent.includes('\\u202e')";
    ensure!(
        browser.run_script(raw, Vec::new())? == json!(false),
        "the direction is turned on {}",
        browser.path()?
    );
    browser.check_width()
}

/// 8 KiB are more than a reason may have: nothing is banned, and the page says why.
fn a_reason_that_is_too_long_is_told(browser: &Browser<'_>) -> Result<()> {
    browser.open("/ui/bans/ban")?;
    browser.fill("Address or block", "11.66.0.2")?;
    browser.page().paste("Reason", &format!("{MARKUP}{}", "w".repeat(8_192)))?;
    browser.press("Ban")?;
    browser.part("#ban-reason-problem").wait_text("1000")?;
    harmless(browser)?;
    browser.open("/ui/bans/address?ip=11.66.0.2")?;
    browser.page().check_text("No entry covers it")
}
