use super::*;
use crate::home::Home;
use crate::host::HeaderPairs;
use crate::host::fake::Fake;
use crate::sync::intake::name_of;
use crate::sync::manifest::{CHUNK, Part, PerPart};
use crate::sync::publish::{Bytes, Outcome, Publish, Set};
use crate::sync::{Keys, Role};
use tidegate_policy::table::AddressTable;
use tidegate_policy::wire::sync::Version;

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}, "routing": "envoy"}"#;

/// A gate with tables that ban nobody, under Envoy's own route table.
fn gate(host: &Fake) -> Rc<Gate<Fake>> {
    let config = Config::parse(CONFIG.as_bytes(), |_| None).unwrap();
    let vm = Home::new(host.clone()).join(&config, Role::Gate);
    publish(host, &Keys::new(crate::home::instance(&config.admin)));
    vm.sync.borrow_mut().load_now();
    Rc::new(Gate::new(vm, config, FLUSH_EVERY))
}

fn publish(host: &Fake, keys: &Keys) {
    let bytes = |part| match part {
        Part::Routes => Bytes::Raw(Rc::new(tidegate_host_sim::empty_routes())),
        _ => Bytes::Table(AddressTable::empty()),
    };
    let name = |part| match bytes(part) {
        Bytes::Raw(bytes) => name_of(&bytes),
        Bytes::Table(table) => name_of(table.as_bytes()),
    };
    let set = Set {
        version: Version { epoch: 1, seq: 1 },
        refresh: 0,
        clock_ms: 0,
        blobs: PerPart::from_fn(name),
        bytes: PerPart::from_fn(|part| Some(bytes(part))),
    };
    let mut publish = Publish::new(1, Rc::new(set), CHUNK);
    let outcome = std::iter::from_fn(|| Some(publish.step(host, keys))).find_map(|outcome| outcome);
    assert!(matches!(outcome, Some(Outcome::Done(_))), "{outcome:?}");
}

fn headers() -> HeaderPairs {
    vec![(b":path".to_vec(), b"/".to_vec())]
}

#[test]
fn a_request_under_way_holds_no_tables() {
    let host = Fake::default();
    host.0.headers.replace(Some(headers()));
    let gate = gate(&host);
    let tables = gate.vm.sync.borrow().tables().unwrap();
    let before = Rc::strong_count(&tables);
    let mut stream = Stream::new(host.clone(), Some(gate.clone()));
    assert_eq!(stream.on_request_headers(false), Flow::Continue);
    assert_eq!(Rc::strong_count(&tables), before);
    assert_eq!(stream.seen.unwrap().event.tables_seq, 1);
}

#[test]
fn a_request_whose_headers_cannot_be_read_does_not_pass() {
    let host = Fake::default();
    let gate = gate(&host);
    let mut stream = Stream::new(host.clone(), Some(gate.clone()));
    assert_eq!(stream.on_request_headers(false), Flow::Stop, "it may carry a header of the gate's own");
    assert_eq!(stream.seen.take().unwrap().event.reason.as_deref(), Some("not_ready"));
    host.0.headers.replace(Some(headers()));
    assert_eq!(stream.on_request_headers(false), Flow::Continue);
}
