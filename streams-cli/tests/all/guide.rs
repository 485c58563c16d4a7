//! The sessions of docs/tool.md: each command is run, and says what the guide shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streams_runtime::broker::Redis;
use streams_runtime::{App, Config, consumer, consumers};
use streams_tests::{RedisServer, until};

use crate::tool::{Payout, Tool, Trade, plain, shop};

const GUIDE: &str = include_str!("../../../docs/tool.md");

#[consumer(group = "old")]
async fn forget(_: Payout) {}

/// The words of a command, those in quotes as one.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.chars() {
        match (character, quote) {
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (end, Some(begin)) if end == begin => quote = None,
            (' ', None) => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// A closed bank that a storm of dead letters has halted, a group that nobody runs, and trades.
async fn closed_bank(tool: &Tool, open: &Arc<AtomicBool>) -> streams_runtime::Running {
    let broker = || Arc::new(Redis::open(&tool.url).unwrap());
    let config = || Config::new().lease(Duration::from_millis(600)).dead_letter_storm(3);
    let old = App::with(consumers![forget]).broker(broker()).config(config()).start().await.unwrap();
    let _ = old.shutdown().await;
    let app = shop(open).broker(broker()).config(config()).start().await.unwrap();
    for n in 1..=4 {
        let payout = Payout { account: "ben".to_owned(), cents: n * 100 };
        app.publisher().publish(&payout).id(format!("payout-{n}")).header("tenant", "a").await.unwrap();
    }
    let trade = Trade { symbol: "BTC-USD".to_owned(), price: 39432.5, order: 7, signature: vec![0xc1], venue: None };
    app.publisher().publish(&trade).await.unwrap();
    until(|| tool.json(&["groups", "payouts"])[0]["state"] == "halted").await;
    until(|| tool.json(&["groups", "trades"])[0]["lag"] == 0).await;
    let is_left = |row: &serde_json::Value| row["group"] != "old" || row["state"] == "unattended";
    until(|| tool.json(&["groups", "payouts"]).as_array().unwrap().iter().all(is_left)).await;
    let owned = |place: &serde_json::Value| !place["owner"].is_null();
    until(|| tool.json(&["owners", "trades", "risk"])["places"].as_array().unwrap().iter().all(owned)).await;
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_of_the_guide_says_what_the_tool_says() {
    let tool = Tool::new(RedisServer::shared().database());
    let open = Arc::new(AtomicBool::new(false));
    let app = closed_bank(&tool, &open).await;
    let owners = tool.json(&["owners", "trades", "risk"]);
    let member = owners["members"][0]["name"].as_str().unwrap().to_owned();
    let program = tool.json(&["schema", "show", "trades", "Trade"])[0]["programs"][0].as_str().unwrap().to_owned();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let user = format!("ada@{}", host.trim());
    let sessions: Vec<_> = GUIDE.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let (mut commands, mut wrong) = (0, String::new());
    for block in sessions.iter().flat_map(|session| session.split("$ streams ")).filter(|block| !block.is_empty()) {
        let (command, shown) = block.split_once('\n').unwrap();
        if command.starts_with("resume") {
            open.store(true, Ordering::Relaxed);
        }
        if command.starts_with("dead ls") || command.starts_with("reset") || command.starts_with("check") {
            until(|| {
                tool.json(&["groups", "payouts"])
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|row| row["group"] == "old" || row["lag"] == 0)
            })
            .await;
        }
        if command.starts_with("reset") || command.starts_with("check") {
            until(|| tool.json(&["groups", "payouts"])[0]["dead"] == 0).await;
        }
        let args = words(command);
        let mut args: Vec<_> = args.iter().map(String::as_str).collect();
        if !args.contains(&"-o") && args[0] != "check" {
            args.extend(["-o", "table"]);
        }
        let said = tool.run(&args);
        let said = said.out + &said.err;
        let said = [(&member, "node-3.42.0a1b2c3d"), (&program, "shop on node-3"), (&user, "ada@laptop")]
            .iter()
            .fold(said, |said, (here, there)| said.replace(here.as_str(), there));
        if plain(said.trim()) != plain(shown.trim()) {
            wrong.push_str(&format!("$ streams {command}\n{said}"));
        }
        commands += 1;
    }
    assert!(wrong.is_empty(), "the guide should show:\n{wrong}");
    assert_eq!(commands, 25);
    let _ = app.shutdown().await;
}
