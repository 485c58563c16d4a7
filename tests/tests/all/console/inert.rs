//! Data of a stream is text to the console: in no answer can it become markup or a script.

use std::sync::Arc;

use streams_core::keys::StreamKey;
use streams_runtime::codec;

use super::{Parcel, Site, app, embedded};

const SCRIPT: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

/// The headers that every answer must have.
fn is_guarded(head: &str, path: &str) {
    let policy = head.lines().find(|line| line.starts_with("content-security-policy:")).unwrap_or_default();
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{path} lacks {part}: {head}");
    }
    assert!(!policy.contains("unsafe"), "{path}: {policy}");
    assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
    assert!(head.contains("referrer-policy: no-referrer"), "{path}: {head}");
}

#[tokio::test]
async fn a_script_in_a_payload_a_header_an_event_or_a_name_stays_text() {
    let broker = embedded();
    let app = app(Arc::clone(&broker), 0).await;
    for n in [1, 2] {
        let parcel = Parcel { n, note: SCRIPT.to_owned() };
        app.publisher().publish(&parcel).header("x", SCRIPT).await.unwrap();
    }
    app.settled().await.unwrap();
    let mut payload = Vec::new();
    codec::encode(&Parcel { n: 1, note: String::new() }, &mut payload).unwrap();
    let odd = vec![
        (b"event".to_vec(), SCRIPT.as_bytes().to_vec()),
        (SCRIPT.as_bytes().to_vec(), b"</dl>".to_vec()),
        (b"payload".to_vec(), payload),
    ];
    let partition = StreamKey::new(None, "parcels", 2).partition(0);
    let id = broker.append(&partition, vec![odd], None).await.unwrap()[0];
    app.settled().await.unwrap();
    let site = Site::on(&broker).await;
    let page = site.get("/").await.body;
    let quoted = SCRIPT.replace('<', "%3C").replace('>', "%3E").replace('"', "%22").replace(' ', "%20");
    let letters = site.json("/api/dead?stream=parcels&group=stamp").await;
    let letter = letters["letters"][0]["id"].as_str().unwrap().to_owned();
    for path in [
        "/api/overview".to_owned(),
        "/api/entries?stream=parcels".to_owned(),
        format!("/api/entry?stream=parcels&id={id}"),
        format!("/api/entries?stream=parcels&match={quoted}"),
        "/api/dead?stream=parcels&group=stamp".to_owned(),
        "/api/dead/histogram?stream=parcels&group=stamp".to_owned(),
        format!("/api/dead/letter?stream=parcels&group=stamp&id={letter}"),
        format!("/api/stream?stream={quoted}"),
        format!("/api/group?stream=parcels&group={quoted}"),
        format!("/api/entries?stream=parcels&from={quoted}"),
        "/api/shapes".to_owned(),
        format!("/api/shape?stream=parcels&event={quoted}"),
        format!("/api/trace?id={quoted}"),
        "/api/history".to_owned(),
        "/api/handlers".to_owned(),
        format!("/api/reset?stream=parcels&group=stamp&to={quoted}"),
    ] {
        let answer = site.get(&path).await;
        is_guarded(&answer.head, &path);
        answer.json();
    }
    let whole = site.get(&format!("/api/entry?stream=parcels&id={id}")).await.json();
    assert_eq!(whole["fields"][1][1], "</dl>");

    // The page holds no data: it is the same whatever is asked for and whatever the streams hold.
    for path in ["/", "/?page=stream&stream=%3Cscript%3E"] {
        let answer = site.get(path).await;
        is_guarded(&answer.head, path);
        assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{}", answer.head);
        assert_eq!(answer.body, page);
    }
    for path in ["/%3Cscript%3E", "/assets/%3Cscript%3E", "/api/%3Cscript%3E", "/assets/..%2f..%2fCargo.toml"] {
        let answer = site.get(path).await;
        is_guarded(&answer.head, path);
        assert_eq!((answer.status, answer.json()["error"].is_string()), (404, true), "{path}");
    }
}

#[tokio::test]
async fn files_are_kept_by_the_browser_until_a_build_changes_them() {
    let site = Site::on(&embedded()).await;
    for (path, kind) in [
        ("/assets/app.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let answer = site.get(path).await;
        is_guarded(&answer.head, path);
        assert!(answer.status == 200 && answer.head.contains(kind), "{path}: {}", answer.head);
        let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").to_owned();
        let again = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nIf-None-Match: {tag}", site.address);
        let again = site.send(&again, "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
    }
    let data = site.get("/api/about").await;
    assert!(data.head.contains("cache-control: no-store"), "{}", data.head);
}
