//! A VM traps. The filter has no switch for that, and must have none: the tests
//! rewrite the released module so that its callbacks trap on a sign of theirs.

use std::time::Duration;

use anyhow::Result;
use tidegate_stack::http::Request;
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};
use walrus::ir::{BinaryOp, Value};
use walrus::{ConstExpr, FunctionBuilder, Module, ValType};

use crate::rewritten_module::{exported, replace, rewritten, trap, trap_now, trap_on_headers};

/// Bytes of the recorder's VM configuration, by which its VM is known.
const RECORDER_CONFIG: i32 = "recorder".len() as i32;
/// The recorder's VM traps at so many ticks in a row without a message: after about ten
/// seconds in which nothing was to be recorded.
const QUIET_TICKS: i32 = 40;

/// The VM whose configuration is as long as the recorder's traps once nothing is under way.
fn trap_recorder_on_tick(module: &mut Module) -> Result<()> {
    let zero = || ConstExpr::Value(Value::I32(0));
    let config = module.globals.add_local(ValType::I32, true, false, zero());
    let ticks = module.globals.add_local(ValType::I32, true, false, zero());

    // The filter does not listen to this one: what it says is "yes".
    let locals = [(); 2].map(|()| module.locals.add(ValType::I32));
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32; 2], &[ValType::I32]);
    builder.func_body().local_get(locals[1]).global_set(config).const_(Value::I32(1));
    let on_start = builder.finish(locals.to_vec(), &mut module.funcs);
    module.exports.add("proxy_on_vm_start", on_start);

    let on_queue_ready = exported(module, "proxy_on_queue_ready")?;
    let locals = [(); 2].map(|()| module.locals.add(ValType::I32));
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32; 2], &[]);
    builder
        .func_body()
        .const_(Value::I32(0))
        .global_set(ticks)
        .local_get(locals[0])
        .local_get(locals[1])
        .call(on_queue_ready);
    let wrapper = builder.finish(locals.to_vec(), &mut module.funcs);
    replace(module, "proxy_on_queue_ready", wrapper);

    let on_tick = exported(module, "proxy_on_tick")?;
    let context = module.locals.add(ValType::I32);
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[]);
    builder
        .func_body()
        .global_get(ticks)
        .const_(Value::I32(1))
        .binop(BinaryOp::I32Add)
        .global_set(ticks)
        .global_get(config)
        .const_(Value::I32(RECORDER_CONFIG))
        .binop(BinaryOp::I32Eq)
        .global_get(ticks)
        .const_(Value::I32(QUIET_TICKS))
        .binop(BinaryOp::I32GeU)
        .binop(BinaryOp::I32And)
        .if_else(None, trap_now, |_| {})
        .local_get(context)
        .call(on_tick);
    let wrapper = builder.finish(vec![context], &mut module.funcs);
    replace(module, "proxy_on_tick", wrapper);
    Ok(())
}

fn start(name: &str, recorder: bool, rewrite: impl Fn(&mut Module) -> Result<()>) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    options.programs.wasm = rewritten(&options.programs.wasm, &options.dir, rewrite)?;
    Stack::start_serving(options)
}

fn trapped_worker(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder, trap_on_headers)?;
    for (number, mut worker) in stack.connection_per_worker()?.into_iter().enumerate() {
        trap(&mut worker)?;
        // Envoy makes a new VM at a request of this worker, at most every 150 ms; until
        // then it answers 503 itself. The new VM must be warm at once.
        let first = wait::until("the worker has a VM again", Duration::from_secs(30), || {
            let answer = worker.send(&Request::get("/").from("192.0.2.13"))?;
            let by_envoy = answer.status == 503 && answer.json().is_err();
            Ok((!by_envoy).then_some(answer))
        })?;
        assert_eq!(first.status, 403, "worker {number}: {}", first.text());
        assert_eq!(worker.send(&Request::get("/").from("192.0.2.14"))?.status, 200);
        // It takes part in what comes later, too.
        let late = format!("192.0.2.{}", 20 + number);
        stack.ban(&late)?;
        assert_eq!(worker.send(&Request::get("/").from(&late))?.status, 403);
    }
    let said = stack.recording()?;
    assert!(said.unclosed >= 1 && !said.exact, "VMs died without a closing record: {said:?}");
    assert_recorded(&stack, "/after")
}

/// 500 requests, each of which must become a row.
fn assert_recorded(stack: &Stack, path: &'static str) -> Result<()> {
    let tally =
        Load::start(stack.gate(), 8, Some(500), move |_| Request::get(path).from("192.0.2.14")).finish();
    assert_eq!(tally.status(200), 500, "{tally:?}");
    let mut sql = stack.sql()?;
    let query = format!("SELECT count(*) FROM traffic_events WHERE path = '{path}'");
    wait::until("all rows are there", Duration::from_secs(30), || {
        Ok((sql.number(&query)? >= 500).then_some(()))
    })?;
    assert_eq!(sql.number(&query)?, 500);
    Ok(())
}

#[test]
fn a_trapped_worker_is_warm_at_its_first_request() {
    trapped_worker("trap", true).unwrap();
}

#[test]
fn a_trapped_worker_is_warm_at_its_first_request_without_the_recorder() {
    trapped_worker("trap-bare", false).unwrap();
}

#[test]
fn a_trapped_worker_that_stays_idle_holds_nothing_up() {
    // Without the recorder one of the workers holds the lease; each is trapped in
    // turn and left alone, and the other must go on.
    for trapped in [0, 1] {
        let stack = start(&format!("trap-idle-{trapped}"), false, trap_on_headers).unwrap();
        let mut workers = stack.connection_per_worker().unwrap();
        trap(&mut workers[trapped]).unwrap();
        let other = &mut workers[1 - trapped];
        let mut sql = stack.sql().unwrap();
        sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.44', 'banned')").unwrap();
        wait::until("the other worker knows the ban", Duration::from_secs(30), || {
            Ok((other.send(&Request::get("/other").from("192.0.2.44"))?.status == 403).then_some(()))
        })
        .unwrap();
        wait::until("the other worker's events are stored", Duration::from_secs(30), || {
            let rows = "SELECT count(*) FROM traffic_events WHERE path = '/other' AND status = 403";
            Ok((sql.number(rows)? == 1).then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn a_trapped_recorder_is_replaced_by_a_worker() {
    let stack = start("trap-recorder", true, trap_recorder_on_tick).unwrap();
    wait::until("the recorder has trapped", Duration::from_secs(60), || {
        let log = std::fs::read(stack.log("envoy"))?;
        Ok(String::from_utf8_lossy(&log).contains("proxy_on_tick failed").then_some(()))
    })
    .unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    let mut sql = stack.sql().unwrap();
    sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.44', 'banned')").unwrap();
    for worker in &mut workers {
        wait::until("the worker knows the ban", Duration::from_secs(30), || {
            Ok((worker.send(&Request::get("/").from("192.0.2.44"))?.status == 403).then_some(()))
        })
        .unwrap();
    }
    assert_recorded(&stack, "/after").unwrap();
    // Nothing was under way when it trapped, so nothing is missing.
    let whole = stack.recorded(Duration::from_secs(30)).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}
