//! Gateways and services of different versions: `docs/OPERATIONS.md`, "Upgrading".
//! What is of another version is made so on its way, by [`doctor`].
//!
//! The upgrade itself starts from an earlier release where `TIDEGATE_PREVIOUS_WASM` and
//! `TIDEGATE_PREVIOUS_ADMIN_BIN` name its filter and its service.

mod doctor;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_policy::wire::event::{BATCH_FORMAT, EventPost, SealedBatch};
use tidegate_policy::wire::formats::{FORMATS_HEADER, formats};
use tidegate_stack::http::{Method, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};

use doctor::{Doctor, Message};

const LIMIT: Duration = Duration::from_secs(60);
const SYNC: &str = "/api/data-plane/v1/sync";
/// Requests of one go.
const REQUESTS: u64 = 300;

fn doctored(name: &str) -> Result<(Options, Doctor)> {
    let mut options = Options::for_test(name)?;
    let doctor = Doctor::start()?;
    options.control = Some(Arc::new(doctor.clone()));
    Ok((options, doctor))
}

fn renumbered(message: &Message<'_>, mut bytes: Vec<u8>, add: i8) -> Vec<u8> {
    let is_answer = message.path == SYNC && message.status == Some(200);
    if let Some(version) = bytes.first_mut().filter(|_| is_answer) {
        *version = version.saturating_add_signed(add);
    }
    bytes
}

/// The batches of a post pass through `change`.
fn batches(message: &Message<'_>, bytes: Vec<u8>, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    if message.path != "/api/data-plane/v1/events" || message.status.is_some() {
        return bytes;
    }
    let mut post = EventPost::from_bytes(&bytes).unwrap();
    post.batches = post.batches.into_iter().map(|batch| SealedBatch(change(batch.0))).collect();
    post.to_bytes().unwrap()
}

/// Requests that must all be answered, those of 192.0.2.13 with 403.
fn requests(stack: &Stack, path: &'static str) -> Result<()> {
    let tally = Load::start(stack.gate(), 4, Some(REQUESTS), move |number| {
        Request::get(path).from(if number % 3 == 0 { "192.0.2.13" } else { "192.0.2.14" })
    })
    .finish();
    ensure!(tally.failed == 0, "{path}: {:?}", tally.failures);
    ensure!(tally.status(403) == REQUESTS.div_ceil(3), "{path}: {tally:?}");
    ensure!(tally.status(200) + tally.status(403) == REQUESTS, "{path}: {tally:?}");
    Ok(())
}

fn rows(stack: &Stack, path: &str) -> Result<u64> {
    stack.sql()?.number(&format!(
        "SELECT count(*) FROM traffic_events WHERE path = '{path}' AND complete \
         AND ((status = 403 AND rule = '192.0.2.13') OR (status = 200 AND route = 'all'))"
    ))
}

/// Waits until every request has its row, and nothing was lost on the way.
fn all_stored(stack: &Stack, path: &str) -> Result<()> {
    wait::until("every request has its row", LIMIT, || Ok((rows(stack, path)? >= REQUESTS).then_some(())))?;
    ensure!(rows(stack, path)? == REQUESTS, "{path}: rows twice over");
    let said = stack.api_ok(Method::GET, "/api/admin/optimization/recording/stats", None)?;
    ensure!(said["malformed"] == 0 && said["lost"] == 0, "{path}: {said}");
    Ok(())
}

fn metric(stack: &Stack, name: &str) -> Result<u64> {
    Ok(stack.stats()?.get(&format!("wasmcustom.tidegate.{name}")).unwrap_or(0))
}

fn status_of(stack: &Stack, client: &str) -> Result<Vec<u16>> {
    let mut workers = stack.connection_per_worker()?;
    let ask = |worker: &mut tidegate_stack::http::Connection| {
        Ok(worker.send(&Request::get("/").from(client))?.status)
    };
    workers.iter_mut().map(ask).collect()
}

fn feed_of_another_version(add: i8) -> Result<()> {
    let (options, doctor) = doctored(&format!("upgrade-feed-{}", if add > 0 { "later" } else { "earlier" }))?;
    let stack = Stack::start_serving(options)?;
    let before = metric(&stack, "sync.decode_failures")?;
    let said = Arc::new(Mutex::new(None));
    let saying = Arc::clone(&said);
    doctor.change(move |message, bytes| {
        if message.path == SYNC && message.status.is_none() {
            *saying.lock().unwrap() = message.headers.get(FORMATS_HEADER).cloned();
        }
        renumbered(message, bytes, add)
    });
    stack.sql()?.run("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.44', 'banned')")?;
    wait::until("several answers are refused", LIMIT, || {
        Ok((metric(&stack, "sync.decode_failures")? >= before + 3).then_some(()))
    })?;
    assert_eq!(status_of(&stack, "192.0.2.44")?, [200, 200], "what cannot be read is not in force");
    requests(&stack, "/kept")?;
    all_stored(&stack, "/kept")?;
    let said = said.lock().unwrap().clone();
    assert_eq!(
        said.as_ref().and_then(|said| said.to_str().ok()),
        Some(&*formats()),
        "what a poll says it reads"
    );

    doctor.rest();
    wait::until("the ban arrives", LIMIT, || {
        Ok((status_of(&stack, "192.0.2.44")? == [403, 403]).then_some(()))
    })
}

#[test]
fn tables_stay_while_the_feed_is_of_a_later_version() {
    feed_of_another_version(1).unwrap();
}

#[test]
fn tables_stay_while_the_feed_is_of_an_earlier_version() {
    feed_of_another_version(-1).unwrap();
}

#[test]
fn bans_arrive_at_a_gateway_that_cannot_read_the_routes() {
    let (options, doctor) = doctored("upgrade-routes").unwrap();
    let stack = Stack::start_serving(options).unwrap();
    doctor.change(|message, bytes| {
        if let Some(reads) = message.headers.get_mut(FORMATS_HEADER) {
            *reads = formats().replace(",routes=", ",routes=1").parse().unwrap();
        }
        bytes
    });
    let list = || stack.api_ok(Method::GET, "/api/admin/gateways", None);
    let sql = |text: &str| stack.sql().unwrap().run(text).unwrap();
    // The poll that is open may still be answered as one that reads them all.
    sql("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.43', 'banned')");
    wait::until("it is known to be behind", LIMIT, || {
        Ok((list()?["items"][0]["cannot_read"] == serde_json::json!(["routes"])).then_some(()))
    })
    .unwrap();
    sql("UPDATE routes SET document = replace(document, 'demo', 'nowhere')");
    sql("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.44', 'banned')");
    wait::until("the ban arrives", LIMIT, || {
        Ok((status_of(&stack, "192.0.2.44")? == [403, 403]).then_some(()))
    })
    .unwrap();
    // By the routes that it holds; the others have no such backend.
    requests(&stack, "/kept").unwrap();
    assert_eq!(metric(&stack, "sync.decode_failures").unwrap(), 0);
    doctor.rest();
    sql("DELETE FROM ip_monitor WHERE ip = '192.0.2.43'");
    wait::until("it is known to read them all", LIMIT, || {
        Ok((list()?["items"][0]["cannot_read"] == serde_json::json!([])).then_some(()))
    })
    .unwrap();
    // The next answer has what it lacks.
    sql("DELETE FROM ip_monitor WHERE ip = '192.0.2.44'");
    wait::until("the routes arrive", LIMIT, || {
        Ok((status_of(&stack, "192.0.2.14")? == [500, 500]).then_some(()))
    })
    .unwrap();
}

#[test]
fn events_of_a_later_version_are_kept_until_they_are_understood() {
    let (options, doctor) = doctored("upgrade-events-later").unwrap();
    let stack = Stack::start_serving(options).unwrap();
    doctor.change(|message, bytes| {
        batches(message, bytes, |mut batch| {
            assert_eq!(std::mem::replace(&mut batch[0], BATCH_FORMAT + 1), BATCH_FORMAT);
            batch
        })
    });
    let before = metric(&stack, "recorder.retries").unwrap();
    requests(&stack, "/kept").unwrap();
    wait::until("posts are refused", LIMIT, || {
        Ok((metric(&stack, "recorder.retries")? >= before + 3).then_some(()))
    })
    .unwrap();
    let log = std::fs::read_to_string(stack.log("admin")).unwrap();
    assert!(log.contains("a gateway of a later version keeps its events"), "{log}");
    assert_eq!(rows(&stack, "/kept").unwrap(), 0);
    doctor.rest();
    all_stored(&stack, "/kept").unwrap();
    let whole = stack.recorded(LIMIT).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}

/// Filter and service of an earlier release.
fn previous() -> Option<(PathBuf, PathBuf)> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    Some((named("TIDEGATE_PREVIOUS_WASM")?, named("TIDEGATE_PREVIOUS_ADMIN_BIN")?))
}

/// In the order of `docs/OPERATIONS.md`: the service, then the gateways. Without an
/// earlier release the gateway is of this version, and the tables that the new service
/// sends it are made to be of a later one.
fn upgrade() -> Result<()> {
    let (mut options, doctor) = doctored("upgrade")?;
    let (admin, wasm) = (options.programs.admin.clone(), options.programs.wasm.clone());
    let previous = previous();
    if let Some((wasm, admin)) = &previous {
        (options.programs.wasm, options.programs.admin) = (wasm.clone(), admin.clone());
    }
    let mut stack = Stack::start_serving(options)?;
    requests(&stack, "/before")?;
    all_stored(&stack, "/before")?;

    stack.stop_admin();
    if previous.is_none() {
        doctor.change(|message, bytes| renumbered(message, bytes, 1));
    }
    requests(&stack, "/without")?;
    stack.set_admin(admin);
    stack.start_admin()?;
    requests(&stack, "/between")?;
    all_stored(&stack, "/without")?;
    all_stored(&stack, "/between")?;

    doctor.rest();
    stack.set_filter(wasm);
    stack.restart_envoy()?;
    stack.ban("192.0.2.44")?;
    assert_eq!(status_of(&stack, "192.0.2.44")?, [403, 403]);
    requests(&stack, "/after")?;
    for path in ["/before", "/without", "/between", "/after"] {
        all_stored(&stack, path)?;
    }
    Ok(())
}

#[test]
fn an_upgrade_in_its_order_fails_no_request_and_loses_no_event() {
    if previous().is_none() {
        println!("TIDEGATE_PREVIOUS_WASM and TIDEGATE_PREVIOUS_ADMIN_BIN name no release: one is feigned");
    }
    upgrade().unwrap();
}
