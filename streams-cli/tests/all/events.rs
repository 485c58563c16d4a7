//! `tail`, `get` and `publish`.

use serde_json::json;
use streams_tests::{Program, RedisServer};

use crate::tool::{Shop, Tool, plain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_events_are_shown_decoded_and_exact() {
    let Shop { tool, app, .. } = Shop::open().await;
    assert_eq!(
        plain(&tool.table(&["tail", "payouts", "-n", "2"])),
        "#-#-#T#:#:#.#Z  #-#  Payout@#  {\"account\":\"ben\",\"cents\":#}\n#-#-#T#:#:#.#Z  #-#  Payout@#  {\"account\":\"ben\",\"cents\":-#}"
    );
    let trades = tool.json(&["tail", "trades"]);
    assert_eq!(trades.as_array().unwrap().len(), 4);
    assert_eq!(
        trades[0]["payload"],
        json!({ "symbol": "BTC-USD", "price": 39432.5, "order": u64::MAX, "signature": "c1ff", "venue": null })
    );
    // JSON lines, because the test is a pipe.
    let lines = tool.ok(&["tail", "payouts", "--from", "earliest", "-n", "2"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| &line["event_id"]).collect::<Vec<_>>(), ["payout-1", "payout-2"]);
    assert_eq!(lines[0]["headers"]["tenant"], "a");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_chosen_by_conditions_keys_and_places() {
    let Shop { tool, app, .. } = Shop::open().await;
    let ids = |args: &[&str]| -> Vec<String> {
        let found = tool.json(&[&["tail"], args].concat());
        found.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["payouts", "--where", "cents>100"]), ["payout-2"]);
    assert_eq!(ids(&["payouts", "--where", "cents<=100", "--where", "id!=payout-1"]), ["payout-3"]);
    assert_eq!(ids(&["payouts", "--where", "cents<0", "-n", "1"]), ["payout-3"]);
    assert_eq!(ids(&["payouts", "--where", "event=Other"]), [] as [&str; 0]);
    assert_eq!(ids(&["trades", "--key", "BTC-USD"]), ["trade-18446744073709551615", "trade-4"]);
    assert_eq!(ids(&["payouts", "--from", "-1h"]).len(), 3);
    assert_eq!(ids(&["payouts", "--from", "2020-01-01", "-n", "1"]), ["payout-1"]);
    assert_eq!(ids(&["payouts", "--from", "2120-01-01"]), [] as [&str; 0]);
    let third = tool.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ids(&["payouts", "--from", &third]), ["payout-3"]);
    let format = ["tail", "payouts", "-n", "1", "--format", "%u %e %k %h%%\\t%p"];
    assert_eq!(tool.ok(&format), "payout-3 Payout@1 payouts {\"tenant\":\"a\"}%\t{\"account\":\"ben\",\"cents\":-1}\n");
    let hidden =
        tool.ok(&["tail", "payouts", "-n", "1", "--redact", "account", "--redact", "tenant", "--where", "account=ben"]);
    assert!(
        hidden.contains(r#""account":"***""#) && hidden.contains(r#""tenant":"***""#) && !hidden.contains("ben"),
        "{hidden}"
    );
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_shown_whole() {
    let Shop { tool, app, .. } = Shop::open().await;
    let id = tool.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    let shown = tool.table(&["get", "payouts", &id]);
    for line in [
        "event id  payout-3",
        "event     Payout@1",
        "header    tenant: a",
        "payload   {\"account\":\"ben\",\"cents\":-1}",
        "hex       82a76163636f756e74a362656ea563656e7473ff",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(tool.json(&["get", "payouts", &id])["payload_hex"], "82a76163636f756e74a362656ea563656e7473ff");
    let hidden = tool.ok(&["get", "payouts", &id, "--redact", "account"]);
    assert!(!hidden.contains("ben") && !hidden.contains("62656e"), "{hidden}");
    assert!(tool.refused(&["get", "payouts", "5-5"], 1).contains("there is no entry 5-5 on `payouts`"));
    let said = tool.refused(&["get", "payouts", "payout-3"], 2);
    assert!(said.ends_with("streams tail payouts --from earliest --where id=payout-3\n"), "{said}");
    let found = tool.json(&["tail", "payouts", "--from", "earliest", "--where", "id=payout-3"]);
    assert_eq!(found[0]["id"], *id);
    let said = tool.refused(&["get", "trades", "4/5-5"], 1);
    assert_eq!(said, "`trades` has no partition 4: it has 4 partitions, counted from 0\n");
    assert!(tool.refused(&["get", "trades", "3/5-5"], 1).contains("it was trimmed or deleted, or never there"));
    let _ = app.shutdown().await;
}

#[test]
fn what_a_stranger_writes_gives_a_terminal_no_command() {
    let tool = Tool::new(RedisServer::shared().database());
    let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";
    let mut client = RedisServer::client(&tool.url);
    // A map of one field, whose name and value are the text.
    let text = [&[0xd9, evil.len() as u8][..], evil.as_bytes()].concat();
    let payload = [&[0x81][..], &text, &text].concat();
    let mut add = redis::cmd("XADD");
    add.arg("evil").arg("*").arg("event").arg(evil).arg("id").arg(evil).arg("payload").arg(payload).arg(evil).arg(evil);
    add.exec(&mut client).unwrap();
    redis::cmd("XADD").arg("evil").arg("*").arg("payload").arg(&[0xc1_u8, 0x1b][..]).exec(&mut client).unwrap();
    let id = tool.json(&["tail", "evil"])[0]["id"].as_str().unwrap().to_owned();
    for args in [
        &["tail", "evil", "-o", "table"][..],
        &["tail", "evil", "-o", "ndjson"],
        &["tail", "evil", "-o", "json"],
        &["tail", "evil", "--format", "%i %e %u %k %p %h %t"],
        &["get", "evil", &id, "-o", "table"],
        &["get", "evil", &id, "-o", "json"],
    ] {
        let shown = tool.ok(args);
        assert!(shown.contains("owned"), "{args:?}: {shown:?}");
        let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.chars().any(hidden), "{args:?}: {shown:?}");
    }
    let shown = tool.table(&["tail", "evil", "-n", "1"]);
    assert!(shown.contains("the payload is no MessagePack") && shown.contains("c11b"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_from_json_are_checked_against_what_programs_record() {
    let Shop { tool, app, .. } = Shop::open().await;
    let trade = r#"{"symbol":"BTC-USD","price":1,"order":18446744073709551615,"signature":"c1ff"}"#;
    // Programs have recorded that the symbol is the key.
    let publish = ["publish", "trades", "Trade", trade];
    let dry = tool.table(&[&publish[..], &["--dry-run"]].concat());
    assert!(dry.starts_with("1 Trade@1 would be published to trades") && dry.contains("nothing was changed"), "{dry}");
    assert!(tool.refused(&publish, 2).contains("say --yes"));
    assert_eq!(tool.json(&["tail", "trades"]).as_array().unwrap().len(), 4);
    let said = tool.ok(&[&publish[..], &["--yes", "--id", "mine", "--header", "tenant=b", "-o", "table"]].concat());
    assert!(said.starts_with("1 event published to trades: "), "{said}");
    // The same bytes as those of the program.
    let both = tool.json(&["tail", "trades", "--key", "BTC-USD", "--where", "order=18446744073709551615"]);
    assert_eq!((&both[1]["event_id"], &both[1]["headers"]["tenant"]), (&json!("mine"), &json!("b")));
    assert_eq!(both[1]["payload"]["signature"], both[0]["payload"]["signature"]);
    let other = tool.json(&[&publish[..], &["--key-field", "order", "--dry-run"]].concat());
    assert_eq!(other["would"]["publish"], 1, "{other}");
    let none = tool.refused(&[&publish[..], &["--key-field", "venue", "--yes"]].concat(), 1);
    assert!(none.contains("the field `venue`, whose value should be the key, is no text and no number"), "{none}");
    app.settled().await.unwrap();
    let status = app.status();
    let handled: u64 = status.groups.iter().filter(|group| group.group == "risk").map(|group| group.handled).sum();
    assert_eq!(handled, 5, "the group has handled it");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_line_is_told_with_its_number_and_nothing_is_published() {
    let Shop { tool, app, .. } = Shop::open().await;
    let lines = "{\"account\":\"a\",\"cents\":1}\n\n{\"account\":\"a\",\"cents\":\"x\"}\n{\"account\":\"a\",\"cent\":1}\nnonsense\n";
    let publish = ["publish", "payouts", "Payout", "-", "--yes"];
    let said = tool.fed(&publish, lines);
    assert_eq!(said.code, 1);
    for line in [
        "line 3: `cents`: expected i64, found a string",
        "line 4: there is no field `cent`, perhaps `cents` is meant",
        "line 5: no JSON",
        "nothing was published",
    ] {
        assert!(said.err.contains(line), "{line}: {said:?}");
    }
    assert_eq!(tool.json(&["tail", "payouts"]).as_array().unwrap().len(), 3);
    let good: String = (0..1_200).map(|n| format!("{{\"account\":\"a\",\"cents\":{n}}}\n")).collect();
    let said = tool.fed(&publish, &good);
    assert!(said.code == 0 && said.out.contains("\"published\":1200"), "{said:?}");
    let last = tool.json(&["tail", "payouts", "-n", "1200"]);
    assert!((0..1_200).all(|n| last[n]["payload"]["cents"] == n), "in their order");
    let unknown = tool.refused(&["publish", "payouts", "Payuot", "{}", "--yes"], 1);
    assert!(
        unknown.contains("no program has recorded an event `Payuot`") && unknown.contains("perhaps `Payout`"),
        "{unknown}"
    );
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_events_way_is_found_in_all_streams_by_its_id_or_a_header() {
    let Shop { tool, app, .. } = Shop::open().await;
    let found = tool.json(&["trace", "payout-2"]);
    assert_eq!((found.as_array().unwrap().len(), &found[0]["stream"]), (1, &json!("payouts")), "{found}");
    let bank = json!({ "group": "bank", "is": "settled" });
    assert!(found[0]["groups"].as_array().unwrap().contains(&bank), "{found}");
    assert_eq!(tool.json(&["trace", "a"]).as_array().unwrap().len(), 3, "the header `tenant` of each payout");
    assert_eq!(tool.json(&["trace", "a", "--stream", "trades"]), json!([]));
    let nothing = tool.table(&["trace", "payout-9", "--since", "earliest"]);
    assert!(nothing.contains("none of 7 entries carries payout-9"), "{nothing}");
    assert!(tool.refused(&["trace", "a", "--stream", "payuots"], 1).contains("perhaps `payouts` is meant"));
    let hidden = tool.ok(&["trace", "payout-1", "--redact", "account"]);
    assert!(hidden.contains(r#""account":"***""#), "{hidden}");
    let _ = app.shutdown().await;
}

#[test]
fn a_follower_shows_what_comes_and_says_that_it_skips() {
    let tool = Tool::new(RedisServer::shared().database());
    let mut client = RedisServer::client(&tool.url);
    let mut add = |id: &str, header: &str| {
        redis::cmd("XADD")
            .arg("slow")
            .arg(&[id, "event", "Tick@1", "id", id, "header", header])
            .exec(&mut client)
            .unwrap();
    };
    add("1-1", "first");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_streams"));
    let mut follower =
        Program::start(command.args(["tail", "slow", "-f", "--format", "%i %h"]).env("REDIS_URL", &tool.url));
    follower.says(r#"1-1 {"header":"first"}"#);
    add("2-1", "second");
    follower.says(r#"2-1 {"header":"second"}"#);
    // It stands still while the stream goes on, as behind a slow terminal.
    follower.signal("STOP");
    let header = "x".repeat(1_000);
    for n in 0..3_000 {
        add(&format!("{}-1", 10_000 + n * 10), &header);
    }
    follower.signal("CONT");
    follower.logs("of slow, from ");
    follower.logs("the output is slower than the stream");
    add("90000-1", "last");
    follower.says(r#"90000-1 {"header":"last"}"#);
    follower.signal("TERM");
    follower.end();
}
