//! Schemas that cannot break in silence: the messages to a user's crate when its events change.

use streams_tests::UserCrate;

/// An event with a bit of everything.
const EVENT: &str = r#"
use streams_core::{event_type, stream_event};
use std::collections::BTreeMap;

#[stream_event(stream = "STREAM", name = "Trade")]
pub struct Trade {
    pub symbol: String,
    pub price: f64,
    pub rate: f32,
    pub quantity: u32,
    pub change: i32,
    pub venue: Option<String>,
    #[serde(default)]
    pub fee: i64,
    pub side: Side,
    pub status: Status,
    pub legs: Vec<Leg>,
    pub tags: BTreeMap<String, u16>,
    pub pair: (u8, u16),
    pub codes: [u16; 3],
    #[serde(alias = "remark")]
    pub note: String,
    pub parts: Option<Box<Tree>>,
}

#[event_type]
pub enum Side { Buy, Sell }

#[event_type]
#[serde(tag = "kind")]
pub enum Status {
    Open,
    Closed { reason: String },
    #[serde(other)]
    Unknown,
}

#[event_type]
pub struct Leg {
    pub venue: String,
    pub quantity: u64,
    pub comment: Option<String>,
}

#[event_type]
pub struct Tree {
    pub name: String,
    pub children: Vec<Tree>,
}
"#;

/// Replacements in [`EVENT`], and whether somebody breaks: the text that is underlined, and words of the message.
type Change = (&'static [(&'static str, &'static str)], Option<(&'static str, &'static [&'static str])>);

const OLD: &str = "new code cannot read old events]";
const NEW: &str = "deployed consumers cannot read new events]";
const BOTH: &str = "new code cannot read old events, nor deployed consumers new ones]";

const CHANGES: &[Change] = &[
    // Fields.
    (&[("    pub price: f64,\n", "")], Some(("Trade", &["`price`: removed, or renamed; keep it", NEW]))),
    (
        &[("pub price: f64,", "pub price: f64,\n pub more: u8,")],
        Some(("more: u8", &["`more`: added without a default; make it an `Option`", OLD])),
    ),
    (&[("pub price: f64,", "pub px: f64,")], Some(("px: f64", &["`price`: removed", "`px`: added without a default"]))),
    (
        &[("pub price: f64,", "#[serde(alias = \"price\")] pub px: f64,")],
        Some(("px: f64", &["`px`: renamed from `price`; keep that name with `#[serde(rename = \"price\")]`", NEW])),
    ),
    (&[("pub price: f64,", "#[serde(rename = \"px\")] pub price: f64,")], Some(("price: f64", &["`px`: added"]))),
    (
        &[("#[serde(alias = \"remark\")]\n", "")],
        Some(("note: String", &["`note`: no longer read as `remark`; keep `alias = \"remark\"`", OLD])),
    ),
    (
        &[("    pub symbol: String,\n", ""), ("(alias = \"remark\"", "(alias = \"remark\", alias = \"symbol\"")],
        Some((
            "note: String",
            &["`note`: read from `note` and from `symbol`, and an event that has both cannot be read", OLD],
        )),
    ),
    (
        &[("#[serde(default)]\n    pub fee", "pub fee")],
        Some(("fee: i64", &["`fee`: could be left out, and no longer can; keep its default", OLD])),
    ),
    (
        &[("pub symbol", "#[serde(default, skip_serializing_if = \"String::is_empty\")]\n pub symbol")],
        Some(("symbol: String", &["`symbol`: may now be left out", NEW])),
    ),
    (
        &[(
            "#[stream_event(stream = \"STREAM\", name = \"Trade\")]",
            "#[stream_event(stream = \"STREAM\", name = \"Trade\")]\n#[serde(rename_all = \"UPPERCASE\")]",
        )],
        Some(("symbol: String", &["`SYMBOL`: added", "`symbol`: removed"])),
    ),
    (
        &[
            ("    pub venue: Option<String>,\n    #[serde", "    #[serde"),
            ("pub struct Trade", "#[serde(deny_unknown_fields)]\npub struct Trade"),
        ],
        Some(("Trade", &["`venue`: removed", OLD])),
    ),
    // Types.
    (
        &[("pub quantity: u32", "pub quantity: u16")],
        Some(("quantity: u16", &["`quantity`: type changed from u32 to u16", OLD])),
    ),
    (&[("pub quantity: u32", "pub quantity: u64")], Some(("quantity: u64", &["type changed from u32 to u64", NEW]))),
    (&[("pub quantity: u32", "pub quantity: i32")], Some(("quantity: i32", &["type changed from u32 to i32", BOTH]))),
    (&[("pub price: f64", "pub price: f32")], Some(("price: f32", &["type changed from f64 to f32", OLD]))),
    (&[("pub rate: f32", "pub rate: f64")], Some(("rate: f64", &["type changed from f32 to f64", NEW]))),
    (&[("pub price: f64", "pub price: String")], Some(("price: String", &["type changed from f64 to string", BOTH]))),
    (
        &[("pub symbol: String", "pub symbol: Option<String>")],
        Some(("symbol: Option<String>", &["`symbol`: became optional", NEW])),
    ),
    (
        &[("pub venue: Option<String>,\n    #[serde", "#[serde(default)] pub venue: String,\n    #[serde")],
        Some(("venue: String", &["`venue`: was optional, and no longer is", OLD])),
    ),
    (
        &[("pub pair: (u8, u16)", "pub pair: (u8, u16, u8)")],
        Some(("pair: (u8, u16, u8)", &["`pair`: type changed from (u8, u16) to (u8, u16, u8)", BOTH])),
    ),
    (
        &[("pub pair: (u8, u16)", "pub pair: (u8, u8)")],
        Some(("pair: (u8, u8)", &["`pair.1`: type changed from u16 to u8", OLD])),
    ),
    (
        &[("pub codes: [u16; 3]", "pub codes: [u16; 4]")],
        Some(("codes: [u16; 4]", &["`codes`: type changed from [u16; 3] to [u16; 4]", BOTH])),
    ),
    (
        &[("BTreeMap<String, u16>", "BTreeMap<u32, u16>")],
        Some(("tags: BTreeMap<u32, u16>", &["`tags.{key}`: type changed from string to u32", BOTH])),
    ),
    (
        &[("pub legs: Vec<Leg>", "pub legs: Vec<Option<Leg>>")],
        Some(("legs: Vec<Option<Leg>>", &["`legs`: became optional", NEW])),
    ),
    (
        &[("pub note: String", "#[event(opaque = \"note@1\")] pub note: String")],
        Some(("note: String", &["type changed from string to opaque note@1", BOTH])),
    ),
    // Inside.
    (
        &[("pub quantity: u64", "pub quantity: i64")],
        Some(("legs: Vec<Leg>", &["`legs.quantity`: type changed from u64 to i64", BOTH])),
    ),
    (&[("    pub venue: String,\n", "")], Some(("legs: Vec<Leg>", &["`legs.venue`: removed", NEW]))),
    (
        &[("pub children: Vec<Tree>", "pub children: Vec<String>")],
        Some(("parts: Option<Box<Tree>>", &["`parts.children`: type changed from recursive Self to string", BOTH])),
    ),
    // Enums.
    (
        &[("Buy, Sell", "Buy, Sell, Short")],
        Some((
            "side: Side",
            &["`side.Short`: variant added, and deployed consumers have no `#[serde(other)]` variant", NEW],
        )),
    ),
    (&[("Buy, Sell", "Buy")], Some(("side: Side", &["`side.Sell`: variant removed", OLD]))),
    (
        &[("pub enum Side", "#[serde(rename_all = \"lowercase\")]\npub enum Side")],
        Some(("side: Side", &["`side.Buy`: variant removed", "`side.buy`: variant added"])),
    ),
    (
        &[("pub enum Side", "#[serde(tag = \"side\")]\npub enum Side")],
        Some(("side: Side", &["`side`: how the variants are told apart", BOTH])),
    ),
    (
        &[("    #[serde(other)]\n    Unknown,\n", "")],
        Some(("status: Status", &["`status.Unknown`: variant removed", OLD])),
    ),
    (
        &[("Closed { reason: String }", "Closed { reason: String, by: u32 }")],
        Some(("status: Status", &["`status.Closed.by`: added without a default", OLD])),
    ),
    (&[("Sell }", "Sell(u8) }")], Some(("side: Side", &["`side.Sell`: type changed from () to u8", BOTH]))),
    // The event.
    (
        &[("stream = \"STREAM\"", "stream = \"STREAM\", layout = \"array\"")],
        Some(("Trade", &["the layout changed from map to array"])),
    ),
    (
        &[
            ("stream = \"STREAM\"", "stream = \"STREAM\", compat = \"exact\""),
            (
                "pub venue: Option<String>,\n    #[serde",
                "pub venue: Option<String>,\n    pub more: Option<u8>,\n    #[serde",
            ),
        ],
        Some(("more: Option<u8>", &["`more`: added [the event allows no change]"])),
    ),
    // Changes that break nobody.
    (&[("pub price: f64,", "pub price: f64,\n pub more: Option<u8>,")], None),
    (&[("pub price: f64,", "pub price: f64,\n #[serde(default)] pub more: Vec<Leg>,")], None),
    (&[("    pub venue: Option<String>,\n    #[serde", "    #[serde")], None),
    (&[("    #[serde(default)]\n    pub fee: i64,\n", "")], None),
    (&[("pub struct Trade", "pub struct Fill")], None),
    (&[("Leg", "Part")], None),
    (&[("Box<Tree>", "Box<Node>"), ("Vec<Tree>", "Vec<Node>"), ("struct Tree", "struct Node")], None),
    (&[("    pub symbol: String,\n    pub price: f64,\n", "    pub price: f64,\n    pub symbol: String,\n")], None),
    (&[("Buy, Sell", "Sell, Buy")], None),
    (&[("pub price: f64", "#[serde(rename = \"price\")] pub px: f64")], None),
    (&[("pub price: f64", "#[serde(alias = \"px\")] pub price: f64")], None),
    (&[("pub symbol", "#[serde(default)] pub symbol")], None),
    (
        &[(
            "pub venue: Option<String>,\n    #[serde",
            "#[serde(skip_serializing_if = \"Option::is_none\")] pub venue: Option<String>,\n    #[serde",
        )],
        None,
    ),
    (&[("Closed { reason", "Halted { at: u64 },\n Closed { reason")], None),
    (&[("    Closed { reason: String },\n", "")], None),
    (&[("Closed { reason: String }", "Closed { reason: String, by: Option<u32> }")], None),
    (&[("pub comment: Option<String>", "pub comment: Option<String>, pub more: Option<u8>")], None),
    (&[("Option<Box<Tree>>", "Option<Tree>")], None),
    (&[("Vec<Leg>", "std::collections::VecDeque<Box<Leg>>")], None),
    (&[("pub enum Side { Buy, Sell }", "pub enum Side { Buy, Sell, #[serde(other)] Other }")], None),
    (
        &[
            ("pub struct Trade", "#[derive(Debug, Clone)]\npub struct Trade"),
            ("pub enum", "#[derive(Debug, Clone)]\npub enum"),
            ("pub struct Leg", "#[derive(Debug, Clone)]\npub struct Leg"),
            ("pub struct Tree", "#[derive(Debug, Clone)]\npub struct Tree"),
        ],
        None,
    ),
    (&[("stream = \"STREAM\"", "stream = \"STREAM\", key = symbol, partitions = 4, max_payload = \"1KiB\"")], None),
    (
        &[
            ("stream = \"STREAM\"", "stream = \"STREAM\", compat = \"backward\""),
            ("pub quantity: u32", "pub quantity: u64"),
            ("Buy, Sell", "Buy, Sell, Short"),
        ],
        None,
    ),
    (
        &[
            ("stream = \"STREAM\"", "stream = \"STREAM\", compat = \"none\""),
            ("pub quantity: u32", "pub quantity: String"),
        ],
        None,
    ),
    (&[("pub price: f64,", "pub price: f64,\n #[serde(skip)] pub more: u8,")], None),
    (&[("pub note: String", "#[event(wire = \"String\")] pub note: String")], None),
];

fn source(index: usize, change: &[(&str, &str)]) -> String {
    let mut source = EVENT.replace("STREAM", &format!("s{index:02}"));
    for (from, to) in change {
        let from = from.replace("STREAM", &format!("s{index:02}"));
        assert!(source.contains(&from), "change {index} has nothing to change: {from}");
        source = source.replace(&from, &to.replace("STREAM", &format!("s{index:02}")));
    }
    source
}

/// Writes one module a change, with those changes made that `made` picks.
fn write(shop: &UserCrate, made: impl Fn(&Change) -> bool) {
    for (index, change) in CHANGES.iter().enumerate() {
        let replacements = if made(change) { change.0 } else { &[] };
        shop.write(&format!("src/s{index:02}.rs"), &source(index, replacements));
    }
}

#[test]
fn every_breaking_change_stops_the_compiler_and_no_harmless_one_does() {
    let breaking = CHANGES.iter().filter(|(_, breaks)| breaks.is_some()).count();
    assert!(CHANGES.len() >= 50 && breaking >= 25 && CHANGES.len() - breaking >= 25, "{breaking}");
    let shop = UserCrate::new("fifty");
    let modules: String = (0..CHANGES.len()).map(|index| format!("pub mod s{index:02};\n")).collect();
    shop.write("src/lib.rs", &modules);
    write(&shop, |_| false);
    shop.test(&[]).expect("the first run writes the locks");

    write(&shop, |_| true);
    let errors = shop.check(&[]);
    for (index, (change, breaks)) in CHANGES.iter().enumerate() {
        let file = format!("src/s{index:02}.rs");
        let said: Vec<_> = errors.iter().filter(|error| error.file == file).collect();
        match (breaks, said.as_slice()) {
            (None, []) => {}
            (Some((underlined, words)), [error]) => {
                assert_eq!(error.underlined, *underlined, "{change:?}: {}", error.message);
                let remedy = ["undo the change", "with `version = 2`", "STREAMS_BLESS=1 cargo test"];
                for word in words.iter().chain(&remedy) {
                    assert!(error.message.contains(word), "{change:?} does not say `{word}`: {}", error.message);
                }
            }
            (breaks, said) => panic!("{change:?} was to break {breaks:?}, and the compiler said {said:?}"),
        }
    }

    write(&shop, |(_, breaks)| breaks.is_none());
    assert!(shop.check(&[("STREAMS_LOCK", "required")]).is_empty());
}

const SMALL: &str = "
use streams_core::stream_event;

#[stream_event(stream = \"trades\")]
pub struct Trade {
    pub symbol: String,
    pub price: f64,
}
";

/// A crate with one event that is locked.
fn small(package: &str) -> UserCrate {
    let shop = UserCrate::new(package);
    shop.write("src/lib.rs", SMALL);
    shop.test(&[]).expect("the first run writes the lock");
    shop
}

/// Changes the text of the crate.
fn edit(shop: &UserCrate, from: &str, to: &str) {
    let source = shop.read("src/lib.rs");
    assert!(source.contains(from), "{source}");
    shop.write("src/lib.rs", &source.replace(from, to));
}

#[track_caller]
fn says(problem: &str, words: &[&str]) {
    for word in words {
        assert!(problem.contains(word), "does not say `{word}`: {problem}");
    }
}

#[test]
fn an_event_is_locked_by_its_first_test_and_never_in_ci() {
    let shop = UserCrate::new("unlocked");
    shop.write("src/lib.rs", SMALL);
    let refused = shop.check(&[("STREAMS_LOCK", "required")]);
    assert_eq!(refused.len(), 1, "{refused:?}");
    says(&refused[0].message, &["event `Trade@1` is not in schemas/trades.lock.json", "run `cargo test`", "commit"]);
    assert_eq!(refused[0].underlined, "Trade");
    let unlocked = shop.test(&[("CI", "true")]).expect_err("CI writes nothing");
    says(&unlocked, &["event `Trade@1` is not in schemas/trades.lock.json; run `cargo test` where `CI` is not set"]);
    assert!(!shop.path("schemas").exists());
    shop.test(&[]).expect("it writes the lock");
    let expected = r#"{
  "format": 1,
  "stream": "trades",
  "events": {
    "Trade": {
      "1": {
        "layout": "map",
        "schema": {
          "struct": "Trade",
          "fields": [
            { "name": "price", "type": "f64" },
            { "name": "symbol", "type": "string" }
          ]
        }
      }
    }
  }
}
"#;
    assert_eq!(shop.read("schemas/trades.lock.json"), expected);
    shop.test(&[("CI", "true")]).expect("the lock is there");
    assert!(shop.check(&[("STREAMS_LOCK", "required")]).is_empty());
}

#[test]
fn a_change_that_breaks_nobody_is_taken_down_and_what_is_gone_stays_known() {
    let shop = small("harmless");
    edit(&shop, "pub price: f64,", "pub price: f64, pub venue: Option<String>,");
    assert!(shop.check(&[]).is_empty());
    let drifted = shop.test(&[]).expect_err("the lock lags behind");
    says(&drifted, &["breaks nobody; run `STREAMS_BLESS=1 cargo test`, and commit the file"]);
    shop.test(&[("STREAMS_BLESS", "1")]).expect("it is taken down");
    edit(&shop, "pub venue: Option<String>,", "");
    shop.test(&[("STREAMS_BLESS", "1")]).expect("it is taken down");
    assert!(
        shop.read("schemas/trades.lock.json")
            .contains(r#"{ "name": "venue", "type": { "option": "string" }, "optional": true, "removed": true }"#)
    );
    shop.test(&[("CI", "true")]).expect("nothing is left to take down");
    // Events with a venue of text are still in the stream.
    edit(&shop, "pub price: f64,", "pub price: f64, pub venue: Option<u32>,");
    let errors = shop.check(&[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    says(&errors[0].message, &["`venue`: type changed from string to u32"]);
}

#[test]
fn a_published_version_changes_only_by_force() {
    let shop = small("published");
    shop.test(&[("STREAMS_BLESS", "publish")]).expect("it is marked");
    assert!(shop.read("schemas/trades.lock.json").contains(r#""published": true"#));
    edit(&shop, "pub price: f64", "pub price: String");
    for bless in [[].as_slice(), &[("STREAMS_BLESS", "1")]] {
        let errors = shop.check(bless);
        assert_eq!(errors.len(), 1, "{errors:?}");
        says(&errors[0].message, &["`price`: type changed", "version 1 is published: undo the change"]);
        assert!(!errors[0].message.contains("STREAMS_BLESS"), "{}", errors[0].message);
    }
    shop.test(&[("STREAMS_BLESS", "breaking")]).expect("it is forced");
    assert!(shop.check(&[]).is_empty());
    // Another version is another matter.
    edit(&shop, "stream = \"trades\"", "stream = \"trades\", version = 2, oldest = 2");
    shop.test(&[]).expect("version 2 is added");
    let lock = shop.read("schemas/trades.lock.json");
    says(&lock, &[r#""1": {"#, r#""2": {"#]);
}

#[test]
fn milder_rules_take_nothing_back_of_what_was_published() {
    let shop = small("promised");
    shop.test(&[("STREAMS_BLESS", "publish")]).expect("it is marked");
    let lock = shop.read("schemas/trades.lock.json");
    edit(&shop, "pub price: f64", "pub price: f32");
    edit(&shop, "stream = \"trades\"", "stream = \"trades\", compat = \"none\"");
    for bless in [[].as_slice(), &[("STREAMS_BLESS", "1")]] {
        let refused = shop.test(bless).expect_err("it was published under other rules");
        says(&refused, &["event `Trade@1` is published", "with `compat = \"full\"`, which this change breaks"]);
        assert_eq!(shop.read("schemas/trades.lock.json"), lock);
    }
    shop.test(&[("STREAMS_BLESS", "breaking")]).expect("it is forced");
}

#[test]
fn a_renamed_type_is_offered_its_old_name() {
    let shop = small("renamed");
    edit(&shop, "struct Trade", "struct Fill");
    let forgotten = shop.test(&[]).expect_err("no type declares `Trade`");
    says(
        &forgotten,
        &[
            "schemas/trades.lock.json has `Trade@1`, which no type declares any more",
            "if `Fill` is that type renamed, write `name = \"Trade\"` on it",
            "retire it with `STREAMS_BLESS=1 cargo test`",
        ],
    );
    assert!(!shop.read("schemas/trades.lock.json").contains("Fill"));
    edit(&shop, "stream = \"trades\"", "stream = \"trades\", name = \"Trade\"");
    shop.test(&[("CI", "true")]).expect("it has the name");
    edit(&shop, ", name = \"Trade\"", "");
    shop.test(&[("STREAMS_BLESS", "1")]).expect("`Trade` is retired");
    shop.test(&[("CI", "true")]).expect("it stays retired");
    says(&shop.read("schemas/trades.lock.json"), &[r#""Fill": {"#, r#""retired": true"#]);
}

#[test]
fn a_renamed_stream_is_offered_its_old_name() {
    let shop = small("moved");
    edit(&shop, "stream = \"trades\"", "stream = \"fills\"");
    let moved = shop.test(&[]).expect_err("nothing is left of `trades`");
    says(
        &moved,
        &[
            "event `Trade` is not in schemas/fills.lock.json, and schemas/trades.lock.json has it for the stream `trades`",
            "if `fills` is that stream renamed, write `stream = \"trades\"`",
            "if not, run `STREAMS_BLESS=1 cargo test`",
        ],
    );
    assert!(!shop.path("schemas/fills.lock.json").exists());
    shop.test(&[("STREAMS_BLESS", "1")]).expect("it is another stream");
    shop.test(&[("CI", "true")]).expect("both locks may stay");
    says(&shop.read("schemas/trades.lock.json"), &[r#""retired": true"#]);
    // Two streams may each have an event of one name.
    shop.write("src/old.rs", SMALL);
    edit(&shop, "use streams_core", "pub mod old;\npub mod third;\nuse streams_core");
    shop.write("src/third.rs", &SMALL.replace("trades", "offers"));
    shop.test(&[("STREAMS_BLESS", "1")]).expect("the retired one is back");
    shop.test(&[("CI", "true")]).expect("nothing was moved");
}

#[test]
fn the_only_event_of_a_stream_does_not_go_unnoticed() {
    let shop = small("orphaned");
    edit(&shop, "use streams_core", "pub mod fills;\nuse streams_core");
    shop.write("src/fills.rs", &SMALL.replace("trades", "fills"));
    shop.test(&[("STREAMS_BLESS", "publish")]).expect("both are marked");
    let lock = shop.read("schemas/fills.lock.json");
    shop.write("src/fills.rs", "");
    for env in [[].as_slice(), &[("CI", "true")], &[("STREAMS_LOCK", "required")], &[("STREAMS_BLESS", "1")]] {
        let gone = shop.test(env).expect_err("no type declares `Trade` of `fills`");
        says(
            &gone,
            &[
                "schemas/fills.lock.json has `Trade@1`, which no type declares any more, nor any other event of its stream",
                "declare it again; run the tests with the features that declare it; or retire it with `STREAMS_BLESS=breaking cargo test`",
            ],
        );
        assert_eq!(shop.read("schemas/fills.lock.json"), lock);
    }

    // Without any event nothing is left but a test of the package's own.
    let own = "#[test] fn locks() { streams_core::schema::lock::check_locks(env!(\"CARGO_MANIFEST_DIR\"), option_env!(\"CARGO_BIN_NAME\")).unwrap() }";
    shop.write("src/lib.rs", own);
    let gone = shop.test(&[("CI", "true")]).expect_err("both are gone");
    says(&gone, &["schemas/fills.lock.json has `Trade@1`", "schemas/trades.lock.json has `Trade@1`"]);
    shop.test(&[("STREAMS_BLESS", "breaking")]).expect("both are retired");
    shop.test(&[("CI", "true")]).expect("both stay retired");
    says(&shop.read("schemas/fills.lock.json"), &[r#""retired": true"#]);
}

#[test]
fn a_lock_is_not_written_for_a_type_that_serializes_as_something_else() {
    let shop = UserCrate::new("lying");
    shop.write(
        "src/lib.rs",
        "#[streams_core::stream_event(stream = \"trades\")]
        pub struct Trade { pub symbol: String, #[event(wire = \"u64\")] pub price: String }",
    );
    let lying = shop.test(&[]).expect_err("it is no u64");
    says(
        &lying,
        &["event `Trade@1` does not read what its schema says: `price`", "correct `#[event(wire = ..)]` there"],
    );
    assert!(!shop.path("schemas").exists());
}

#[test]
fn a_crate_that_forbids_every_lint_it_can_is_compiled_and_tested() {
    let shop = UserCrate::new("strict");
    // Without what serde's own derives allow.
    let forbidden = "#![deny(warnings, nonstandard_style, unused, rust_2018_idioms)]
        #![forbid(missing_docs, missing_debug_implementations, unreachable_pub, unused_variables, non_snake_case, unnameable_test_items,
            dead_code, unused_results, trivial_casts, single_use_lifetimes, elided_lifetimes_in_paths, let_underscore_drop, unused_imports,
            unused_mut, unused_must_use, unused_lifetimes, unnameable_types, missing_copy_implementations, variant_size_differences,
            non_ascii_idents, unsafe_code, deprecated, redundant_imports, private_interfaces, non_local_definitions)]
        //! Events.
        use streams_core::{Context, State, consumer, event_type, stream_event};
        ";
    let before = "
        /// A trade.
        #[stream_event(stream = \"trades\", key = symbol)]
        #[derive(Debug)]
        pub struct Trade {
            /// The instrument.
                        pub symbol: String,
            /// Which way.
            pub side: Side,
            /// In parts.
            pub legs: Vec<Leg>,
        }

        /// Which way.
        #[event_type]
        #[derive(Debug, Clone, Copy)]
        pub enum Side {
            /// One.
            Buy,
            /// The other.
            Sell {
                /// At most.
                limit: Option<u32>,
            },
        }

        /// A part.
        #[event_type]
        #[derive(Debug)]
        pub struct Leg {
            /// Where.
            pub venue: String,
            /// Inside.
            #[event(recursive)]
            pub inner: Option<Box<Leg>>,
        }

        /// Handles.
        #[consumer(group = \"a\")]
        pub async fn plain(_: Trade) {}

        /// Handles.
        #[consumer(group = \"b\")]
        pub async fn with_arguments(_: &Trade, _: Context, _: State<u32>) {}

        mod inside {
            #[streams_core::consumer(group = \"c\")]
            pub(super) async fn of_a_module(_: super::Trade) {}
        }
        ";
    shop.write("src/lib.rs", &format!("{forbidden}{before}"));
    shop.test(&[]).expect("the first run writes the lock");
    let frozen =
        "streams_core::frozen_event!(pub TradeV1, stream = \"trades\", name = \"Trade\", version = 1, key = symbol);

        impl From<TradeV1> for Trade {
            fn from(old: TradeV1) -> Self {
                Self { symbol: old.symbol, side: Side::Buy, legs: Vec::new() }
            }
        }
        ";
    let after = before.replace("stream = \"trades\", ", "stream = \"trades\", version = 2, upcast_from = TradeV1, ");
    shop.write("src/lib.rs", &format!("{forbidden}{frozen}{after}"));
    shop.test(&[]).expect("a frozen event needs nothing either");
}

#[test]
fn what_leads_back_to_another_type_is_a_change() {
    let shop = UserCrate::new("recursive");
    shop.write(
        "src/lib.rs",
        "use streams_core::{event_type, stream_event};
        #[stream_event(stream = \"trees\")]
        pub struct Tree { pub branch: Branch }
        #[event_type]
        pub struct Branch { pub leaves: u8, #[event(recursive)] pub next: Option<Box<Tree>> }",
    );
    shop.test(&[]).expect("the first run writes the lock");
    edit(&shop, "Box<Tree>", "Box<Branch>");
    let errors = shop.check(&[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    says(&errors[0].message, &["`branch.next`: type changed from recursive Tree to recursive", BOTH]);
    shop.test(&[("STREAMS_BLESS", "1")]).expect("it is taken down");
    assert!(shop.check(&[]).is_empty());
    // The names of the types around mean nothing, here as elsewhere.
    shop.write("src/lib.rs", &shop.read("src/lib.rs").replace("Branch", "Bough").replace("Tree", "Bush"));
    edit(&shop, "stream = \"trees\"", "stream = \"trees\", name = \"Tree\"");
    shop.test(&[("CI", "true")]).expect("nobody breaks");
    // Nor does the mark, where it says what is plain without it.
    edit(&shop, "#[event(recursive)] ", "");
    shop.test(&[("CI", "true")]).expect("nobody breaks");
}

#[test]
fn a_module_of_the_library_and_of_a_program_is_locked_once() {
    let shop = UserCrate::new("twice");
    shop.write("src/events.rs", SMALL);
    shop.write("src/lib.rs", "pub mod events;");
    shop.write("src/main.rs", "mod events; fn main() { let _ = size_of::<events::Trade>(); }");
    shop.test_all(&[]).expect("the first run writes the lock");
    let lock = shop.read("schemas/trades.lock.json");
    shop.test_all(&[("CI", "true")]).expect("it is the same event");
    assert_eq!(shop.read("schemas/trades.lock.json"), lock);
    shop.test_all(&[("STREAMS_BLESS", "publish")]).expect("it is marked");
    shop.test_all(&[("CI", "true")]).expect("it is the same event");
    // The other crate alone declares it from now on.
    shop.write("src/lib.rs", "");
    shop.test_all(&[("CI", "true")]).expect("it is still declared");
}

#[test]
fn a_lock_that_cannot_be_read_is_an_error_and_is_kept() {
    let shop = small("broken");
    for (lock, words) in [
        ("<<<<<<< HEAD", "schemas/trades.lock.json is not JSON"),
        ("{ \"format\": 7 }", "has format 7, and this version reads format 1"),
        (
            r#"{ "format": 1, "stream": "trades", "events": { "Trade": { "1": { "layout": "map", "schema": "u7" } } } }"#,
            "cannot be read at `Trade@1`: `\"u7\"` is no schema; restore it",
        ),
        (
            r#"{ "format": 1, "stream": "trades", "events": { "Trade": { "1": { "layout": "map", "schema": { "logical": "time" } } } } }"#,
            "cannot be read at `Trade@1`: `null` is no schema; restore it",
        ),
    ] {
        shop.write("schemas/trades.lock.json", lock);
        let errors = shop.check(&[]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        says(&errors[0].message, &[words]);
        assert_eq!(errors[0].underlined, "\"trades\"");
        shop.test(&[]).expect_err("it does not compile");
        assert_eq!(shop.read("schemas/trades.lock.json"), lock);
    }
}

#[test]
fn events_that_only_tests_see_are_not_locked() {
    let shop = UserCrate::new("tests");
    let event = "#[streams_core::stream_event(stream = \"OF\")] pub struct Trade { pub price: f64 }";
    let of = |stream: &str| event.replace("OF", stream);
    shop.write(
        "src/lib.rs",
        &format!(
            "//! ```\n//! {}\n//! ```\n{}\n#[cfg(test)] mod tests {{ {} }}\npub mod fake {{ {} }}",
            of("trades").replace("f64", "String"),
            of("trades"),
            of("units"),
            of("fakes").replace("stream =", "lock = false, stream =")
        ),
    );
    shop.write("tests/all.rs", &format!("{}\n#[test] fn runs() {{}}", of("trades").replace("f64", "u8")));
    shop.test_all(&[]).expect("the first run writes the locks");
    shop.test_all(&[("STREAMS_LOCK", "required")]).expect("nothing else needs one");
    let locks: Vec<_> =
        std::fs::read_dir(shop.path("schemas")).unwrap().map(|lock| lock.unwrap().file_name()).collect();
    assert_eq!(locks, ["trades.lock.json"]);
    // A module that is no test, and looks like one.
    edit(&shop, "#[cfg(test)] mod tests", "pub mod tests");
    let errors = shop.check(&[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    says(&errors[0].message, &["event `Trade@1` is in a module for tests, where events are not locked"]);
}

#[test]
fn history_is_held_against_the_branch_it_left() {
    let shop = small("history");
    shop.test(&[("STREAMS_BLESS", "publish")]).expect("it is marked");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"];
        let output = shop.run("git", &[identity.as_slice(), args].concat(), &[]);
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "--quiet"]);
    git(&["add", "schemas", "src"]);
    git(&["commit", "--quiet", "-m", "First"]);
    git(&["checkout", "--quiet", "-b", "change"]);
    let base = ("STREAMS_LOCK_BASE", "main");
    edit(&shop, "pub price: f64,", "pub price: f64, pub venue: Option<String>,");
    shop.test(&[("STREAMS_BLESS", "1"), base]).expect("a published version may be added to");
    edit(&shop, "pub price: f64,", "pub price: String,");
    shop.test(&[("STREAMS_BLESS", "breaking")]).expect("it is forced, and nobody looks");
    let changed = shop.test(&[base]).expect_err("somebody looks");
    says(
        &changed,
        &[
            "have changed since `main`",
            "published version 1 of `Trade` changed:",
            "`price`: type changed from f64 to string",
            "give the changed event the next version",
        ],
    );
    let unknown = shop.test(&[("STREAMS_LOCK_BASE", "nowhere")]).expect_err("there is no such branch");
    says(&unknown, &["STREAMS_LOCK_BASE must name a branch or commit that this clone has"]);
}
