use super::*;
use crate::home::Home;
use crate::host::HeaderPairs;
use crate::host::fake::Fake;
use crate::sync::fixtures::{empty_set, publish};
use crate::sync::{Keys, Role};

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}, "routing": "envoy"}"#;

/// A gate with tables that ban nobody, under Envoy's own route table.
fn gate(host: &Fake) -> Rc<Gate<Fake>> {
    let config = Config::parse(CONFIG.as_bytes(), |_| None).unwrap();
    let vm = Home::new(host.clone()).join(&config, Role::Gate);
    publish(host, &Keys::new(crate::home::instance(&config.admin)), empty_set(1, 1, 0));
    vm.sync.borrow_mut().load_now();
    Rc::new(Gate::new(vm, config, FLUSH_EVERY))
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
