//! The doctor: what the service finds, and how the program says it.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_admin::store::TokenRow;

use crate::command_line::Desk;
use crate::test_gateway::SYNC;
use crate::test_service::{Answered, TestService, each, token_beside};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_mends_it() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let well = desk.tidegate("doctor", &[]).await.done();
    assert!(well.starts_with("note     no_gateway: "), "{well}");

    // A gateway of another version, whose clock is wrong, and whose lease has gone round.
    let poll = async |lease: u32| {
        let poll = service.as_gateway(Method::GET, &format!("{SYNC}?wait=0s"));
        let poll = poll.header("x-tidegate-poller", format!("lease={lease};recorder=0;clock=1000"));
        let flags = format!("flags={:032x}", 1);
        let poll = poll.header("x-tidegate-held", flags).header("x-tidegate-formats", "sync=4,flags=1");
        Answered::to(poll).await.binary();
    };
    poll(1).await;
    poll(4).await;
    service.sql("INSERT INTO ip_monitor (ip) VALUES ('nonsense')");
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(30);
    let row = TokenRow {
        name: "ci".into(),
        role: "read".into(),
        expires_at: Some(end.to_string()),
        ..TokenRow::default()
    };
    token_beside(&service.dir, row);
    let said = desk.tidegate("doctor", &["-o", "json"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    let codes = each(&answer["findings"], |finding| finding["code"].as_str().unwrap());
    let wanted = [
        "rows_quarantined",
        "flags_differ",
        "other_version",
        "lease_changes",
        "clock_skew",
        "token_ending",
        "no_recorder",
    ];
    assert_eq!(codes, wanted, "{answer:#}");
    assert_eq!(answer["status"], "error");
    assert!(each(&answer["findings"], |finding| finding["mend"] != json!("")).iter().all(|mends| *mends));
    let said = desk.tidegate("doctor", &[]).await;
    assert!(
        said.out.contains("error    rows_quarantined: 1 rows cannot be read")
            && said.err.contains("6 things are wrong"),
        "{said:?}"
    );
    assert!(said.out.contains("\n         have it load all tables anew, `tidegate refresh`"), "{said:?}");
    let gateway = &service.get("/api/admin/gateways").await.ok()["items"][0];
    assert_eq!(
        (&gateway["poller"]["lease_changes"], &gateway["poller"]["recorder"]),
        (&json!(3), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_a_finding_too() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let away = ["--server", "http://127.0.0.1:1", "-o", "json"];
    let mut command = crate::command_line::program(desk.dir.path());
    command.arg("doctor").args(away).args(["--token-file", "token"]);
    let said = crate::command_line::run(command, "").await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["findings"][0]["code"], "service_away", "{answer}");
    assert!(answer["findings"][0]["detail"].as_str().unwrap().contains("nobody answers at"), "{answer}");
}
