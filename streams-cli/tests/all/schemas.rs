//! `schema ls`, `show` and `diff`, and `explain`.

use serde_json::json;

use crate::tool::Shop;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_shapes_are_listed_shown_and_compared() {
    let Shop { tool, app, .. } = Shop::open().await;
    let rows = tool.json(&["schema", "ls", "trades"]);
    assert_eq!(
        (&rows[0]["event"], &rows[0]["version"], &rows[0]["groups"]),
        (&json!("Trade"), &json!(1), &json!(["risk"]))
    );
    assert_eq!(rows.as_array().unwrap().len(), 1);
    let shown = tool.table(&["schema", "show", "trades", "Trade"]);
    assert!(shown.starts_with("Trade@1 in shape ") && shown.contains("\"name\": \"price\""), "{shown}");
    assert!(
        tool.table(&["schema", "diff", "trades", "Trade@1"]).starts_with("all programs have the same shape of Trade@1")
    );
    let schema = tool.json(&["schema", "show", "trades", "Trade"])[0]["schema"].clone();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trades.lock.json");
    let lock = |schema: &serde_json::Value| {
        let text = json!({ "format": 1, "stream": "trades", "events": { "Trade": { "1": { "layout": "map", "schema": schema } } } });
        std::fs::write(&file, text.to_string()).unwrap();
    };
    let diff = ["schema", "diff", "trades", "Trade", "--lock", file.to_str().unwrap()];
    lock(&schema);
    let same = tool.json(&diff);
    assert_eq!(same[0]["same"], true);
    let mut other = schema;
    other["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "price");
    lock(&other);
    let said = tool.run(&[&diff[..], &["-o", "table"]].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("`price` (f64, required) is only there"), "{said:?}");
    assert!(said.out.contains("here reads events from there, there does not read events from here"), "{said:?}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_programs_have_recorded_is_documented_and_typed() {
    let Shop { tool, app, .. } = Shop::open().await;
    let document = tool.json(&["asyncapi"]);
    assert_eq!(document["asyncapi"], "3.1.0");
    assert_eq!(document["channels"]["trades"]["address"], "trades");
    let yaml = tool.ok(&["asyncapi", "trades", "--title", "the shop"]);
    assert!(yaml.starts_with("asyncapi: \"3.1.0\"") && yaml.contains("title: the shop"), "{yaml}");
    assert!(tool.refused(&["asyncapi", "trade"], 1).contains("perhaps `trades` is meant"));
    let schema = tool.json(&["schema", "show", "trades", "Trade"])[0]["schema"].clone();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trades.lock.json");
    let lock = json!({ "format": 1, "stream": "trades", "events": { "Trade": { "1": { "layout": "map", "schema": schema } } } });
    std::fs::write(&file, lock.to_string()).unwrap();
    let typed = |lang| tool.ok(&["schema", "types", "--lang", lang, file.to_str().unwrap()]);
    assert!(typed("python").contains("class TradeV1"), "{}", typed("python"));
    assert!(typed("typescript").contains("interface TradeV1"), "{}", typed("typescript"));
    std::fs::write(&file, "{}").unwrap();
    let refused = tool.refused(&["schema", "types", "--lang", "python", file.to_str().unwrap()], 1);
    assert!(refused.contains("trades.lock.json"), "{refused}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_are_explained_and_shells_complete_without_a_server() {
    let tool = crate::tool::Tool::new(String::new());
    let said = tool.table(&["explain", "dead_letter_storm"]);
    assert!(said.contains("docs/operating.md") && said.contains("replay the dead letters"), "{said}");
    assert!(tool.json(&["explain", "permanent"])[0]["facts"]["remedy"].as_str().unwrap().contains("replay or discard"));
    assert!(tool.refused(&["explain", "permanet"], 1).contains("perhaps `permanent` is meant"));
    assert!(tool.ok(&["completions", "bash"]).contains("_streams"));
}
