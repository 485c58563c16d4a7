//! docs/configuration.md is made from the code, and so is the table of metrics in docs/operating.md; tests hold both.
//!
//! `UPDATE_DOCS=1 cargo test -p streams-tests --all-features --test all reference` writes it anew.

use std::fmt::Write;
use std::path::Path;

const CONFIG: &str = include_str!("../../../../streams-runtime/src/app/config.rs");
const ENVIRONMENT: &str = include_str!("../../../../streams-runtime/src/app/environment.rs");
const APP: &str = include_str!("../../../../streams-runtime/src/app/mod.rs");
const CONSUMER_OPTIONS: &str = include_str!("../../../../streams-core/src/consumer.rs");
const RUNTIME: &str = include_str!("../../../../streams-runtime/src/lib.rs");
const CARGO: &str = include_str!("../../../../streams-runtime/Cargo.toml");
const STREAM_EVENT: &str = include_str!("../../../../streams-macros/docs/stream_event.md");
const CONSUMER: &str = include_str!("../../../../streams-macros/docs/consumer.md");

/// Something declared in one line below its comment.
struct Item {
    name: String,
    /// The text after the name: the type, and the value of a constant.
    rest: String,
    comment: String,
}

/// The items in `source` whose line begins with `keyword`, with their comments.
fn items(source: &str, keyword: &str) -> Vec<Item> {
    let (mut items, mut comment) = (Vec::new(), String::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment = format!("{comment} {}", text.trim());
        } else if let Some(declared) = line.strip_prefix(keyword) {
            let (name, rest) = declared.split_once(':').unwrap_or((declared, ""));
            let comment = plain(comment.trim());
            items.push(Item { name: name.to_owned(), rest: rest.trim().to_owned(), comment });
        }
        if !line.starts_with("///") && !line.starts_with("#[") {
            comment.clear();
        }
    }
    items
}

/// The items between the braces of the struct.
fn fields(source: &str, declaration: &str) -> Vec<Item> {
    let (_, body) = source.split_once(declaration).expect("the struct is declared");
    items(body.split_once("\n}").expect("it ends").0, "pub ")
}

/// Without links to other items: outside of rustdoc they lead nowhere.
fn plain(comment: &str) -> String {
    let mut parts = comment.split("`](");
    let first = parts.next().unwrap_or_default().to_owned();
    let text = parts.fold(first, |text, part| text + "`" + part.split_once(')').map_or("", |(_, after)| after));
    text.replace("[`", "`").replace("`]", "`")
}

/// The first table below a heading, or in the text.
fn table<'a>(text: &'a str, columns: &str) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let rows: Vec<_> = lines.skip_while(|line| *line != columns).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 2, "no table `{columns}`");
    rows
}

/// A default as people write it.
fn value(rest: &str) -> String {
    let value = rest.split_once('=').expect("a constant has a value").1.trim().trim_end_matches(';');
    let units = [("Duration::from_secs(", "s"), ("Duration::from_millis(", "ms")];
    let mut text = value.to_owned();
    for (call, unit) in units {
        while let Some((before, rest)) = text.split_once(call) {
            let (number, after) = rest.split_once(')').expect("a call ends");
            text = format!("{before}{number}{unit}{after}");
        }
    }
    text = text.replace('_', "");
    match text.strip_prefix("Backoff { first: ").and_then(|text| text.strip_suffix(" }")) {
        Some(waits) => waits.replace(", max: ", ".."),
        None => text,
    }
}

fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
        Every setting, made from the code by a test. An attribute's option gives way to `Config`, that to `Config::group`, and\n\
        all of them to the environment, which only `run()` and `App::from_environment` read. A value that cannot be refuses the\n\
        start, and all that is wrong is said at once.\n\n\
        ## Environment\n\n\
        A variable that begins with `STREAMS_` and is not here is a warning. Those that Kubernetes and Docker set for a Service called \
        `streams` or `streams-..` (`*_SERVICE_HOST`, `*_PORT`, `*_PORT_*`) are passed over; an empty one counts as not set. \
        Durations are written `500ms`, `10s`, `1h 30m`.\n\n",
    );
    let lines = |page: &mut String, rows: Vec<&str>| rows.iter().for_each(|row| page.extend([row, "\n"]));
    lines(&mut page, table(RUNTIME, "| variable | meaning |"));

    page.push_str("\n## `Config`\n\nThe app's own settings: `App::config(Config::new().lease(..))`.\n\n| field | meaning, default and why |\n|---|---|\n");
    for field in fields(CONFIG, "pub struct Config {") {
        let _ = writeln!(page, "| `{}` | {} |", field.name, field.comment);
    }

    page.push_str("\n## `#[consumer(..)]`\n\n");
    lines(&mut page, table(CONSUMER, "| option | meaning |"));
    page.push_str(
        "\nThe same for all consumers (`Config::consumers`) or those of one group (`Config::group`) as `ConsumerOptions`:\n\n\
        | field | meaning | default | why |\n|---|---|---|---|\n",
    );
    let defaults = items(CONFIG, "pub(super) const ");
    for field in fields(CONSUMER_OPTIONS, "pub struct ConsumerOptions {") {
        let default = defaults.iter().find(|default| default.name == field.name.to_uppercase());
        let (default, why) = match default {
            Some(default) => (format!("`{}`", value(&default.rest)), default.comment.as_str()),
            None => match field.name.as_str() {
                "start" => ("`earliest`".to_owned(), "a new group sees what there is"),
                "on_data_loss" => ("`halt`".to_owned(), "a loss is for people to judge"),
                "delivery" => ("`ordered`".to_owned(), "order is the promise where nobody says otherwise"),
                "dedupe" => ("none".to_owned(), "it costs a round trip for each read, and the server's memory"),
                "on_failure" => ("`skip`".to_owned(), "one bad event must not stop every process"),
                "ignore" => ("none".to_owned(), "only people know what is withdrawn for good"),
                "adopt" => ("`false`".to_owned(), "another program's group is not taken over by mistake"),
                other => panic!("what is the default of `{other}`?"),
            },
        };
        let _ = writeln!(page, "| `{}` | {} | {default} | {why} |", field.name, field.comment);
    }

    page.push_str("\n## `#[stream_event(..)]`\n\n");
    lines(&mut page, table(STREAM_EVENT, "| option | meaning | default |"));

    page.push_str("\n## Features of `streams-runtime`\n\nNone is on by default.\n\n");
    lines(&mut page, table(RUNTIME, "| feature | brings |"));
    page
}

#[test]
fn the_configuration_reference_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let made = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == made,
        "docs/configuration.md is not what the code says; see the head of this file for the command"
    );
}

/// Every metric, as its table in the code says it.
fn metrics() -> String {
    let mut table = String::from("| name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for metric in streams_runtime::metrics::METRICS {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (metric.kind.as_str(), labels.join(", "));
        let _ = writeln!(table, "| `{}` | {kind} | {} | {labels} | {} |", metric.name, metric.unit, metric.meaning);
    }
    table
}

#[test]
fn the_operating_guide_has_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let begin = found.find("| name | kind |").expect("the table of metrics");
    let end = begin + found[begin..].find("\n\n").expect("its end") + 1;
    let made = found[..begin].to_owned() + &metrics() + &found[end..];
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, &made).unwrap();
    }
    assert!(found == made, "docs/operating.md does not have the metrics of the code; see the head of this file");
}

/// The words of every log line that wants somebody to act, and the source that says them.
#[test]
fn the_operating_guide_names_log_lines_that_exist() {
    let guide = include_str!("../../../../docs/operating.md");
    let (_, lines) = guide.split_once("| line contains | level |").expect("the table of log lines");
    let rows = lines.lines().skip(2).take_while(|line| line.starts_with('|'));
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../streams-runtime/src"));
    let mut words = 0;
    for quoted in rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        for part in quoted.split("..").map(str::trim).filter(|part| part.len() > 4) {
            words += 1;
            assert!(sources.contains(&part.replace('"', "\\\"")), "nothing in streams-runtime says `{part}`");
        }
    }
    assert!(words > 20, "{words}");
}

/// The text of every source file below a folder, with strings that go over several lines in one.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let mut lines = source.split("\\\n");
            text += lines.next().unwrap_or_default();
            lines.for_each(|line| text += line.trim_start());
        }
    }
    text
}

/// The names of all variables that begin with `STREAMS_`.
pub(super) fn variables() -> Vec<&'static str> {
    let variables = ENVIRONMENT.split_once("const VARIABLES").expect("the list").1.split_once("];").expect("its end").0;
    variables.split('"').skip(1).step_by(2).collect()
}

#[test]
fn every_variable_that_is_read_and_every_feature_is_in_a_table() {
    let names = variables();
    assert!(names.len() > 9, "{names:?}");
    let rows = table(RUNTIME, "| variable | meaning |").join("\n");
    let (before, _) = APP.split_once("pub fn from_environment").expect("the method");
    let method = before.rsplit_once("\n\n").expect("its comment").1;
    for name in names {
        assert!(rows.contains(&format!("`{name}`")), "{name} is not in the table of streams-runtime/src/lib.rs");
        assert!(method.contains(&format!("`{name}`")), "{name} is not said of App::from_environment");
    }
    let features = CARGO.split_once("[features]").expect("features").1.split_once("\n[").expect("their end").0;
    let rows = table(RUNTIME, "| feature | brings |").join("\n");
    for line in features.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, _)) = line.split_once('=') {
            assert!(rows.contains(&format!("`{}`", name.trim())), "{name} is not in the table of features");
        }
    }
}

#[test]
fn defaults_are_written_as_people_write_them() {
    assert_eq!(value("u32 = 1_000;"), "1000");
    assert_eq!(value("Duration = Duration::from_millis(100);"), "100ms");
    let backoff = "Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) };";
    assert_eq!(value(backoff), "100ms..30s");
}
