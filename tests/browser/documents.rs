//! Documents in the editor: routes.

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_stack::http::{Method, Request};

use crate::browser::Browser;
use crate::scene::Scene;

/// A route to another path than the template's; `KIND` takes a word.
const ROUTE: &str = "\
# of the shop
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
spec:
  hostnames:
  - shop.example.com
  rules:
  - matches:
    - path:
        type: KIND
        value: /basket
    backendRefs:
    - name: demo
";

#[test]
fn a_route_is_edited() {
    let scene = Scene::start("documents").unwrap();
    a_fault_is_shown_at_its_line_and_mended(&scene).unwrap();
    the_second_of_two_operators_is_told(&scene).unwrap();
    a_route_is_removed_when_it_was_asked_twice(&scene).unwrap();
}

/// Puts a text into the editor.
fn write(browser: &Browser<'_>, text: &str) -> Result<()> {
    browser.page().paste("YAML", text)
}

fn status_of_shop(scene: &Scene) -> Result<u16> {
    let request = Request::get("/basket/1").header("host", "shop.example.com");
    let answer = tidegate_stack::http::send(scene.stack.gate(), &request)?;
    Ok(answer.status)
}

fn live(scene: &Scene) -> Result<Value> {
    scene.stack.api_ok(Method::GET, "/api/admin/routes/shop", None)
}

fn a_fault_is_shown_at_its_line_and_mended(scene: &Scene) -> Result<()> {
    scene.stack.delete_route("all")?;
    ensure!(status_of_shop(scene)? == 404, "there is a route already");
    scene.visit_signed_in(|browser| {
        browser.follow("Routes")?;
        browser.follow("New route")?;
        browser.fill("Name", "shop")?;
        let wrong = ROUTE.replace("KIND", "Sideways");
        write(browser, &wrong)?;
        browser.press("Make it")?;
        browser.part("#document-problem").wait_text("Line 10")?;
        browser.part("#document-problem").check_text("/spec/rules/0/matches/0/path/type")?;
        ensure!(browser.part(".editor pre .wrong").text()? == "10", "the line is not marked");
        ensure!(browser.count("#document[aria-invalid=true]")? == 1, "the field is not marked");
        ensure!(browser.value("#document")? == wrong, "what was typed is gone");
        ensure!(status_of_shop(scene)? == 404, "a wrong route is in force");
        write(browser, &ROUTE.replace("KIND", "PathPrefix"))?;
        browser.press("Check")?;
        browser.wait_text("It can be saved.")?;
        ensure!(status_of_shop(scene)? == 404, "checking has saved it");
        browser.press("Make it")?;
        browser.part(".notice").wait_text("Saved: route shop. 1 of 1 gateways have it.")?;
        ensure!(status_of_shop(scene)? == 200, "the gate does not know the route");
        Ok(())
    })
}

fn the_second_of_two_operators_is_told(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|one| {
        one.open("/ui/routes/shop")?;
        scene.visit_signed_in(|other| {
            other.open("/ui/routes/shop")?;
            write(other, &ROUTE.replace("KIND", "PathPrefix").replace("/basket", "/theirs"))?;
            other.press("Save")?;
            other.part(".notice").wait_text("Saved: route shop")
        })?;
        write(one, &ROUTE.replace("KIND", "PathPrefix").replace("/basket", "/mine"))?;
        one.press("Save")?;
        one.wait_text("Somebody else has saved it meanwhile.")?;
        one.part("#theirs").check_text("/theirs")?;
        ensure!(one.value("#document")?.contains("/mine"), "what was typed is gone");
        ensure!(live(scene)?.to_string().contains("/theirs"), "it was saved");
        one.press("Save mine over it")?;
        one.part(".notice").wait_text("Saved: route shop")?;
        ensure!(live(scene)?.to_string().contains("/mine"), "{}", live(scene)?);
        Ok(())
    })
}

fn a_route_is_removed_when_it_was_asked_twice(scene: &Scene) -> Result<()> {
    scene.visit_signed_in(|browser| {
        browser.open("/ui/routes/shop")?;
        browser.follow("Remove…")?;
        browser.wait_heading("Remove the route shop?")?;
        browser.follow("Keep it")?;
        browser.wait_heading("Route shop")?;
        browser.follow("Remove…")?;
        browser.press("Remove")?;
        browser.part(".notice").wait_text("Removed: route shop")?;
        let answer = scene.stack.api(Method::GET, "/api/admin/routes/shop", None)?;
        ensure!(answer.status == 404, "{}", answer.status);
        Ok(())
    })
}
