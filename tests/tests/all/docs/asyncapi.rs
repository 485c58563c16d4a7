//! The event documentation: that of a program and that of a server are AsyncAPI, and say what is declared.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonschema::Validator;
use serde_json::{Value, json};
use streams_core::broker::{Broker, Notes};
use streams_core::keys::StreamKey;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{App, AsyncApi, Batch, Publisher, State, consumer, consumers, event_type, stream_event};
use streams_tests::{RedisServer, UserCrate};

const DOCUMENT: &str = include_str!("../../../../docs/asyncapi.md");
/// The published JSON Schema of AsyncAPI 3.1.0; the file beside it says from where.
static PUBLISHED: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../../../asyncapi/3.1.0.json")).unwrap();
    jsonschema::draft7::new(&schema).unwrap()
});

/// The declarations of `docs/asyncapi.md`.
mod documented {
    use streams_runtime::{consumer, stream_event};

    /// One fill on the exchange.
    #[stream_event(stream = "executions", key = symbol, partitions = 4)]
    pub(crate) struct Trade {
        /// The pair, such as `BTC-USD`.
        pub(crate) symbol: String,
        pub(crate) price: f64,
        /// Of the base currency, in units of its smallest part.
        pub(crate) quantity: u64,
        pub(crate) note: Option<String>,
    }

    /// Warns of prices that are out of bounds.
    #[consumer(group = "risk", max_attempts = 5)]
    pub(crate) async fn check(_trade: Trade) {}
}

fn trade() -> documented::Trade {
    documented::Trade { symbol: "BTC-USD".to_owned(), price: 39432.48, quantity: 1, note: None }
}

/// Which side of the book.
#[event_type]
#[derive(Debug)]
enum Side {
    /// Takes from the asks.
    Buy,
    Sell,
    Limit(u64),
}

#[event_type]
#[derive(Debug)]
struct Tree {
    inside: Vec<Tree>,
}

/// An order.
///
/// It rests until somebody takes it.
#[stream_event(stream = "shop:orders", version = 2, upcast_from = OrderV1, retention = "consumed", durability = "fsync")]
#[derive(Debug)]
struct Order {
    side: Side,
    tree: Tree,
    bytes: Vec<u8>,
    pair: (u8, String),
}

#[stream_event(stream = "shop:orders", name = "Order", version = 1)]
#[derive(Debug)]
struct OrderV1 {}

impl From<OrderV1> for Order {
    fn from(_: OrderV1) -> Self {
        Self { side: Side::Sell, tree: Tree { inside: Vec::new() }, bytes: Vec::new(), pair: (0, String::new()) }
    }
}

#[stream_event(stream = "shop:orders", layout = "array")]
struct Dense {
    side: Side,
    at: u8,
}

/// Stores orders.
#[consumer(group = "store", batch = 10, start = "1h ago")]
async fn store(_orders: Batch<Order>, _limit: State<u8>) {}

#[consumer(group = "store")]
async fn dense(_event: Dense) {}

/// Mails.
#[consumer(group = "mail", delivery = "queue", concurrency = 8)]
async fn mail(_order: Order) {}

/// The objections of the published schema to a document.
fn problems(document: &AsyncApi) -> Vec<String> {
    let document = serde_json::to_value(document).unwrap();
    PUBLISHED.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Every reference of a document that leads nowhere.
fn dangling(document: &Value) -> Vec<String> {
    fn gather<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| gather(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    gather(document, &mut found);
    assert!(!found.is_empty());
    let leads = |reference: &&str| reference.strip_prefix('#').is_some_and(|path| document.pointer(path).is_some());
    found.into_iter().filter(|reference| !leads(reference)).map(str::to_owned).collect()
}

fn shop() -> AsyncApi {
    App::with(consumers![store, dense, mail]).namespace("test").asyncapi("shop", "2.1.0").unwrap()
}

#[test]
fn the_document_of_a_program_is_the_one_in_the_guide() {
    let document = App::with(consumers![documented::check]).asyncapi("risk", "1.0.0").unwrap();
    let shown = DOCUMENT.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    assert_eq!(document.to_string(), shown, "{document}");
    let declared = DOCUMENT.split("```rust,ignore\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let source = include_str!("asyncapi.rs").replace("pub(crate) ", "").replace("_trade", "trade");
    let ours = source.split("mod documented {\n").nth(1).and_then(|rest| rest.split("\n}\n").next()).unwrap();
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(lines(declared), lines(ours)[1..]);
}

#[test]
fn documents_are_asyncapi_and_their_references_lead_somewhere() {
    for document in [shop(), App::with(consumers![documented::check]).asyncapi("risk", "1.0.0").unwrap()] {
        assert_eq!(problems(&document), Vec::<String>::new(), "{document}");
        assert_eq!(dangling(&serde_json::to_value(&document).unwrap()), Vec::<String>::new(), "{document}");
    }
    let mut broken = serde_json::to_value(shop()).unwrap();
    broken["channels"]["test:shop:orders"]["messages"]["Order.v2"]["contentType"] = json!(1);
    assert!(!PUBLISHED.is_valid(&broken), "the schema judges");
}

#[test]
fn streams_events_and_groups_are_channels_messages_and_operations() {
    let document = serde_json::to_value(shop()).unwrap();
    let channel = &document["channels"]["test:shop:orders"];
    assert_eq!(channel["address"], "test:shop:orders");
    assert_eq!(
        channel["x-streams"],
        json!({ "partitions": 1, "retention": "consumed", "durability": "fsync", "max_payload": 1_044_480 })
    );
    let names: Vec<_> = channel["messages"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["Dense.v1", "Order.v1", "Order.v2"]);
    let order = &channel["messages"]["Order.v2"];
    assert_eq!(order["headers"]["properties"]["event"]["const"], "Order@2");
    assert_eq!(order["summary"], "An order.");
    assert_eq!(order["description"], "An order.\n\nIt rests until somebody takes it.");
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["test_shop_orders.Order.v2"]["properties"]["side"],
        json!({ "$ref": "#/components/schemas/Side-2" })
    );
    assert_eq!(schemas["Side-2"]["oneOf"][0], json!({ "const": "Buy", "description": "Takes from the asks." }));
    assert_eq!(schemas["test_shop_orders.Dense.v1"]["type"], "array");
    let operations = &document["operations"];
    let references = |name: &str| -> Vec<String> {
        let messages = operations[name]["messages"].as_array().unwrap().iter();
        messages.map(|it| it["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(references("send:test:shop:orders"), ["Dense.v1", "Order.v2"]);
    assert_eq!(references("receive:test:shop:orders:store"), ["Dense.v1", "Order.v2", "Order.v1"]);
    let store = &operations["receive:test:shop:orders:store"];
    assert_eq!((&store["action"], &store["summary"]), (&json!("receive"), &json!("store: Stores orders.")));
    let options = &store["x-streams"];
    assert_eq!((&options["start"], &options["checkpoint"]["events"]), (&json!("1h ago"), &json!(1_000)));
    assert_eq!((&options["consumers"][1]["name"], &options["consumers"][1]["batch"]), (&json!("store"), &json!(10)));
    let mail = &operations["receive:test:shop:orders:mail"]["x-streams"];
    assert_eq!((&mail["delivery"], &mail["concurrency"]), (&json!("queue"), &json!(8)));
    assert!(mail.get("checkpoint").is_none(), "a work queue has none: {mail}");
}

#[test]
fn the_order_of_declarations_changes_nothing() {
    let turned = App::with(consumers![mail, dense, store]).namespace("test").asyncapi("shop", "2.1.0").unwrap();
    assert_eq!(turned.to_string(), shop().to_string());
}

#[test]
fn an_app_without_consumers_has_its_events_and_a_refused_one_has_none() {
    let nobody = App::with(consumers![]).asyncapi("nobody", "1.0.0").unwrap();
    assert_eq!(serde_json::to_value(&nobody).unwrap()["channels"], json!({}));
    let linked = App::linked();
    assert!(
        linked.asyncapi("all", "1").unwrap_err().to_string().contains("both consume"),
        "the tests contradict each other"
    );
}

#[test]
fn consumers_and_events_of_tests_are_left_out() {
    mod tests {
        #[streams_runtime::stream_event(stream = "of_tests", lock = false)]
        pub(super) struct Only {}
        #[streams_runtime::consumer(group = "only")]
        pub(super) async fn only(_event: Only) {}
    }
    let document = App::with(consumers![tests::only, documented::check]).asyncapi("risk", "1.0.0").unwrap();
    assert_eq!(document, App::with(consumers![documented::check]).asyncapi("risk", "1.0.0").unwrap());
}

#[test]
fn the_file_in_a_repository_is_kept_in_the_form_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    // `cargo test` runs under CI, too, where nothing is written.
    std::fs::write(dir.path().join("asyncapi.yaml"), shop().to_string()).unwrap();
    shop().keep(dir.path(), "asyncapi.yaml").unwrap();
    let json = serde_json::to_string_pretty(&shop()).unwrap() + "\n";
    std::fs::write(dir.path().join("asyncapi.json"), &json).unwrap();
    shop().keep(dir.path(), "asyncapi.json").unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("asyncapi.json")).unwrap(), json);
}

/// The document of the notes beside the stream of the guide, once this many are there.
async fn recorded(broker: &dyn Broker, notes: usize) -> AsyncApi {
    let stream = StreamKey::new(None, "executions", 4);
    let read = async {
        loop {
            let read = broker.notes(&stream, &Notes::new(), &[]).await.unwrap();
            if read.len() >= notes {
                return read;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), read).await.expect("the notes come within a minute");
    AsyncApi::recorded("server", "1.0.0", [(stream, read)])
}

async fn records_what_its_programs_declare(broker: Arc<dyn Broker>) {
    let running = App::with(consumers![documented::check]).broker(broker.clone()).start().await.unwrap();
    let known = recorded(&*broker, 2).await;
    assert_eq!(problems(&known), Vec::<String>::new(), "{known}");
    let known = serde_json::to_value(&known).unwrap();
    assert_eq!(dangling(&known), Vec::<String>::new());
    assert!(known["operations"].get("send:executions").is_none(), "nobody has published: {known}");
    let receive = &known["operations"]["receive:executions:risk"];
    assert_eq!(receive["messages"], json!([{ "$ref": "#/channels/executions/messages/Trade.v1" }]));
    Publisher::new(broker.clone()).publish(&trade()).await.unwrap();
    let published = serde_json::to_value(recorded(&*broker, 3).await).unwrap();
    assert_eq!(published["operations"]["send:executions"]["x-streams"]["programs"].as_array().map(Vec::len), Some(1));
    let declared = App::with(consumers![documented::check]).asyncapi("risk", "1.0.0").unwrap();
    let declared = serde_json::to_value(&declared).unwrap();
    let (there, here) = (
        &published["components"]["schemas"]["executions.Trade.v1"],
        &declared["components"]["schemas"]["executions.Trade.v1"],
    );
    assert_eq!(there["properties"]["quantity"]["maximum"], json!(u64::MAX));
    assert_eq!(there["properties"]["price"], here["properties"]["price"]);
    assert!(there.get("description").is_none() && here.get("description").is_some(), "notes have no comments");
    assert_eq!(running.shutdown().await, streams_runtime::Stopped::Clean);
}

#[tokio::test]
async fn a_server_records_what_its_programs_declare_on_embedded() {
    records_what_its_programs_declare(Arc::new(Embedded::new())).await;
}

#[tokio::test]
async fn a_server_records_what_its_programs_declare_on_redis() {
    let server = RedisServer::start();
    records_what_its_programs_declare(Arc::new(Redis::open(&server.url()).unwrap())).await;
}

#[test]
fn a_note_of_any_content_makes_a_document() {
    let note = |text: &str| text.to_owned();
    let declared = |event: &str, lock: Value| {
        json!({
            "program": "p", "at": "2026-01-01T00:00:00Z", "event": event, "version": 7, "fingerprint": "", "type": "t",
            "place": "x", "publishes": true, "lock": lock,
        })
        .to_string()
    };
    let reads = |events: Value| json!({ "program": "p", "at": "x", "events": events }).to_string();
    let notes = Notes::from([
        (note("a"), note("no JSON")),
        (note("b"), declared("A/b~c", json!(null))),
        (note("c"), declared("Long", json!(null))),
        (note("d"), declared("Bad", json!({ "format": 1, "layout": "map", "schema": { "recursive": "Nobody" } }))),
        (note("reads:g"), reads(json!({ "Long": [1, 4_000_000_000_u32], "Unknown": [1, 2], "A/b": [1, 1] }))),
    ]);
    let document = AsyncApi::recorded("server", "1", [(StreamKey::new(None, "s", 1), notes)]);
    assert_eq!(problems(&document), Vec::<String>::new(), "{document}");
    let document = serde_json::to_value(&document).unwrap();
    assert_eq!(dangling(&document), Vec::<String>::new());
    let names: Vec<_> = document["channels"]["s"]["messages"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["Bad.v7", "Long.v4000000000", "Long.v7", "Unknown.v2"]);
}

#[test]
fn a_users_repository_is_kept_up_to_date_and_ci_refuses_a_difference() {
    let shop = UserCrate::new("documented");
    let runtime = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../streams-runtime");
    let manifest = shop.read("Cargo.toml").replace(
        "[dependencies]\n",
        &format!("[dependencies]\nstreams-runtime = {{ path = {runtime:?}, features = [\"asyncapi\"] }}\n"),
    );
    shop.write("Cargo.toml", &manifest);
    let source =
        "/// One fill.\n#[streams_runtime::stream_event(stream = \"fills\")]\npub struct Fill { pub price: f64 }\n";
    shop.write("src/lib.rs", source);
    // The test of the guide.
    let test = DOCUMENT.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    shop.write("tests/asyncapi.rs", &format!("use shop as _;\n{test}"));
    shop.test_all(&[]).unwrap();
    let (document, lock) = (shop.read("asyncapi.yaml"), shop.read("schemas/fills.lock.json"));
    assert!(document.contains("title: my service\n") && document.contains("summary: One fill.\n"), "{document}");
    shop.test_all(&[("CI", "true")]).unwrap();
    shop.write("src/lib.rs", &source.replace("One fill", "A fill"));
    let said = shop.test_all(&[("CI", "true")]).unwrap_err();
    assert!(
        said.contains("asyncapi.yaml is not what the program declares; run `cargo test` where `CI` is not set"),
        "{said}"
    );
    assert_eq!(shop.read("asyncapi.yaml"), document);
    shop.test_all(&[]).unwrap();
    assert_eq!(shop.read("asyncapi.yaml"), document.replace("One fill", "A fill"));
    assert_eq!(shop.read("schemas/fills.lock.json"), lock, "a comment is no part of a shape");
}
