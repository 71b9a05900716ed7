//! TLS between the gate and the admin service, each with a certificate: the additions of
//! `envoy/admin-tls.yaml`.

mod gateway;

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use tidegate_backend::Authority;
use tidegate_stack::http::{self, PATIENCE, Request};
use tidegate_stack::{Options, Stack, wait};

use gateway::{Gateway, NAME};

/// The status and the code of a request of this client.
fn ask(stack: &Stack, client: &str) -> Result<(u16, String)> {
    let answer = http::send(stack.gate(), &Request::get("/").from(client))?;
    let code = answer.json()?["code"].as_str().unwrap_or_default().to_owned();
    Ok((answer.status, code))
}

fn bans_and_unbans(stack: &Stack, client: &str) {
    assert_eq!(ask(stack, client).unwrap().0, 200);
    stack.ban(client).unwrap();
    assert_eq!(ask(stack, client).unwrap(), (403, "ip_banned".to_owned()));
    stack.unban(client).unwrap();
}

#[test]
fn a_ban_arrives_over_mutual_tls_and_certificates_are_exchanged_meanwhile() {
    let mut options = Options::for_test("admin-tls").unwrap();
    let tls = options.dir.join("tls");
    let services = Authority::new(&options.dir.join("services.pem")).unwrap();
    let gateways = Authority::new(&options.dir.join("gateways.pem")).unwrap();
    let later = Authority::new(&options.dir.join("later/gateways.pem")).unwrap();
    let files = services.files(NAME).unwrap();
    let trusted = options.dir.join("client-ca.pem");
    std::fs::copy(gateways.file(), &trusted).unwrap();
    for (option, path) in [
        ("--gateway-tls-cert", &files.certificate),
        ("--gateway-tls-key", &files.key),
        ("--gateway-client-ca", &trusted),
    ] {
        options.admin_args.extend([option.into(), path.into()]);
    }
    let gateway = Arc::new(Gateway::new(&tls, &services, &gateways).unwrap());
    options.control = Some(Arc::clone(&gateway) as _);
    let mut stack = Stack::start_serving(options).unwrap();
    bans_and_unbans(&stack, "192.0.2.1");

    // The service shows another certificate, and gateways have one of another authority, which from then on is the
    // only one.
    let seen = stack
        .stats()
        .unwrap()
        .get("cluster.tidegate-admin.client_ssl_socket_factory.ssl_context_update_by_sds");
    services.files(NAME).unwrap();
    gateway.exchange(&later).unwrap();
    wait::until("Envoy has its new certificate", PATIENCE, || {
        let now =
            stack.stats()?.get("cluster.tidegate-admin.client_ssl_socket_factory.ssl_context_update_by_sds");
        Ok((now > seen).then_some(()))
    })
    .unwrap();
    std::fs::copy(later.file(), &trusted).unwrap();
    bans_and_unbans(&stack, "192.0.2.2");
    // Which it needs for new connections.
    stack.stop_admin();
    stack.start_admin().unwrap();
    stack.wait_gate_ready().unwrap();
    bans_and_unbans(&stack, "192.0.2.3");
    let health = stack.api_ok(http::Method::GET, "/api/health", None).unwrap();
    assert_eq!(health, json!({ "status": "ok" }));

    gateway.show_nothing();
    stack.kill_envoy();
    stack.start_envoy().unwrap();
    wait::until("the gate answers without the admin service", PATIENCE, || {
        let answer = ask(&stack, "192.0.2.4");
        Ok(answer.ok().filter(|answer| *answer == (503, "check_unavailable".to_owned())))
    })
    .unwrap();
    let page = http::send(stack.people(), &Request::get("/metrics")).unwrap().text();
    let failed = "tidegate_admin_tls_handshakes_failed_total{listener=\"gateways\"} ";
    assert!(page.contains(failed) && !page.contains(&format!("{failed}0\n")), "{page}");
}
