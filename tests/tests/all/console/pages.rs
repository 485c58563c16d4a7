//! Publishing from a form, the pages of events, handlers and traces, fields that are hidden, and charts with a past.

use std::sync::Arc;

use serde_json::{Value, json};
use streams_core::EntryId;
use streams_core::broker::Broker;
use streams_core::keys::{PartitionKey, StreamKey, partition_of};
use streams_runtime::console::Console;
use streams_runtime::{App, Config, Redact, consumers};

use super::{Site, TOKEN, app, embedded, stamp, weigh};

fn parcel(more: &Value) -> Value {
    let mut body = json!({ "stream": "parcels", "event": "Parcel", "json": r#"{"n": 18446744073709551615, "note": "tried"}"#, "by": "alice" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("{name}: {value}"))
}

#[tokio::test]
async fn an_event_is_checked_planned_published_by_its_key_and_noted() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 1).await;
    let site = Site::on(&broker).await;
    let length = async || site.json("/api/stream?stream=parcels").await["length"].clone();
    let before = length().await;
    let plan = site.act("publish", &parcel(&json!({ "plan": true }))).await;
    let partition = partition_of("18446744073709551615", 2);
    assert_eq!(plan.json()["partition"], partition, "{}", plan.body);
    assert_eq!((plan.json()["event"].clone(), length().await), (json!("Parcel@1"), before), "a plan publishes nothing");

    let headers = json!({ "headers": [["tenant", "a"]], "id": "p-1" });
    let done = site.act("publish", &parcel(&headers)).await.json();
    assert_eq!((&done["event_id"], &done["partition"]), (&json!("p-1"), &json!(partition)), "{done}");
    let path = format!("/api/entry?stream=parcels&partition={partition}&id={}", done["id"].as_str().unwrap());
    let entry = site.json(&path).await;
    assert_eq!(entry["json"], r#"{"n": 18446744073709551615, "note": "tried"}"#);
    assert_eq!(entry["headers"], json!([["tenant", "a"]]));
    // The handler of the program takes it as any other event.
    let settled = |entry: &Value| entry["groups"].as_array().unwrap().iter().all(|group| group["is"] == "settled");
    site.until(&path, settled).await;
    let by_text = site.act("publish", &parcel(&json!({ "key": "k" }))).await.json();
    assert_eq!(by_text["partition"], partition_of("k", 2));

    let lines = broker.read(&PartitionKey::audit(None), EntryId::ZERO, 10).await.unwrap();
    let text = |line: &streams_core::Entry, name| String::from_utf8(line.field(name).unwrap().to_vec()).unwrap();
    assert_eq!(lines.len(), 2, "a plan leaves no line");
    assert_eq!((text(&lines[0], "act"), text(&lines[0], "by")), ("publish".to_owned(), "alice (console)".to_owned()));
    assert_eq!(text(&lines[0], "detail"), "1 Parcel@1");
}

#[tokio::test]
async fn an_event_that_does_not_fit_is_refused_with_its_place() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 1).await;
    let site = Site::on(&broker).await;
    for (more, status, words) in [
        (json!({ "json": r#"{"n": -1, "note": ""}"# }), 422, "`n`: expected u64, found the number -1"),
        (json!({ "json": r#"{"n": 1, "not": ""}"# }), 422, "perhaps `note` is meant"),
        (json!({ "json": "{" }), 422, "no JSON"),
        (json!({ "event": "Parcl" }), 422, "perhaps `Parcel` is meant"),
        (json!({ "event": "Parcel@7" }), 422, "no program has recorded"),
        (json!({ "key_field": "size" }), 422, "`size`"),
        (json!({ "id": "x".repeat(200) }), 422, "1 to 128 bytes"),
        (json!({ "headers": [["payload", "x"]] }), 422, "`payload` cannot be the name of a header"),
        (json!({ "headers": vec![["a", "b"]; 33] }), 422, "33 headers"),
        (json!({ "stream": "parcls" }), 404, "perhaps `parcels` is meant"),
        (json!({ "json": 7 }), 400, "the body cannot be read"),
    ] {
        let answer = site.act("publish", &parcel(&more)).await;
        assert_eq!((answer.status, answer.error().contains(words)), (status, true), "{more}: {}", answer.body);
    }
    assert_eq!(site.json("/api/stream?stream=parcels").await["length"], 1, "nothing was published");
}

#[tokio::test]
async fn events_are_shown_with_their_documentation_shape_publishers_and_groups() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 1).await;
    let site = Site::on(&broker).await;
    for path in ["/api/shapes", "/api/shapes?stream=parcels"] {
        let page = site.json(path).await;
        let [event] = &list(&page, "events")[..] else { panic!("{page}") };
        assert_eq!(
            (&event["name"], &event["key"], &event["groups"]),
            (&json!("Parcel@1"), &json!("n"), &json!(["stamp", "weigh"]))
        );
        assert_eq!((&event["doc"], list(event, "publishers").len()), (&json!("A parcel that is sent."), 1), "{event}");
        assert_eq!(page["next"], Value::Null);
    }
    assert_eq!(site.json("/api/shapes?after=parcels").await["events"], json!([]));
    let shape = site.json("/api/shape?stream=parcels&event=Parcel").await;
    let one = &shape["shapes"][0];
    assert_eq!(one["schema"]["properties"]["note"], json!({ "type": "string" }), "{shape}");
    assert!(one["schema_text"].as_str().unwrap().contains("18446744073709551615"), "{shape}");
    assert_eq!((&shape["partitions"], &shape["versions"]), (&json!(2), &json!([1])));
    assert_eq!(site.get("/api/shape?stream=parcels&event=Parcl").await.status, 404);
    assert_eq!(site.get("/api/shapes?stream=parcls").await.status, 404);
}

#[tokio::test]
async fn handlers_of_the_program_have_options_with_origin_durations_and_the_last_failure() {
    let broker = embedded();
    let mut config = Config::new().dead_letter_storm(u32::MAX);
    config.consumers = config.consumers.with_max_crashes(9);
    let running = App::with(consumers![weigh, stamp]).broker(Arc::clone(&broker)).config(config).start().await.unwrap();
    let parcels = (0..40).map(|n| super::Parcel { n, note: String::new() });
    for receipt in running.publisher().publish_all(parcels).await {
        receipt.unwrap();
    }
    running.settled().await.unwrap();
    let site = Site::serve(running.console()).await;
    let view = site.json("/api/handlers").await;
    let handlers = list(&view["program"], "handlers");
    let stamp = handlers.iter().find(|handler| handler["name"] == "stamp").unwrap();
    let of = |name: &str| list(stamp, "settings").iter().find(|it| it["name"] == name).unwrap();
    assert_eq!((&of("max_attempts")["value"], &of("max_attempts")["origin"]), (&json!("1"), &json!("attribute")));
    assert_eq!(of("max_crashes")["origin"], "Config::consumers");
    assert_eq!(of("timeout")["origin"], "default");
    let calls: u64 = list(stamp, "buckets").iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!((calls, &stamp["failures"]), (40, &json!(10)));
    assert!(stamp["last_failure"]["reason"].as_str().unwrap().starts_with("the scale does not answer"), "{stamp}");
    assert_eq!((&stamp["doc"], &stamp["event"]), (&json!("Gives up every odd parcel."), &json!("Parcel@1")));
    let members = list(&view, "members");
    assert_eq!((members.len(), &members[0]["process"]), (2, &view["program"]["name"]), "a row per group");

    let beside = Site::on(&broker).await.json("/api/handlers").await;
    assert_eq!((&beside["program"], list(&beside, "members").len()), (&Value::Null, 2));
}

#[tokio::test]
async fn an_events_way_is_found_by_its_id_its_trace_or_a_header() {
    let broker = embedded();
    let running = app(Arc::clone(&broker), 2_100).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parcel = super::Parcel { n: 0, note: String::new() };
    let publish = running.publisher().publish(&parcel).id("sought-1").header("correlation_id", "checkout 7");
    publish.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).await.unwrap();
    running.settled().await.unwrap();
    let site = Site::on(&broker).await;
    for id in ["sought-1", trace, "checkout%207"] {
        let mut path = format!("/api/trace?id={id}&within=3600");
        let (mut found, mut seen, mut pages) = (Vec::new(), 0, 0);
        loop {
            let page = site.json(&path).await;
            found.extend(list(&page, "found").clone());
            seen += page["seen"].as_u64().unwrap();
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/trace?id={id}&from={next}");
        }
        assert_eq!((found.len(), seen, pages), (1, 2_101, 2), "{id}");
        assert_eq!((&found[0]["stream"], &found[0]["event_id"]), (&json!("parcels"), &json!("sought-1")));
        let groups = json!([{ "group": "stamp", "is": "settled" }, { "group": "weigh", "is": "settled" }]);
        assert_eq!(found[0]["groups"], groups);
    }
    let none = site.json("/api/trace?id=sought-1&within=0").await;
    assert_eq!((&none["seen"], &none["next"]), (&json!(0), &Value::Null), "{none}");
    for bad in ["id=", "id=x&from=y", &format!("id={}", "x".repeat(600))] {
        assert_eq!(site.get(&format!("/api/trace?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn hidden_fields_are_in_no_answer_and_are_not_found_either() {
    let broker = embedded();
    let running = app(Arc::clone(&broker), 0).await;
    let parcel = super::Parcel { n: 1, note: "sesame-payload".to_owned() };
    let receipt =
        running.publisher().publish(&parcel).header("tenant", "sesame-header").header("x", "shown").await.unwrap();
    let odd = vec![(b"event".to_vec(), b"Parcel@1".to_vec()), (b"payload".to_vec(), b"\xc1sesame-bytes".to_vec())];
    let partition = StreamKey::new(None, "parcels", 2).partition(0);
    let bytes = broker.append(&partition, vec![odd], None).await.unwrap()[0];
    running.settled().await.unwrap();
    let console = Console::on(Arc::clone(&broker), None).unwrap().token(TOKEN);
    let open = Site::serve(console.clone()).await;
    let hiding = Site::serve(console.redact(Redact::new(["note", "tenant"]))).await;
    let letters = open.json("/api/dead?stream=parcels&group=stamp").await;
    let letter =
        letters["letters"].as_array().unwrap().iter().find(|letter| letter["event_id"] == receipt.event_id.as_str());
    let letter = letter.unwrap()["id"].as_str().unwrap();
    let (index, id) = (receipt.partition, receipt.entry_id);
    let digits: String = "sesame".bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut shown = 0;
    for path in [
        "/api/entries?stream=parcels".to_owned(),
        format!("/api/entry?stream=parcels&partition={index}&id={id}"),
        format!("/api/entry?stream=parcels&partition=0&id={bytes}"),
        "/api/dead?stream=parcels&group=stamp".to_owned(),
        format!("/api/dead/letter?stream=parcels&group=stamp&id={letter}"),
        format!("/api/trace?id={}", receipt.event_id),
    ] {
        let holds = |body: &str| body.contains("sesame") || body.contains(&digits);
        shown += u32::from(holds(&open.get(&path).await.body));
        let answer = hiding.get(&path).await;
        assert!(answer.status == 200 && !holds(&answer.body), "{path}: {}", answer.body);
    }
    assert_eq!(shown, 6, "without hiding each answer shows it");
    let found = async |site: &Site, text: &str| {
        list(&site.json(&format!("/api/entries?stream=parcels&match={text}")).await, "entries").len()
    };
    assert_eq!((found(&open, "sesame").await, found(&hiding, "sesame").await), (1, 0));
    assert_eq!(
        (found(&hiding, "shown").await, &hiding.json("/api/about").await["redact"]),
        (1, &json!(["note", "tenant"]))
    );
}

#[tokio::test]
async fn charts_begin_before_their_page_was_opened_and_nobody_looks_for_them_alone() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 3).await;
    let site = Site::on(&broker).await;
    assert_eq!(site.json("/api/history").await["series"], json!({}), "nobody has looked yet");
    site.json("/api/overview").await;
    let series = site.json("/api/history").await["series"].clone();
    assert_eq!((&series["parcels"][0][1], series["parcels"].as_array().unwrap().len()), (&json!(3), 1), "{series}");
    assert_eq!(series["parcels\nweigh"][0].as_array().unwrap()[1..], [json!(0), json!(3)], "{series}");
}

#[tokio::test]
async fn the_server_page_has_the_findings_of_the_tools_doctor() {
    let server = streams_tests::RedisServer::start();
    let broker: Arc<dyn Broker> = Arc::new(streams_runtime::broker::Redis::open(&server.url()).unwrap());
    server.run::<String>("CONFIG SET maxmemory-policy allkeys-lru");
    let view = Site::on(&broker).await.json("/api/server").await;
    let worst = &view["findings"][0];
    assert_eq!((&worst["about"], &worst["verdict"]), (&json!("eviction"), &json!("critical")), "{view}");
    assert!(worst["fix"].as_str().unwrap().contains("noeviction"), "{view}");
    assert!(list(&view, "findings").iter().any(|it| it["about"] == "version" && it["verdict"] == "ok"), "{view}");
}
