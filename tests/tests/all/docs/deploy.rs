//! The files in `deploy/` against the code and the guides: metrics, labels, variables, alerts, links and times.
//!
//! `cargo xtask deploy` gives them to their own validators.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use streams_runtime::metrics::{METRICS, Metric};

use super::reference::variables;

const GUIDE: &str = include_str!("../../../../docs/operating.md");
const ALERTS: &str = include_str!("../../../../deploy/prometheus/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../../deploy/prometheus/alerts.test.yml");
const DASHBOARD: &str = include_str!("../../../../deploy/grafana/streams.json");
const README: &str = include_str!("../../../../deploy/README.md");
const COMPOSE: &str = include_str!("../../../../deploy/docker/compose.yml");
const KUBERNETES: &str = include_str!("../../../../deploy/kubernetes/deployment.yaml");
const SYSTEMD: &str = include_str!("../../../../deploy/systemd/streams-app.service");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every file below the folder, with its text.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| {
        if path.is_dir() { files(&path) } else { vec![(path.clone(), fs::read_to_string(&path).unwrap())] }
    };
    entries.flat_map(of).collect()
}

/// The words of a text that begin so, with what follows each.
fn words<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_in_a_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.match_indices(begin).filter(move |(at, _)| !text[..*at].ends_with(is_in_a_word)).map(move |(at, _)| {
        let rest = &text[at..];
        rest.split_at(rest.find(|character| !is_in_a_word(character)).unwrap_or(rest.len()))
    })
}

/// The metric of a series: a histogram has three.
fn metric(series: &str) -> Option<&'static Metric> {
    let named = |name: &str| METRICS.iter().find(|metric| metric.name == name);
    let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| series.strip_suffix(part));
    named(series).or_else(|| parts.filter_map(named).find(|metric| metric.kind.as_str() == "histogram"))
}

#[test]
fn every_metric_and_label_of_a_file_exists() {
    // Prometheus adds the first two, the tests of the alerts a pod, and a histogram has a bound.
    const ADDED: [&str; 4] = ["job", "instance", "pod", "le"];
    let mut used = BTreeSet::new();
    for (path, text) in files(&folder()) {
        for (series, rest) in words(&text, "streams_") {
            let metric = metric(series).unwrap_or_else(|| panic!("{}: no metric `{series}`", path.display()));
            used.insert(metric.name);
            let selected =
                rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
            for pair in selected.split(", ").filter(|pair| !pair.is_empty()) {
                let label = pair.split(['=', '~', '!']).next().unwrap_or_default();
                let known = metric.labels.contains(&label) || ADDED.contains(&label);
                assert!(known, "{}: `{series}` has no label `{label}`", path.display());
            }
        }
    }
    assert!(used.len() > 15, "{used:?}");
}

#[test]
fn every_variable_of_a_file_is_read_by_the_runtime() {
    let (known, mut used) = (variables(), BTreeSet::new());
    for (path, text) in files(&folder()) {
        for (variable, _) in words(&text, "STREAMS_") {
            assert!(known.contains(&variable), "{}: nobody reads `{variable}`", path.display());
            used.insert(variable.to_owned());
        }
    }
    assert!(used.contains("STREAMS_HTTP"), "{used:?}");
}

/// The alerts of the rules, each with its text.
fn rules() -> BTreeMap<&'static str, &'static str> {
    let rules = ALERTS.split("- alert: ").skip(1);
    rules.map(|rule| rule.split_once('\n').expect("a name, and more")).collect()
}

#[test]
fn the_guide_has_the_alerts_of_the_rules_and_every_rule_has_a_test_that_fires() {
    let (_, table) = GUIDE.split_once("| alert | on |").expect("the table of alerts");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let documented: BTreeSet<_> = rows.map(|row| row.split('`').nth(1).expect("a name")).collect();
    let rules = rules();
    assert_eq!(documented, rules.keys().copied().collect());
    for (alert, rule) in rules {
        for part in ["summary: ", "description: ", "severity: "] {
            assert!(rule.contains(part), "{alert} has no `{part}`");
        }
        let fires = format!("alertname: {alert}\n        exp_alerts:");
        assert!(ALERT_TESTS.contains(&fires), "no test says when {alert} fires");
        let silent = format!("alertname: {alert}}}");
        assert!(ALERT_TESTS.contains(&silent), "no test says when {alert} is silent");
    }
}

/// The place in a page that a heading gets on GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_leads_to_a_heading_of_the_guide() {
    let headings: Vec<_> = GUIDE
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches(['#', ' '])))
        .collect();
    for (alert, rule) in rules() {
        let (_, url) = rule.split_once("runbook_url: docs/operating.md#").expect(alert);
        let place = url.lines().next().unwrap_or_default();
        assert!(headings.iter().any(|heading| heading == place), "{alert}: no heading `{place}` in {headings:?}");
    }
}

#[test]
fn the_panels_of_the_dashboard_ask_for_something_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables: BTreeSet<_> = variables.map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "group", "stream"]));
    let (mut taken, mut ids) = (BTreeMap::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is that of another panel");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (x, y) = (place("x"), place("y"));
        assert!(x + place("w") <= 24, "{title} is too wide");
        for column in x..x + place("w") {
            for line in y..y + place("h") {
                let other = taken.insert((column, line), title);
                assert!(other.is_none(), "{title} lies over {other:?}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(words(query, "streams_").next().is_some(), "{title}: {query}");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            for word in query.split('$').skip(1) {
                let name = word.split(|character: char| !character.is_ascii_alphabetic() && character != '_').next();
                let name = name.unwrap_or_default();
                assert!(variables.contains(name) || ["__rate_interval", "__range"].contains(&name), "{title}: ${name}");
            }
        }
    }
    // No gap either.
    let bottom = taken.keys().map(|(_, line)| line + 1).max().unwrap();
    assert_eq!(taken.len() as u64, 24 * bottom);
}

/// The number of seconds that follows these words.
fn seconds(text: &str, words: &str) -> u64 {
    let (_, after) = text.split_once(words).unwrap_or_else(|| panic!("no `{words}`"));
    let digits = after.find(|character: char| !character.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().unwrap()
}

#[test]
fn nobody_kills_a_program_before_its_deadline_and_its_last_commit() {
    const LAST_COMMIT: u64 = 5;
    let deadline = seconds(COMPOSE, "STREAMS_SHUTDOWN_DEADLINE: ");
    assert!(seconds(COMPOSE, "stop_grace_period: ") >= deadline + LAST_COMMIT);
    let deadline = seconds(SYSTEMD, "STREAMS_SHUTDOWN_DEADLINE=");
    assert!(seconds(SYSTEMD, "TimeoutStopSec=") >= deadline + LAST_COMMIT);
    let deadline = seconds(KUBERNETES, "STREAMS_SHUTDOWN_DEADLINE, value: ");
    let before = seconds(KUBERNETES, "sleep: {seconds: ");
    assert!(seconds(KUBERNETES, "terminationGracePeriodSeconds: ") >= before + deadline + LAST_COMMIT);
}

#[test]
fn the_readme_of_the_folder_names_every_file() {
    for (path, _) in files(&folder()) {
        let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
        assert!(name == "README.md" || README.contains(&format!("`{name}`")), "{name}");
    }
}
