use tidegate_policy::wire::sync::{Ack, Gateway};

use super::*;
use crate::gateways::GatewayStatus;
use crate::store::StoreFault;

#[test]
fn what_the_store_fails_at_is_told_by_its_kind_with_all_that_it_is_about() {
    assert_eq!(store_reasons(&StoreHealth::default()), []);
    let fault = |operation, what| StoreFault {
        operation,
        what,
        since: Duration::from_secs(7),
        why: "disk I/O error".into(),
    };
    let faults = vec![
        fault(StoreOperation::Checkpoint, "checkpoint"),
        fault(StoreOperation::Read, "ledger"),
        fault(StoreOperation::Write, "events"),
        fault(StoreOperation::Read, "audit"),
    ];
    let told = store_reasons(&StoreHealth { faults, ..StoreHealth::default() });
    let codes: Vec<_> = told.iter().map(|reason| reason.code).collect();
    assert_eq!(codes, ["store_write_failed", "store_read_failed", "store_checkpoint_failed"]);
    let read = "reading the database fails: ledger, for 7 s: disk I/O error; audit, for 7 s: disk I/O error";
    assert_eq!(told[1].detail, read);
}

#[test]
fn the_worst_of_a_gateway_is_told() {
    let code = |lost, silent_for, stale| {
        let status = GatewayStatus {
            gateway: Gateway { node: "edge-1".into(), process: 7 },
            address: None,
            ack: Some(Ack { stale, ..Ack::default() }),
            lost,
            known_for: Duration::from_secs(60),
            silent_for,
            unread: Vec::new(),
            poller: None,
        };
        gateway_reason(&GatewayInfo::from(status)).map(|reason| reason.code)
    };
    let long = LOST_AFTER + Duration::from_millis(1);
    assert_eq!(code(true, long, 1), Some("gateway_lost"));
    assert_eq!(code(false, long, 1), Some("gateway_not_polling"));
    assert_eq!(code(false, LOST_AFTER, 1), Some("gateway_stale"));
    assert_eq!(code(false, LOST_AFTER, 0), None);
}
