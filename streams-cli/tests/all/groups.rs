//! `ls`, `groups`, `info`, `owners`, `check`, and an operator's acts on a group.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use streams_runtime::broker::Redis;
use streams_runtime::{App, Config, Running, consumer, consumers, permanent, stream_event};
use streams_tests::{RedisServer, until};

use crate::tool::{Shop, Tool, plain};

/// An event whose handler always fails.
#[stream_event(stream = "storms", lock = false)]
#[derive(Debug, Clone, PartialEq)]
struct Storm {
    n: u32,
}

#[consumer(group = "weak")]
async fn fail(_: Storm) -> Result<(), streams_runtime::Permanent> {
    Err(permanent("the other side is down"))
}

/// An event whose handler waits for something that does not come.
#[stream_event(stream = "waits", lock = false)]
#[derive(Debug, Clone, PartialEq)]
struct Wait {
    n: u32,
}

#[consumer(group = "patient", max_attempts = 1000, backoff = "20ms..20ms")]
async fn wait(_: Wait) -> Result<(), String> {
    Err("not yet".to_owned())
}

/// A group that a storm of dead letters has halted.
async fn halted() -> (Tool, Running) {
    let tool = Tool::new(RedisServer::shared().database());
    let config = Config::new().lease(Duration::from_millis(600)).dead_letter_storm(2);
    let app = App::with(consumers![fail]).broker(Arc::new(Redis::open(&tool.url).unwrap())).config(config);
    let app = app.start().await.unwrap();
    for n in 0..3 {
        app.publisher().publish(&Storm { n }).await.unwrap();
    }
    until(|| tool.json(&["groups"])[0]["state"] == "halted").await;
    (tool, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_groups_are_listed_with_the_worst_first() {
    let Shop { tool, app, .. } = Shop::open().await;
    let table = plain(&tool.table(&["ls"]));
    assert!(
        table.starts_with("STREAM  LENGTH  PARTITIONS  GROUPS  WORST LAG  DEAD  WORST GROUP  LAST EVENT\n"),
        "{table}"
    );
    let rows = tool.json(&["ls"]);
    let figures =
        |row: &Value| [&row["stream"], &row["length"], &row["groups"], &row["lag"], &row["dead"]].map(Clone::clone);
    assert_eq!(figures(&rows[0]), [json!("payouts"), json!(3), json!(2), json!(0), json!(3)]);
    assert_eq!(figures(&rows[1]), [json!("trades"), json!(4), json!(1), json!(0), json!(0)]);
    assert_eq!(tool.json(&["ls", "tr*", "--rate"])[0]["rate"], 0.0);
    let groups = tool.json(&["groups"]);
    let names: Vec<_> = groups.as_array().unwrap().iter().map(|row| row["group"].as_str().unwrap()).collect();
    assert_eq!((names.len(), groups[0]["state"].as_str()), (3, Some("running")), "{groups}");
    let bank = &tool.json(&["groups", "payouts"])[0];
    assert_eq!((&bank["group"], &bank["dead"], &bank["processes"]), (&json!("bank"), &json!(3), &json!(1)));
    let info = tool.table(&["info", "payouts"]);
    for line in [
        "entries     3 now, 3 ever",
        "event       Payout@1, published by ",
        "group       bank running, lag 0, 3 dead letters",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert_eq!(tool.json(&["info", "payouts"])["events"][0]["event"], "Payout@1");
    let owners = tool.table(&["owners", "trades", "risk"]);
    assert!(owners.starts_with("group risk on trades: running, ordered delivery\n"), "{owners}");
    assert!(owners.contains("0,1,2,3") && owners.contains("takes=Trade@1"), "{owners}");
    assert_eq!(tool.json(&["owners", "trades", "risk"])["places"].as_array().unwrap().len(), 4);
    let id = tool.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    let settled = &tool.json(&["get", "payouts", &id])["groups"];
    assert_eq!(*settled, json!([{ "group": "bank", "is": "settled" }, { "group": "mail", "is": "settled" }]));
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_finds_out_why_a_group_is_halted_and_mends_it() {
    let (tool, app) = halted().await;
    let groups = tool.table(&["groups"]);
    assert!(groups.contains("halted") && groups.contains("dead-letter-storm: "), "{groups}");
    let owners = tool.table(&["owners", "storms", "weak"]);
    for line in [
        "halted on partition 0 since ",
        "streams explain dead-letter-storm",
        "streams resume storms weak",
        "streams dead ls storms weak",
    ] {
        assert!(owners.contains(line), "{line}: {owners}");
    }
    assert!(tool.table(&["explain", "dead-letter-storm"]).contains("streams resume"));
    let check = tool.run(&["check"]);
    let line = "CRITICAL: weak on storms is halted (dead-letter-storm), has 2 dead letters; not judged: lag\n";
    assert_eq!((check.code, check.out.as_str()), (2, line));
    assert!(tool.table(&["ls"]).contains("weak (halted)"), "{}", tool.table(&["ls"]));
    assert_eq!(tool.json(&["ls"])[0]["worst_group"], "weak");
    // Whole in a table, too, whose last column goes on in further lines.
    let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(one_line(groups.clone()).contains("mend the cause, then run `streams resume storms weak`"), "{groups}");
    assert!(groups.lines().all(|line| line.len() < 160), "{groups}");
    assert_eq!(tool.ok(&["groups", "-o", "wide"]).lines().count(), 2);
    assert!(
        tool.refused(&["resume", "storms", "weak"], 2).contains("would go on where it is: 1 event would be handled")
    );
    assert_eq!(tool.json(&["groups"])[0]["state"], "halted");
    assert_eq!(tool.json(&["resume", "storms", "weak", "--yes"])["resumed"], json!(["storms"]));
    until(|| tool.json(&["groups"])[0]["dead"] == 3).await;
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_fails_again_and_again_is_named_with_its_attempts() {
    let tool = Tool::new(RedisServer::shared().database());
    let app = App::with(consumers![wait]).broker(Arc::new(Redis::open(&tool.url).unwrap())).start().await.unwrap();
    app.publisher().publish(&Wait { n: 0 }).await.unwrap();
    until(|| tool.json(&["groups"])[0]["state"] == "retrying").await;
    let entry = tool.json(&["tail", "waits"])[0]["id"].as_str().unwrap().to_owned();
    let settled = tool.json(&["get", "waits", &entry])["groups"][0]["is"].as_str().unwrap().to_owned();
    assert!(settled.starts_with("failed ") && settled.ends_with(", and is tried again"), "{settled}");
    let check = tool.run(&["check"]);
    assert_eq!(check.code, 1);
    assert!(check.out.starts_with("WARNING: patient on waits retries 1 event, up to "), "{check:?}");
    let doctor = tool.run(&["doctor", "-o", "table"]).out;
    for line in [
        "warning   retrying: patient on waits",
        "1 event fails and is tried again",
        "fix: streams owners waits patient",
    ] {
        assert!(doctor.contains(line), "{doctor}");
    }
    let owners = tool.table(&["owners", "waits", "patient"]);
    assert!(owners.contains(&format!("streams get waits {entry}")), "{owners}");
    assert!(owners.contains("the latest error, of event ") && owners.contains("\n  not yet"), "{owners}");
    let group = &tool.json(&["groups"])[0];
    let error = &group["error"]["error"];
    assert_eq!((&error["text"], &error["entry"]), (&json!("not yet"), &json!(entry)), "{group}");
    assert!(group["why"].as_str().unwrap().ends_with(": not yet"), "{group}");
    let doctor = tool.run(&["doctor", "-o", "json"]).out;
    assert!(doctor.contains("the latest error: not yet"), "{doctor}");
    let check = tool.run(&["check"]).out;
    assert!(check.contains(" so far: not yet"), "{check}");
    let info = tool.table(&["info", "waits"]);
    assert!(info.contains("patient retrying, lag 1, 0 dead letters: event ") && info.contains(": not yet"), "{info}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_one_line_and_an_exit_code() {
    let Shop { tool, app, .. } = Shop::open().await;
    for (args, code, line) in [
        (&[][..], 1, "WARNING: bank on payouts has 3 dead letters; not judged: lag\n"),
        (
            &["--stream", "trades"],
            0,
            "OK: 1 group: each has a process, none is halted or paused, none retries, no event older than 1m, no dead letters; not judged: lag\n",
        ),
        (
            &["--max-lag", "0", "--max-age", "1s", "--stream", "trades"],
            0,
            "OK: 1 group: each has a process, lag at most 0, no event older than 1s; not judged: halts and pauses, retries, dead letters\n",
        ),
        (
            &["--max-dead", "2"],
            2,
            "CRITICAL: bank on payouts has 3 dead letters (2 allowed); not judged: halts and pauses, retries, lag, age\n",
        ),
        (
            &["--max-dead", "2", "--halted", "--group", "risk"],
            0,
            "OK: 1 group: each has a process, none is halted or paused, at most 2 dead letters; not judged: retries, lag, age\n",
        ),
    ] {
        let said = tool.run(&[&["check"], args].concat());
        assert_eq!((said.code, said.out.as_str()), (code, line), "{args:?}: {said:?}");
    }
    assert_eq!(tool.json(&["check", "--halted"])["status"], "OK");
    tool.ok(&["pause", "trades", "risk", "--yes", "--why", "a test"]);
    let said = tool.run(&["check", "--stream", "trades"]);
    assert_eq!((said.code, said.out.as_str()), (1, "WARNING: risk on trades is paused; not judged: lag\n"));
    let _ = app.shutdown().await;
    let owners = tool.table(&["owners", "payouts", "bank"]);
    assert!(owners.contains("start a program that runs it\n  streams remove payouts bank --dry-run"), "{owners}");
    let said = tool.run(&["check", "--max-lag", "5"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("bank on payouts is run by no process"), "{said:?}");
    let away = Tool::new("redis://127.0.0.1:1/".to_owned());
    assert!(away.refused(&["check"], 2).starts_with("CRITICAL: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_says_who_and_why_and_ends_with_resume() {
    let Shop { tool, app, .. } = Shop::open().await;
    let pause = ["pause", "payouts", "bank", "--why", "the bank is closed"];
    let dry = tool.table(&[&pause[..], &["--dry-run"]].concat());
    assert!(dry.contains("would be paused in 1 process") && dry.contains("nothing was changed"), "{dry}");
    assert_eq!(tool.json(&["groups", "payouts"])[0]["state"], "running");
    assert!(tool.refused(&pause, 2).contains("say --yes"));
    let said = tool.table(&[&pause[..], &["--yes"]].concat());
    assert_eq!(said, "paused bank on payouts; to go on: streams resume payouts bank\n");
    let groups = tool.table(&["groups", "payouts"]);
    assert!(groups.contains("paused since ") && groups.contains(" by ada"), "{groups}");
    let wide = tool.ok(&["groups", "payouts", "-o", "wide"]);
    assert!(wide.contains(": the bank is closed"), "{wide}");
    tool.ok(&["resume", "payouts", "bank", "--yes"]);
    assert_eq!(tool.json(&["groups", "payouts"])[0]["state"], "running");
    let audit = tool.json(&["audit"]);
    let line =
        |n: usize| ["by", "act", "stream", "group", "detail"].map(|name| audit[n][name].as_str().unwrap().to_owned());
    let (paused, resumed) = (line(0), line(1));
    assert!(paused[0].starts_with("ada@"), "{paused:?}");
    assert_eq!(paused[1..], ["pause", "payouts", "bank", "the bank is closed"]);
    assert_eq!(resumed[1..4], ["resume", "payouts", "bank"]);
    assert!(resumed[4].starts_with("was paused since ") && resumed[4].ends_with(": the bank is closed"), "{resumed:?}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_says_how_many_events_come_again_or_are_passed_over() {
    let Shop { tool, app, open } = Shop::open().await;
    open.store(true, Ordering::Relaxed);
    let reset =
        |to: &str, more: &[&str]| tool.run(&[&["reset", "payouts", "bank", "--to", to, "-o", "json"], more].concat());
    let plan = |to: &str| -> Value {
        let said = reset(to, &["--dry-run"]);
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str::<Value>(&said.out).unwrap()["would"].clone()
    };
    let figures = |plan: &Value| (plan["again"].as_u64().unwrap(), plan["passed_over"].as_u64().unwrap());
    assert_eq!(figures(&plan("earliest")), (3, 0));
    assert_eq!(figures(&plan("latest")), (0, 0));
    assert_eq!(figures(&plan("-1h")), (3, 0));
    let third = tool.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(figures(&plan(&third)), (1, 0));
    assert!(reset("earliest", &[]).err.contains("3 events would come again, 0 events would be passed over"));
    assert_eq!(reset(&third, &["--yes"]).code, 0);
    // The third is a permanent error, so it is a dead letter once more.
    until(|| tool.json(&["groups", "payouts"])[0]["dead"] == 4).await;
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_removed_when_nobody_runs_it_or_by_force() {
    let Shop { tool, app, .. } = Shop::open().await;
    let remove = ["remove", "payouts", "bank", "--yes"];
    assert!(tool.refused(&remove, 1).contains("refused, because 1 of its processes run: stop them first"));
    let _ = app.shutdown().await;
    let said = tool.refused(&remove, 1);
    assert!(said.contains("and 3 dead letters; 0 events that it has not settled would be passed over"), "{said}");
    assert!(said.contains("replay or discard them first, or say --force"), "{said}");
    assert!(tool.refused(&["remove", "payouts", "bank", "--force"], 2).contains("say --yes"));
    assert_eq!(tool.table(&[&remove[..], &["--force"]].concat()), "removed bank from payouts, with 3 dead letters\n");
    let left = tool.json(&["groups", "payouts"]);
    assert_eq!(left.as_array().unwrap().iter().map(|row| &row["group"]).collect::<Vec<_>>(), ["mail"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_a_namespace_go_by_their_names_in_it() {
    let mut tool = Tool::new(RedisServer::shared().database());
    let config = Config::new().lease(Duration::from_millis(600)).dead_letter_storm(2);
    let broker = Arc::new(Redis::open(&tool.url).unwrap());
    let app = App::with(consumers![fail]).broker(broker).config(config).namespace("eu").start().await.unwrap();
    app.publisher().publish(&Storm { n: 0 }).await.unwrap();
    app.settled().await.unwrap();
    // By its key, or by its name.
    assert_eq!(tool.json(&["ls"])[0]["stream"], "eu:storms");
    assert_eq!(tool.json(&["dead", "ls", "eu:storms", "weak"])[0]["letters"], 1);
    tool.variables.push(("STREAMS_NAMESPACE".to_owned(), "eu".to_owned()));
    assert_eq!(tool.json(&["ls"])[0]["stream"], "storms");
    assert_eq!(tool.json(&["dead", "ls", "storms", "weak"])[0]["letters"], 1);
    assert_eq!(tool.json(&["tail", "storms"])[0]["payload"]["n"], 0);
    tool.ok(&["dead", "discard", "storms", "weak", "--all", "--yes"]);
    assert_eq!(tool.json(&["audit"])[0]["act"], "discard");
    assert!(tool.json(&["audit", "--namespace", "us"]).as_array().unwrap().is_empty());
    for (args, code) in [(&["ls"][..], 1), (&["groups"], 1), (&["check"], 2), (&["tail", "storms"], 1)] {
        let said = tool.refused(&[args, &["--namespace", "uе"]].concat(), 2);
        assert!(said.contains("invalid namespace"), "{args:?}: {said}");
        let said = tool.refused(&[args, &["--namespace", "ue"]].concat(), code);
        assert!(said.contains("there is no stream in namespace `ue`, perhaps `eu` is meant"), "{args:?}: {said}");
        let said = tool.refused(&[args, &["--namespace", "us-west"]].concat(), code);
        assert!(said.contains("there is no stream in namespace `us-west`; there are: eu"), "{args:?}: {said}");
    }
    let doctor = tool.run(&["doctor", "--namespace", "ue", "-o", "table"]).out;
    assert!(doctor.contains("warning   namespace: there is no stream in namespace `ue`"), "{doctor}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_gives_valid_json_for_an_empty_server_too() {
    let empty = Tool::new(RedisServer::shared().database());
    for args in [&["ls"][..], &["groups"], &["check"]] {
        assert!(empty.json(args).is_array() || empty.json(args).is_object(), "{args:?}");
    }
    assert_eq!(empty.table(&["ls"]), "no program has declared a stream here\n");
    let Shop { tool, app, .. } = Shop::open().await;
    let id = tool.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    let payout = r#"{"account":"a","cents":1}"#;
    let commands = [
        &["ls"][..],
        &["groups", "--rate"],
        &["info", "payouts"],
        &["asyncapi"],
        &["owners", "payouts", "bank"],
        &["tail", "trades"],
        &["get", "payouts", &id],
        &["publish", "payouts", "Payout", payout, "--dry-run"],
        &["publish", "payouts", "Payout", payout, "--yes"],
        &["dead", "ls", "payouts", "bank"],
        &["dead", "ls", "payouts", "bank", "--each"],
        &["dead", "show", "payouts", "bank"],
        &["dead", "replay", "payouts", "bank", "--all", "--limit", "1", "--dry-run"],
        &["dead", "replay", "payouts", "bank", "--all", "--limit", "1", "--yes"],
        &["dead", "discard", "payouts", "bank", "0/1-1", "--dry-run"],
        &["dead", "discard", "payouts", "bank", "0/1-1", "--yes"],
        &["pause", "payouts", "bank", "--dry-run"],
        &["pause", "payouts", "bank", "--yes"],
        &["resume", "payouts", "bank", "--dry-run"],
        &["resume", "payouts", "bank", "--yes"],
        &["reset", "payouts", "bank", "--to", "latest", "--dry-run"],
        &["reset", "payouts", "bank", "--to", "latest", "--yes"],
        &["remove", "payouts", "mail", "--force", "--dry-run"],
        &["remove", "payouts", "mail", "--force", "--yes"],
        &["trim", "payouts", "--before", "earliest", "--dry-run"],
        &["trim", "payouts", "--before", "earliest", "--yes"],
        &["audit"],
        &["bench", "--dry-run"],
        &["check"],
        &["doctor"],
        &["schema", "ls", "trades"],
        &["schema", "show", "trades", "Trade"],
        &["schema", "diff", "trades", "Trade"],
        &["explain", "crash"],
        &["trace", "payout-1"],
    ];
    for args in commands {
        // The exit code of a check is a finding.
        let said = |form| tool.run(&[args, &["-o", form]].concat()).out;
        let json = said("json");
        serde_json::from_str::<Value>(&json).unwrap_or_else(|error| panic!("{args:?}: {error}: {json}"));
        for line in said("ndjson").lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}"));
        }
    }
    let help = tool.ok(&["--help"]);
    let named = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names =
        named.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty());
    for name in names.filter(|name| !["completions", "console", "top"].contains(name)) {
        assert!(commands.iter().any(|args| args[0] == name), "`{name}` is not tried");
    }
    let _ = app.shutdown().await;
}
