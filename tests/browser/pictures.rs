//! Pictures of all pages, light and dark, as a desk and a telephone show them: `cargo xtask pictures`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_stack::FlagsAtStart;
use tidegate_stack::programs::repository;

use crate::all_pages::{self, Page};
use crate::browser::Browser;
use crate::filled;
use crate::scene::Scene;

/// A window: what it is called, its width and height, and whether it is a telephone's.
const WINDOWS: [(&str, u32, u32, bool); 2] = [("desktop", 1280, 800, false), ("phone", 390, 844, true)];
/// The highest picture, pixels.
const HIGHEST: u64 = 6_000;
/// Names of pages of which docs/DASHBOARD.md shows a small picture.
const FOR_DOCUMENTS: [&str; 4] = ["overview", "rollout", "address", "explain"];
/// Variables that `cargo xtask pictures` sets: whether docs/pictures is made, and for how many seconds requests come.
const DOCUMENTS: &str = "TIDEGATE_PICTURES_FOR_DOCS";
const SECONDS: &str = "TIDEGATE_PICTURES_TRAFFIC_SECONDS";

#[test]
#[ignore = "makes pictures: cargo xtask pictures"]
fn pictures() {
    let scene = Scene::with("pictures", |options| {
        options.flags = FlagsAtStart::Off;
        filled::options(options);
    })
    .unwrap();
    let filled = filled::fill(&scene.stack).unwrap();
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let time = Duration::from_secs(seconds);
    go_on(&scene, time).unwrap();
    filled::rollouts(&scene.stack).unwrap();
    traffic_for(&scene, time / 4).unwrap();
    let pages = all_pages::all(&scene.stack, &filled).unwrap();
    let all = repository().join("target/ui");
    let documents = std::env::var_os(DOCUMENTS).is_some();
    scene
        .visit(|browser| {
            std::fs::create_dir_all(&all)?;
            sign_in_page(browser, &all)?;
            browser.sign_in(scene.stack.token())?;
            for page in &pages {
                all_of(browser, page, &all)?;
            }
            if documents { for_documents(browser, &pages) } else { Ok(()) }
        })
        .unwrap();
    println!("pictures are in {}", all.display());
}

/// Traffic for a while, and a rollout step in the middle of it, so that charts have something to show.
fn go_on(scene: &Scene, time: Duration) -> Result<()> {
    let steps = [
        json!({ "enableRouteCache": "shadow" }),
        json!({ "enableRouteCache": { "percent": 25 } }),
        json!({ "enableRouteCache": true, "enableAsyncRecording": true }),
    ];
    for step in &steps {
        scene.stack.flags(step)?;
        traffic_for(scene, time / 4)?;
    }
    Ok(())
}

fn traffic_for(scene: &Scene, time: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        filled::traffic(&scene.stack)?;
    }
    Ok(())
}

fn sign_in_page(browser: &Browser<'_>, dir: &Path) -> Result<()> {
    let page = Page { name: "sign-in", path: "/ui/sign-in".to_owned(), heading: "Sign in", role: "read" };
    all_of(browser, &page, dir)
}

fn all_of(browser: &Browser<'_>, page: &Page, dir: &Path) -> Result<()> {
    for (window, width, height, is_phone) in WINDOWS {
        for scheme in ["light", "dark"] {
            browser.set_scheme(scheme)?;
            browser.set_width(width, height, is_phone)?;
            browser.open(&page.path)?;
            browser.wait_heading(page.heading)?;
            let whole = browser.run_script("return document.documentElement.scrollHeight", Vec::new())?;
            let whole = whole.as_u64().context("no height")?.clamp(height.into(), HIGHEST);
            browser.set_width(width, u32::try_from(whole)?, is_phone)?;
            let picture = browser.session.run(browser.session.client.screenshot())?;
            std::fs::write(dir.join(format!("{}-{scheme}-{window}.png", page.name)), picture)?;
            if browser.check_width().is_err() {
                println!("wider than its window: {} {window}", page.name);
            }
        }
    }
    Ok(())
}

/// Small ones, of the top of the page.
fn for_documents(browser: &Browser<'_>, pages: &[Page]) -> Result<()> {
    let dir: PathBuf = repository().join("docs/pictures");
    std::fs::create_dir_all(&dir)?;
    browser.set_scheme("light")?;
    let window = json!({ "width": 1_180, "height": 800, "deviceScaleFactor": 0.75, "mobile": false });
    browser.session.devtools("Emulation.setDeviceMetricsOverride", &window)?;
    for page in pages.iter().filter(|page| FOR_DOCUMENTS.contains(&page.name)) {
        browser.open(&page.path)?;
        browser.wait_heading(page.heading)?;
        let picture = browser.session.run(browser.session.client.screenshot())?;
        std::fs::write(dir.join(format!("{}.png", page.name)), picture)?;
    }
    Ok(())
}
