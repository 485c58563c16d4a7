//! Each act has its effect, leaves its line in the audit stream, and is refused to everybody else.

use std::sync::Arc;

use serde_json::{Value, json};
use streams_core::EntryId;
use streams_core::broker::{Broker, BrokerErrorKind};
use streams_core::keys::PartitionKey;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::console::Console;
use streams_tests::{Fault, Faulty, Gate, Op};

use super::{Site, TOKEN, app, embedded};

fn of_stamp(more: &Value) -> Value {
    let mut body = json!({ "stream": "parcels", "group": "stamp", "by": "alice" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The lines of the audit stream: act, who and detail.
async fn audit(broker: &Arc<dyn Broker>) -> Vec<(String, String, String)> {
    let lines = broker.read(&PartitionKey::audit(None), EntryId::ZERO, 100).await.unwrap();
    let text = |line: &streams_core::Entry, name| String::from_utf8(line.field(name).unwrap().to_vec()).unwrap();
    lines.iter().map(|line| (text(line, "act"), text(line, "by"), text(line, "detail"))).collect()
}

/// Waits until the newest job is over; answers it.
async fn job(site: &Site) -> Value {
    let over = |jobs: &Value| {
        jobs["jobs"]
            .as_array()
            .unwrap()
            .last()
            .is_some_and(|job| job["state"] != "running" && job["state"] != "waiting")
    };
    let jobs = site.until("/api/jobs", over).await;
    jobs["jobs"].as_array().unwrap().last().unwrap().clone()
}

#[tokio::test]
async fn a_group_is_paused_resumed_reset_and_removed() {
    let broker = embedded();
    let running = app(Arc::clone(&broker), 12).await;
    let site = Site::on(&broker).await;
    assert_eq!(site.act("token", &json!({})).await.status, 200);
    let group = "/api/group?stream=parcels&group=stamp";

    let paused = site.act("pause", &of_stamp(&json!({ "why": "a look" }))).await;
    assert_eq!(paused.status, 200, "{}", paused.body);
    let view = site.json(group).await;
    assert_eq!((&view["paused"]["by"], &view["paused"]["why"]), (&json!("alice"), &json!("a look")));
    assert_eq!(site.act("resume", &of_stamp(&json!({}))).await.json(), json!({ "partitions": 2 }));
    assert_eq!(site.json(group).await["paused"], Value::Null);

    let plan = site.json("/api/reset?stream=parcels&group=stamp&to=earliest").await;
    let again: u64 = plan["plan"].as_array().unwrap().iter().map(|part| part["again"].as_u64().unwrap()).sum();
    assert_eq!(again, 12, "{plan}");
    let reset = site.act("reset", &of_stamp(&json!({ "to": "earliest" }))).await;
    assert_eq!(reset.json()["checkpoints"], json!(["0-0", "0-0"]), "{}", reset.body);
    // The odd ones are given up once more.
    let dead = |view: &Value| view["row"]["dead"] == 12;
    site.until(group, dead).await;
    assert_eq!(site.act("reset", &of_stamp(&json!({ "to": "tomorrow" }))).await.status, 400);

    let refused = site.act("remove", &of_stamp(&json!({}))).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.error().contains("is run by 1 process"), "{}", refused.body);
    assert_eq!(running.shutdown().await, streams_runtime::Stopped::Clean);
    assert!(site.act("remove", &of_stamp(&json!({}))).await.error().contains("12 dead letters"));
    let removed = site.act("remove", &of_stamp(&json!({ "force": true }))).await;
    assert_eq!(removed.json(), json!({ "partitions": 2, "dead_letters": 12 }));
    assert_eq!(site.get(group).await.status, 404);

    let who = "alice (console)".to_owned();
    let line = |act: &str, detail: &str| (act.to_owned(), who.clone(), detail.to_owned());
    let expected = [
        line("pause", "a look"),
        line("resume", "was paused"),
        line("reset", "to earliest; was at 0/"),
        line("remove", "2 partitions and 12 dead letters, by force"),
    ];
    let lines = audit(&broker).await;
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (act, by, detail)) in lines.iter().zip(expected) {
        assert!((&line.0, &line.1) == (&act, &by) && line.2.starts_with(&detail), "{act}: {line:?}");
    }
}

#[tokio::test]
async fn letters_are_replayed_and_discarded_by_id_and_by_filter() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 200).await;
    let site = Site::on(&broker).await;
    let list = site.json("/api/dead?stream=parcels&group=stamp&cause=asked&count=3").await;
    let ids: Vec<_> = list["letters"].as_array().unwrap().iter().map(|letter| letter["id"].clone()).collect();
    let replayed = site.act("replay", &of_stamp(&json!({ "ids": ids }))).await;
    assert_eq!(replayed.json(), json!({ "job": 1 }), "{}", replayed.body);
    let over = job(&site).await;
    assert_eq!((&over["state"], &over["done"], &over["kind"]), (&json!("done"), &json!(3), &json!("replay")));
    // They fail again, and are letters with another id and one replay.
    let back =
        |page: &Value| page["letters"].as_array().unwrap().iter().filter(|letter| letter["replays"] == 1).count() == 3;
    site.until("/api/dead?stream=parcels&group=stamp&count=100", back).await;

    site.act("discard", &of_stamp(&json!({ "filter": { "cause": "handler", "reason": "scale" } }))).await;
    assert_eq!(job(&site).await["done"], 50);
    site.act("discard", &of_stamp(&json!({ "ids": [ids[0]] }))).await;
    assert_eq!(job(&site).await["done"], 0, "a letter that is gone");
    site.act("discard", &of_stamp(&json!({ "filter": {} }))).await;
    let over = job(&site).await;
    assert_eq!((&over["done"], &over["what"]), (&json!(50), &json!("all dead letters")));
    assert_eq!(site.json("/api/dead?stream=parcels&group=stamp").await["letters"], json!([]));

    for bad in [
        json!({}),
        json!({ "ids": [] }),
        json!({ "ids": ["x"] }),
        json!({ "ids": ids, "filter": {} }),
        json!({ "filter": { "cause": "bad" } }),
        json!({ "ids": vec!["0/1-0"; 1_001] }),
    ] {
        assert_eq!(site.act("discard", &of_stamp(&bad)).await.status, 400, "{bad}");
    }
    let large = json!({ "ids": vec!["0/1767225600000-0"; 10_000] });
    assert_eq!(site.act("discard", &of_stamp(&large)).await.status, 413);
    let details: Vec<_> = audit(&broker).await.into_iter().map(|(act, _, detail)| format!("{act} {detail}")).collect();
    assert!(details.contains(&r#"discard dead letters with {"cause":"handler","reason":"scale"}"#.to_owned()));
}

#[tokio::test]
async fn a_letter_is_edited_checked_and_handled_again() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 4).await;
    let site = Site::on(&broker).await;
    let letters = "/api/dead?stream=parcels&group=stamp";
    let list = site.json(letters).await["letters"].clone();
    let id = list[0]["id"].as_str().unwrap();
    let edit = async |json: &str, plan: bool| {
        site.act("edit", &of_stamp(&json!({ "id": id, "json": json, "plan": plan }))).await
    };
    for (json, says) in [
        (r#"{"n": -1, "note": ""}"#, "it is no Parcel@1 as"),
        (r#"{"n": 4, "nte": ""}"#, "perhaps `note` is meant"),
        (r#"{"n": 4"#, "no JSON"),
    ] {
        let refused = edit(json, false).await;
        assert_eq!((refused.status, refused.error().contains(says)), (422, true), "{}", refused.body);
    }
    let mended = r#"{"n": 18446744073709551612, "note": "mended"}"#;
    let plan = edit(mended, true).await.json();
    assert_eq!(plan, json!({ "id": id, "changed": ["n", "note"], "checked": "Parcel@1" }));
    assert_eq!(site.json(letters).await["letters"], list, "a plan changes nothing");
    assert_eq!(edit(mended, false).await.json(), plan);
    // Its number is a multiple of four.
    let gone = |histogram: &Value| histogram["total"] == 1 && histogram["waiting"] == 0;
    site.until("/api/dead/histogram?stream=parcels&group=stamp", gone).await;
    assert_eq!(edit(mended, false).await.status, 404);
    let line = ("edit".to_owned(), "alice (console)".to_owned(), format!("dead letter {id} Parcel: n, note"));
    assert_eq!(audit(&broker).await, [line]);
}

#[tokio::test]
async fn letters_that_wait_to_be_handled_again_are_shown() {
    let broker = embedded();
    let running = app(Arc::clone(&broker), 4).await;
    assert_eq!(running.shutdown().await, streams_runtime::Stopped::Clean);
    let site = Site::on(&broker).await;
    site.act("replay", &of_stamp(&json!({ "filter": {} }))).await;
    job(&site).await;
    let histogram = site.json("/api/dead/histogram?stream=parcels&group=stamp").await;
    let shown = (&histogram["total"], &histogram["waiting"], &histogram["stands"]);
    assert_eq!(shown, (&json!(0), &json!(2), &json!("unattended")));
    assert_eq!(site.json("/api/group?stream=parcels&group=stamp").await["row"]["replays"], 2);
}

#[tokio::test]
async fn a_job_says_how_far_it_is_waits_for_the_server_and_is_stopped() {
    let wire = Faulty::over(Arc::new(Embedded::new()));
    let broker: Arc<dyn Broker> = Arc::new(wire.clone());
    let running = app(Arc::clone(&broker), 400).await;
    assert_eq!(running.shutdown().await, streams_runtime::Stopped::Clean);
    let site = Site::on(&broker).await;
    let gate = Gate::default();
    wire.once(Op::Letters, Fault::Fail(BrokerErrorKind::Unavailable));
    wire.always(Op::Letters, Fault::Hold(gate.clone()));
    let started = site.act("replay", &of_stamp(&json!({ "filter": {} }))).await.json();
    gate.arrived(1).await;
    let waiting = &site.json("/api/jobs").await["jobs"][0];
    assert_eq!((&waiting["state"], &waiting["done"]), (&json!("waiting"), &json!(0)), "{waiting}");
    assert!(waiting["why"].is_string() && waiting["seen"].as_u64().unwrap() >= 32, "{waiting}");
    assert_eq!(site.act("stop", &json!({ "job": 77 })).await.status, 404);
    assert_eq!(site.act("stop", &started).await.status, 200);
    gate.open();
    let over = job(&site).await;
    assert_eq!(over["state"], "stopped", "{over}");
    assert_eq!(over["done"], 32, "what was in hand is done, and no more: {over}");
    let left = site.json("/api/dead/histogram?stream=parcels&group=stamp").await;
    assert_eq!(left["matching"], 168);
}

#[tokio::test]
async fn only_so_many_jobs_run_at_once() {
    let wire = Faulty::over(Arc::new(Embedded::new()));
    let broker: Arc<dyn Broker> = Arc::new(wire.clone());
    let _app = app(Arc::clone(&broker), 20).await;
    let site = Site::on(&broker).await;
    let gate = Gate::default();
    wire.always(Op::Letters, Fault::Hold(gate.clone()));
    for _ in 0..4 {
        assert_eq!(site.act("discard", &of_stamp(&json!({ "filter": {} }))).await.status, 200);
    }
    assert_eq!(site.act("discard", &of_stamp(&json!({ "filter": {} }))).await.status, 429);
    gate.open();
    let over = |jobs: &Value| jobs["jobs"].as_array().unwrap().iter().all(|job| job["state"] == "done");
    site.until("/api/jobs", over).await;
}

/// Every act, with a body that it would take.
fn every_act(id: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("token", json!({})),
        ("publish", json!({ "stream": "parcels", "event": "Parcel", "json": r#"{"n": 1, "note": ""}"# })),
        ("pause", of_stamp(&json!({ "why": "x" }))),
        ("resume", of_stamp(&json!({}))),
        ("reset", of_stamp(&json!({ "to": "earliest" }))),
        ("remove", of_stamp(&json!({ "force": true }))),
        ("replay", of_stamp(&json!({ "ids": [id] }))),
        ("replay", of_stamp(&json!({ "filter": {} }))),
        ("discard", of_stamp(&json!({ "ids": [id] }))),
        ("discard", of_stamp(&json!({ "filter": {} }))),
        ("edit", of_stamp(&json!({ "id": id, "json": r#"{"n": 4, "note": ""}"# }))),
        ("stop", json!({ "job": 1 })),
    ]
}

#[tokio::test]
async fn no_request_changes_a_byte_without_the_token_or_where_the_console_is_read_only() {
    let server = streams_tests::Options::default().args(["--enable-debug-command", "yes"]).start();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&server.url()).unwrap());
    let running = app(Arc::clone(&broker), 20).await;
    assert_eq!(running.shutdown().await, streams_runtime::Stopped::Clean);
    let site = Site::on(&broker).await;
    let read_only = Site::serve(Console::on(Arc::clone(&broker), None).unwrap().token(TOKEN).read_only()).await;
    let tokenless = Site::serve(Console::on(Arc::clone(&broker), None).unwrap()).await;
    let letter =
        site.json("/api/dead?stream=parcels&group=stamp").await["letters"][0]["id"].as_str().unwrap().to_owned();
    let entry = site.json("/api/entries?stream=parcels").await["entries"][0].clone();
    let digest = || server.run::<String>("DEBUG DIGEST");
    let before = digest();
    assert_ne!(before, "0".repeat(40));

    let kind = "\r\nContent-Type: application/json";
    let token = format!("\r\nAuthorization: Bearer {TOKEN}");
    let own = format!("\r\nOrigin: http://{}", site.address);
    let refused = [
        (401, format!("{kind}{own}")),
        (401, format!("{kind}{own}\r\nAuthorization: Bearer {}", "f".repeat(TOKEN.len()))),
        (401, format!("{kind}{own}\r\nAuthorization: Bearer {TOKEN}0")),
        (403, format!("{kind}{token}\r\nOrigin: http://evil.example")),
        (403, format!("{kind}{token}\r\nOrigin: null")),
        (403, format!("{kind}{token}{own}\r\nSec-Fetch-Site: cross-site")),
        (415, format!("{token}{own}")),
        (415, format!("{token}{own}\r\nContent-Type: text/plain")),
        (415, format!("{token}{own}\r\nContent-Type: application/x-www-form-urlencoded")),
    ];
    for (act, body) in &every_act(&letter) {
        for (status, headers) in &refused {
            let head = format!("POST /api/{act} HTTP/1.1\r\nHost: {}{headers}", site.address);
            assert_eq!(site.send(&head, &body.to_string()).await.status, *status, "{act}{headers}");
        }
        for site in [&read_only, &tokenless] {
            let answer = site.act(act, body).await;
            assert_eq!((answer.status, answer.error().contains("read-only")), (403, true), "{act}: {}", answer.body);
        }
        let get = site.get(&format!("/api/{act}?stream=parcels&group=stamp&to=earliest")).await;
        assert_eq!(
            get.status == 200,
            *act == "reset",
            "GET {act}, where only that of a reset is its plan: {}",
            get.status
        );
    }
    for site in [&site, &read_only] {
        for path in [
            "about",
            "overview",
            "server",
            "jobs",
            "stream?stream=parcels",
            "group?stream=parcels&group=stamp",
            "entries?stream=parcels&match=x",
            "entries?stream=parcels&oldest=true",
            "dead?stream=parcels&group=stamp",
            "dead/histogram?stream=parcels&group=stamp",
            "reset?stream=parcels&group=stamp&to=latest",
            "history",
            "shapes",
            "shape?stream=parcels&event=Parcel",
            "handlers",
            "trace?id=x",
            "stream?stream=nowhere",
            &format!("dead/letter?stream=parcels&group=stamp&id={letter}"),
            &format!("entry?stream=parcels&partition={}&id={}", entry["partition"], entry["id"].as_str().unwrap()),
        ] {
            let answer = site.get(&format!("/api/{path}")).await;
            assert!([200, 404].contains(&answer.status), "{path}: {}", answer.body);
        }
        assert_eq!(site.get("/").await.status, 200);
    }
    assert_eq!(digest(), before, "nothing was written");

    // The digest sees what an act does.
    assert_eq!(site.act("pause", &of_stamp(&json!({}))).await.status, 200);
    assert_ne!(digest(), before);
}
