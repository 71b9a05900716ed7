//! What takes a thread or much memory for long has so many places.

use reqwest::Method;

use crate::test_service::{TestService, until};

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_sent_at_the_same_time_than_there_are_places() {
    let service = TestService::start().await;
    let places = &service.running.app_state().places;
    let downloads: Vec<_> = std::iter::from_fn(|| places.download().ok()).collect();
    let files: Vec<_> = std::iter::from_fn(|| places.country_file().ok()).collect();
    for (method, path) in [
        (Method::GET, "/api/admin/bans/export"),
        (Method::GET, "/api/admin/events?format=csv"),
        (Method::POST, "/api/admin/backup"),
        (Method::POST, "/api/admin/geo"),
    ] {
        service.ask(method, path, "").await.problem(503, "too_many_connections");
    }
    service.get("/api/admin/events").await.ok();
    drop((downloads, files));
    for path in ["/api/admin/bans/export", "/api/admin/events?format=csv"] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    assert_eq!(service.post("/api/admin/backup", "").await.status, 200);
    until("each gives its place back", async || {
        let all: Vec<_> = std::iter::from_fn(|| places.download().ok()).collect();
        (all.len() == 16).then_some(())
    })
    .await;
}
