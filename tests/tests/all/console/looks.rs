//! The console shows the deeds of the app; pages, bounds, and names that are not there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use streams_core::keys::StreamKey;
use streams_runtime::broker::Redis;
use streams_runtime::console::Console;
use streams_runtime::{App, Config, consumers};
use streams_tests::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Site, app, embedded, stamp, weigh};

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name} in {value}"))
}

#[tokio::test]
async fn the_overview_a_stream_and_a_group_show_how_they_stand() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 20).await;
    let site = Site::on(&broker).await;
    let overview = site.json("/api/overview").await;
    let stream = &list(&overview, "streams")[0];
    assert_eq!((&stream["name"], &stream["length"], &stream["partitions"]), (&json!("parcels"), &json!(20), &json!(2)));
    let groups = list(stream, "groups");
    assert_eq!(groups.iter().map(|group| &group["name"]).collect::<Vec<_>>(), ["stamp", "weigh"]);
    for group in groups {
        assert_eq!((&group["lag"], &group["living"], &group["condition"]), (&json!(0), &json!(1), &json!("running")));
    }
    assert_eq!((&groups[0]["dead"], &groups[1]["dead"]), (&json!(10), &json!(0)));

    let one = site.json("/api/stream?stream=parcels").await;
    assert_eq!((&one["length"], list(&one, "parts").len()), (&json!(20), 2));
    let group = site.json("/api/group?stream=parcels&group=stamp").await;
    let places = list(&group, "places");
    assert_eq!(places.iter().map(|place| place["dead"].as_u64().unwrap()).sum::<u64>(), 10);
    assert_eq!(places[0]["owner"], group["members"][0]["name"]);
    assert_eq!(group["row"]["condition"], "running");

    let about = site.json("/api/about").await;
    assert_eq!((&about["read_only"], &about["production"]), (&json!(false), &Value::Null));
    let server = site.json("/api/server").await;
    assert!(server["round_trip"].is_u64() && server["facts"] == json!({}), "{server}");
    assert_eq!(site.json("/api/jobs").await, json!({ "jobs": [] }));
}

#[tokio::test]
async fn a_server_on_redis_says_what_it_is() {
    let broker: Arc<dyn streams_core::broker::Broker> =
        Arc::new(Redis::open(&RedisServer::shared().database()).unwrap());
    let server = Site::on(&broker).await.json("/api/server").await;
    assert!(server["facts"]["redis_version"].is_string() || server["facts"]["valkey_version"].is_string(), "{server}");
    assert_eq!(server["facts"]["maxmemory_policy"], "noeviction");
    assert!(server["facts"].get("executable").is_none(), "only what is needed is shown: {server}");
}

/// All pages of a list, one after the other.
async fn pages(site: &Site, path: &str, name: &str, cursor: &str) -> Vec<Value> {
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let page = site.json(&format!("{path}{next}")).await;
        all.extend(list(&page, name).clone());
        match page["next"].as_str() {
            Some(at) => next = format!("&{cursor}={at}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn entries_come_by_time_in_both_directions_and_none_twice() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 50).await;
    let site = Site::on(&broker).await;
    let order = |entry: &Value| {
        let (ms, seq) = entry["id"].as_str().unwrap().split_once('-').unwrap();
        (ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap(), entry["partition"].as_u64().unwrap())
    };
    for count in [1, 7, 50, 200] {
        let newest = pages(&site, &format!("/api/entries?stream=parcels&count={count}"), "entries", "from").await;
        let mut oldest =
            pages(&site, &format!("/api/entries?stream=parcels&oldest=true&count={count}"), "entries", "from").await;
        assert!(oldest.iter().map(order).is_sorted_by(|a, b| a < b), "{oldest:?}");
        assert_eq!(oldest.len(), 50, "pages of {count}");
        oldest.reverse();
        assert_eq!(newest, oldest, "pages of {count}");
    }
    let of_one = site.json("/api/entries?stream=parcels&partition=1").await;
    assert!(list(&of_one, "entries").iter().all(|entry| entry["partition"] == 1) && of_one["partition"] == 1);
    let found = site.json("/api/entries?stream=parcels&match=NUMBER%2017").await;
    assert_eq!((list(&found, "entries").len(), &found["seen"]), (1, &json!(50)), "{found}");

    let row = &found["entries"][0];
    let (partition, id) = (&row["partition"], row["id"].as_str().unwrap());
    let entry = site.json(&format!("/api/entry?stream=parcels&partition={partition}&id={id}")).await;
    assert_eq!(entry["json"], r#"{"n": 17, "note": "number 17"}"#);
    assert_eq!(entry["groups"], json!([{ "group": "stamp", "is": "settled" }, { "group": "weigh", "is": "settled" }]));
    assert!(entry["hex"].as_str().unwrap().starts_with("82a16e11"), "{entry}");
    assert_eq!(list(&entry, "fields").len(), 3);
    let from = id.split_once('-').unwrap().0.parse::<u64>().unwrap() + 1;
    let after = site.json(&format!("/api/entries?stream=parcels&oldest=true&from={from}-0")).await;
    assert!(list(&after, "entries").iter().all(|entry| order(entry).0 >= from), "{after}");
}

#[tokio::test]
async fn bounds_hold_whatever_is_asked_for() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 2_500).await;
    let site = Site::on(&broker).await;
    let page = site.json("/api/entries?stream=parcels&count=1000000").await;
    assert_eq!(list(&page, "entries").len(), 200);
    let none = site.json("/api/entries?stream=parcels&match=nowhere").await;
    assert_eq!((list(&none, "entries").len(), &none["seen"]), (0, &json!(2_000)));
    assert!(none["next"].is_string(), "the search can go on: {none}");
    let letters = site.json("/api/dead?stream=parcels&group=stamp&count=1000000").await;
    assert_eq!(list(&letters, "letters").len(), 100);

    // An entry above the bound is shown in part.
    let large = streams_runtime::codec::DEFAULT_MAX_PAYLOAD;
    let fields = vec![(b"payload".to_vec(), vec![0xc1; large]), (b"x".to_vec(), vec![b'x'; 100_000])];
    let partition = StreamKey::new(None, "parcels", 2).partition(0);
    let id = broker.append(&partition, vec![fields], None).await.unwrap()[0];
    let answer = site.get(&format!("/api/entry?stream=parcels&id={id}")).await;
    assert!(answer.body.len() < 400_000, "{} bytes", answer.body.len());
    let entry = answer.json();
    assert_eq!((&entry["json"], &entry["hex_left_out"]), (&Value::Null, &json!(large - 64 * 1024)));

    let long = format!("/api/entries?stream={}", "x".repeat(20_000));
    assert_eq!(site.get(&long).await.status, 431);
    let mut watching = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let request = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        watching.push(stream);
    }
    let full = site.get("/api/events").await;
    assert_eq!((full.status, full.error().contains("16 browsers")), (503, true), "{}", full.body);
    assert_eq!(site.get("/api/about").await.status, 200, "viewers leave room for requests");
    watching.clear();
    // A viewer who left makes room when the next look cannot be told to it.
    let wait = async {
        while {
            let mut stream = TcpStream::connect(site.address).await.unwrap();
            let request = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.address);
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            first != *b"HTTP/1.1 200"
        } {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("room for a viewer");
}

#[tokio::test]
async fn dead_letters_are_counted_by_reason_listed_and_shown_whole() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 200).await;
    let site = Site::on(&broker).await;
    let of = "stream=parcels&group=stamp";
    let histogram = site.json(&format!("/api/dead/histogram?{of}")).await;
    assert_eq!((&histogram["total"], &histogram["matching"]), (&json!(100), &json!(100)));
    let rows: Vec<_> =
        list(&histogram, "rows").iter().map(|row| (&row["cause"], &row["count"], &row["shape"])).collect();
    assert_eq!(
        rows,
        [
            (&json!("asked"), &json!(50), &json!("parcel # has no stamp")),
            (&json!("handler"), &json!(50), &json!("the scale does not answer for #")),
        ]
    );
    let asked = site.json(&format!("/api/dead/histogram?{of}&cause=asked&reason=STAMP")).await;
    assert_eq!((&asked["matching"], list(&asked, "rows").len()), (&json!(50), 1));

    let all = pages(&site, &format!("/api/dead?{of}&count=30"), "letters", "after").await;
    let mut ids: Vec<_> = all.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(all.len(), 100);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "none twice");
    let some = pages(&site, &format!("/api/dead?{of}&count=7&cause=handler"), "letters", "after").await;
    assert!(some.len() == 50 && some.iter().all(|letter| letter["cause"] == "handler"), "{some:?}");
    let letter = site.json(&format!("/api/dead/letter?{of}&id={}", some[0]["id"].as_str().unwrap())).await;
    assert_eq!((&letter["attempts"], &letter["consumer"]), (&json!(1), &json!("stamp")));
    assert!(letter["json"].as_str().unwrap().contains(r#""note": "number "#), "{letter}");
    assert!(letter["key"].as_str().unwrap().starts_with("parcels."), "{letter}");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_answered_with_the_one_that_is_meant() {
    let broker = embedded();
    let _app = app(Arc::clone(&broker), 5).await;
    let site = Site::on(&broker).await;
    for path in ["stream", "entries", "entry", "group", "dead", "dead/histogram", "dead/letter", "reset"] {
        let answer = site.get(&format!("/api/{path}?stream=parcls&group=stamp&id=1-0&to=earliest")).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert!(answer.error().contains("perhaps `parcels` is meant"), "{path}: {}", answer.body);
    }
    for path in ["group", "dead", "dead/histogram", "dead/letter", "reset"] {
        let answer = site.get(&format!("/api/{path}?stream=parcels&group=stmp&id=1-0&to=earliest")).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert!(answer.error().contains("perhaps `stamp` is meant"), "{path}: {}", answer.body);
    }
    for (path, status) in [
        ("/api/entry?stream=parcels&id=1-0", 404),
        ("/api/entry?stream=parcels&id=x", 400),
        ("/api/entry?stream=parcels&partition=2&id=1-0", 404),
        ("/api/entries?stream=parcels&partition=2", 404),
        ("/api/entries?stream=parcels&from=x", 400),
        ("/api/entries", 400),
        ("/api/dead?stream=parcels&group=stamp&cause=bad", 400),
        ("/api/dead/letter?stream=parcels&group=stamp&id=0/1-0", 404),
        ("/api/reset?stream=parcels&group=stamp&to=soon", 400),
        ("/api/nothing", 404),
        ("/assets/nothing.js", 404),
        ("/nothing", 404),
    ] {
        assert_eq!(site.get(path).await.status, status, "{path}");
    }
    let post = format!("POST /api/overview HTTP/1.1\r\nHost: {}", site.address);
    assert_eq!(site.send(&post, "").await.status, 405);
}

#[tokio::test]
async fn an_open_page_is_told_of_each_look() {
    let broker = embedded();
    let app = app(Arc::clone(&broker), 3).await;
    let site = Site::on(&broker).await;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let request = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    let mut until = async |text: &str| {
        let wait = async {
            while !told.contains(text) {
                let mut some = [0; 4096];
                let read = stream.read(&mut some).await.unwrap();
                assert_ne!(read, 0, "it goes on: {told}");
                told.push_str(std::str::from_utf8(&some[..read]).unwrap());
            }
        };
        // Signs of life come for ever.
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it is told within a minute");
    };
    until("text/event-stream").await;
    until(r#""added":3"#).await;
    app.publisher().publish(&super::Parcel { n: 4, note: String::new() }).await.unwrap();
    until(r#""added":4"#).await;
}

#[tokio::test]
async fn a_program_answers_below_console_beside_its_probes_and_acts_are_off_without_a_token() {
    let address = "127.0.0.1:0".parse().unwrap();
    let app = App::with(consumers![weigh, stamp]).broker(embedded()).config(Config::new().http(address));
    let running = app.start().await.unwrap();
    let site = Site { address: running.http_address().unwrap(), serving: tokio::spawn(async {}).abort_handle() };
    let moved = site.get("/console?page=server").await;
    assert_eq!(moved.status, 308);
    assert!(moved.head.contains("location: console/index.html?page=server"), "{}", moved.head);
    let page = site.get("/console/?page=server").await;
    assert!(page.status == 200 && page.body.contains("assets/app.js"), "{} {}", page.status, page.body);
    assert_eq!(site.get("/console/assets/app.js").await.status, 200);
    assert_eq!(site.json("/console/api/about").await["read_only"], true);
    assert_eq!(site.get("/livez").await.body, "alive\n");
    assert_eq!(site.get("/consoles").await.status, 404);
    // A name that leads here is somebody's site.
    let foreign = site.send("GET /console/api/about HTTP/1.1\r\nHost: evil.example", "").await;
    assert_eq!(foreign.status, 421, "{}", foreign.body);
}

#[tokio::test]
async fn the_router_nests_at_any_path_of_a_service() {
    let console = Console::on(embedded(), None).unwrap().production("production").router();
    let service = axum::Router::new().nest("/a/b", console);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() }).abort_handle();
    let site = Site { address, serving };
    let close = "HTTP/1.1\r\nHost: ops.example\r\nConnection: close";
    assert!(site.send(&format!("GET /a/b {close}"), "").await.head.contains("location: b/index.html\r\n"));
    assert_eq!(site.send(&format!("GET /a/b/index.html {close}"), "").await.status, 200);
    let about = site.send(&format!("GET /a/b/api/about {close}"), "").await;
    assert_eq!(about.json()["production"], "production");
}
