//! axe-core on each page, light and dark: what it calls serious or critical is a fault.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidegate_stack::chromium::installed_axe;

use crate::all_pages;
use crate::browser::Browser;
use crate::filled;
use crate::scene::Scene;

/// Runs it, and gives what it found: rule, impact, and the elements.
const RUN: &str = "
const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ['violations'] }).then(
  (found) => done(found.violations.map((rule) => ({
    id: rule.id, impact: rule.impact, help: rule.help,
    elements: rule.nodes.map((node) => node.target.join(' ') + ': ' + node.html.slice(0, 200)
      + ' ' + (node.any[0]?.message ?? node.all[0]?.message ?? node.none[0]?.message ?? '')),
  }))),
  (error) => done([{ id: 'error', impact: 'critical', help: String(error), elements: [] }]));
";

#[test]
fn axe_finds_nothing_serious() {
    let Some(script) = script() else {
        println!("skipped: no axe-core; `cargo xtask test --only browser` fetches it");
        return;
    };
    let script = std::fs::read_to_string(script).unwrap();
    let scene = Scene::with("accessible", filled::options).unwrap();
    let filled = filled::fill(&scene.stack).unwrap();
    filled::rollouts(&scene.stack).unwrap();
    let pages = all_pages::all(&scene.stack, &filled).unwrap();
    let mut found = Vec::new();
    let visit = |browser: &Browser<'_>| {
        browser.open("/ui/sign-in")?;
        found.extend(examine(browser, &script, "sign-in")?);
        browser.sign_in(scene.stack.token())?;
        for page in &pages {
            browser.open(&page.path)?;
            browser.wait_heading(page.heading)?;
            for scheme in ["light", "dark"] {
                browser.set_scheme(scheme)?;
                found.extend(examine(browser, &script, &format!("{} {scheme}", page.name))?);
            }
        }
        Ok(())
    };
    scene.visit(visit).unwrap();
    assert!(found.is_empty(), "axe-core found:\n{}", found.join("\n"));
}

fn script() -> Option<PathBuf> {
    Some(installed_axe()).filter(|path| path.is_file())
}

fn examine(browser: &Browser<'_>, script: &str, page: &str) -> Result<Vec<String>> {
    browser.run_script(script, Vec::new())?;
    let found = browser.session.run(browser.session.client.execute_async(RUN, Vec::new()))?;
    let rules = found.as_array().context("axe-core answers a list")?;
    ensure!(rules.iter().all(|rule| rule["id"] != "error"), "{found}");
    let is_bad = |rule: &&Value| rule["impact"] == "serious" || rule["impact"] == "critical";
    let words = |rule: &Value| {
        let elements = rule["elements"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let elements: Vec<String> = elements.map(|element| format!("    {element}")).collect();
        format!("{page}: {} ({}): {}\n{}", rule["id"], rule["impact"], rule["help"], elements.join("\n"))
    };
    for rule in rules.iter().filter(|rule| !is_bad(rule)) {
        println!("not serious: {}", words(rule));
    }
    Ok(rules.iter().filter(is_bad).map(words).collect())
}
