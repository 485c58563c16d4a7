//! Writes what was measured: `docs/benchmarks.md`, its chart, and the tables in the README.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::contender::Contender;
use crate::figures::thousands;
use crate::scenarios::Size;
use crate::server::RedisServer;

/// The README's tables stand between these lines.
const MARKS: [&str; 2] = ["<!-- benchmarks: written by `cargo xtask bench --peers` -->", "<!-- end of benchmarks -->"];

/// The chart's colours, on a light and on a dark page.
const STYLE: &str = "\
<style>
.page { fill: #fff }
text { font: 13px sans-serif; fill: #333 }
.bar { fill: #8a94a6 }
.ours { fill: #2f6fde }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 }
text { fill: #ddd }
.bar { fill: #7d8797 }
.ours { fill: #6ea0ff }
}
</style>
";

/// A scenario's results.
#[derive(Debug, Default)]
pub(crate) struct Section {
    word: &'static str,
    title: &'static str,
    pub(crate) text: String,
    pub(crate) tables: Vec<Table>,
    /// Bars of the chart, with their events per second.
    pub(crate) bars: Vec<(String, f64)>,
    /// Rows for the README.
    pub(crate) readme: Vec<Vec<String>>,
}

impl Section {
    pub(crate) fn new(word: &'static str, title: &'static str) -> Self {
        Self { word, title, ..Self::default() }
    }

    /// As Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.title, wrap(&self.text));
        for table in &self.tables {
            write!(text, "\n{}", table.text()).expect("memory");
        }
        text
    }
}

/// Rows under their titles.
#[derive(Debug)]
pub(crate) struct Table {
    caption: String,
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(caption: &str, titles: &[String], rows: Vec<Vec<String>>) -> Self {
        Self { caption: caption.to_owned(), titles: titles.to_vec(), rows }
    }

    fn text(&self) -> String {
        let caption = if self.caption.is_empty() { String::new() } else { format!("{}\n\n", wrap(&self.caption)) };
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |");
        let line = format!("|---|{}\n", "---:|".repeat(self.titles.len() - 1));
        format!("{caption}{}{line}{}", row(&self.titles), self.rows.iter().map(|cells| row(cells)).collect::<String>())
    }
}

/// Writes everything into the repository.
pub(crate) fn write(repository: &Path, size: Size, others: f64, sections: &[Section]) {
    let put = |path: &str, text: &str| {
        fs::write(repository.join(path), text).unwrap_or_else(|error| panic!("{path}: {error}"));
        println!("written: {path}");
    };
    let of = |word: &str| sections.iter().find(|section| section.word == word).expect("every scenario");
    put("docs/benchmarks.svg", &chart(&of("backlog").bars));
    put("docs/benchmarks.md", &page(repository, size, others, sections));
    let readme = fs::read_to_string(repository.join("README.md")).expect("README.md");
    let (before, rest) = readme.split_once(MARKS[0]).expect("the first mark in README.md");
    let (_, after) = rest.split_once(MARKS[1]).expect("the last mark in README.md");
    let tables = busy(others) + &readme_tables(size, of("backlog"), of("fanout"));
    put("README.md", &format!("{before}{}\n\n{tables}\n{}{after}", MARKS[0], MARKS[1]));
}

/// The share of the machine's CPU time that others use, from two seconds in which this program does nothing.
///
/// The load average would hold the compiler against us that has just built this program.
pub(crate) fn others() -> f64 {
    let times = || {
        let stat = fs::read_to_string("/proc/stat").expect("Linux's /proc");
        let line = stat.lines().next().unwrap_or_default();
        let times: Vec<f64> = line.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
        // The fourth and fifth are idle, the latter with a disk at work.
        (times[3] + times[4], times.iter().take(8).sum::<f64>())
    };
    let (idle, all) = times();
    std::thread::sleep(Duration::from_secs(2));
    let (idle_after, all_after) = times();
    1.0 - (idle_after - idle) / (all_after - all)
}

/// A warning, where others used the machine.
fn busy(others: f64) -> String {
    if others < 0.1 {
        return String::new();
    }
    let text = format!(
        "**A rehearsal: others used {:.0} % of the machine's CPU before the run. Rates, latencies and their ratios \
         prove nothing here; CPU per event is about right.**",
        others * 100.0
    );
    wrap(&text) + "\n\n"
}

fn readme_tables(size: Size, backlog: &Section, fanout: &Section) -> String {
    let titles = |titles: &[&str]| titles.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>();
    let heading = format!("{} events of backlog, one group", thousands(size.events as f64));
    let first =
        titles(&[&heading, "events/s, of bare XREAD", "of XREADGROUP", "client CPU per event", "Redis CPU per event"]);
    let heading = format!("{} groups in one process, 1,000 events/s from another", size.groups);
    let second = titles(&[&heading, "p95", "client CPU per delivery", "Redis CPU per delivery", "memory"]);
    let [first, second] = [(first, backlog), (second, fanout)]
        .map(|(titles, section)| Table::new("", &titles, section.readme.clone()).text());
    format!("{first}\n{second}")
}

fn page(repository: &Path, size: Size, others: f64, sections: &[Section]) -> String {
    let mut page = format!("# Benchmarks\n\n{}", busy(others));
    let method = [
        "This framework beside bare loops over the `redis` crate, RustStream and sea-streamer: the same work, in the same run. Each \
         scenario has a private Redis server, over TCP on the loopback, which persists nothing.",
        "`cargo xtask bench --peers` measures and writes this page. Compare only figures of one run: the ratios say more than the \
         rates.",
        "Each contender runs in a process of its own. Every round runs every contender, one after the other. A figure is the median \
         over rounds; a ratio is the median of the ratios within a round. CPU is user and system time: of the process from `/proc`, \
         of Redis from `INFO`. The clock stops with the last event handled, because how a contender stops is not measured.",
        "Every handler decodes the payload, a MessagePack map that is the same for all, adds up one field and counts. A contender \
         whose count or sum is wrong ends the run. Each reads the entries that its own publisher writes; the bare loops read ours, \
         with an event's name, id and payload.",
        "All use their default features. Settings are the defaults, too, unless the name or the table of promises says otherwise. A \
         read asks for 1 MiB of payload where a contender lets one choose, but 10 entries at least and 1,000 at most. RustStream \
         without batches asks for 64 entries, and this framework decides by itself.",
        "A bare loop reads and handles by turns, unless its name says that it reads ahead. This framework and sea-streamer read ahead, \
         so on two cores they may be faster than a bare loop.",
    ];
    for paragraph in method {
        writeln!(page, "{}\n", wrap(paragraph)).expect("memory");
    }
    page.push_str(
        "![Events per second of one group with a backlog](benchmarks.svg)\n\n## The run\n\n| | |\n|---|---|\n",
    );
    for (name, value) in machine(repository, others) {
        writeln!(page, "| {name} | {value} |").expect("memory");
    }
    writeln!(page, "| rounds | {} |", size.rounds).expect("memory");
    page.push_str(
        "\n## Promises\n\nThe contenders do not promise the same. A loop that promises less has less to do.\n\n",
    );
    page.push_str("| contender | what it does about losses |\n|---|---|\n");
    for contender in Contender::ALL {
        writeln!(page, "| {} | {} |", contender.name(), contender.promise()).expect("memory");
    }
    for section in sections {
        write!(page, "\n{}", section.text()).expect("memory");
    }
    page
}

/// The machine that measured, and the versions of everything.
fn machine(repository: &Path, others: f64) -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let gib = kib.map_or(f64::NAN, |kib: f64| kib / 1024.0 / 1024.0);
    let info: String = RedisServer::start().run("INFO server");
    let redis = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim().to_owned();
    let lock = fs::read_to_string(repository.join("benches-peers/Cargo.lock")).unwrap_or_default();
    let version = |package: &str| {
        let found = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, rest)| rest);
        format!("{package} {}", found.and_then(|rest| rest.split('"').next()).unwrap_or("?"))
    };
    let versions = |packages: &[&str]| packages.iter().map(|package| version(package)).collect::<Vec<_>>().join(", ");
    vec![
        ("date", output("date", &["-u", "+%Y-%m-%d"])),
        ("commit", output("git", &["-C", &repository.to_string_lossy(), "describe", "--always", "--dirty"])),
        ("machine", format!("{cores} cores of {model}, {gib:.0} GiB of memory")),
        ("kernel", format!("{} {}", output("uname", &["-sr"]), std::env::consts::ARCH)),
        ("CPU used by others before", format!("{:.0} %", others * 100.0)),
        ("server", format!("Redis {redis}")),
        ("compiler", format!("{}, release profile", output("rustc", &["--version"]))),
        ("this", versions(&["streams-runtime"])),
        ("RustStream", versions(&["ruststream", "ruststream-fred", "fred"])),
        ("sea-streamer", versions(&["sea-streamer-redis", "sea-streamer-types"])),
        ("shared by all or most", versions(&["redis", "rmp-serde", "serde", "tokio"])),
    ]
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or("?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Horizontal bars.
fn chart(bars: &[(String, f64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let height = bars.len() * 26 + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" viewBox=\"0 0 760 {height}\" role=\"img\" \
         aria-labelledby=\"title\">\n<title id=\"title\">Events per second of one group with a backlog of 100-byte events</title>\n\
         {STYLE}<rect class=\"page\" width=\"760\" height=\"{height}\"/>\n\
         <text x=\"8\" y=\"18\">Events per second, one group, backlog of 100-byte events</text>\n"
    );
    for (index, (name, value)) in bars.iter().enumerate() {
        let (y, width) = (index * 26 + 32, value / most * 400.0);
        let class = if name.starts_with("this") { "ours" } else { "bar" };
        let name = name.replace('`', "").replace('"', "&quot;");
        writeln!(
            svg,
            "<text x=\"240\" y=\"{}\" text-anchor=\"end\">{name}</text>\n<rect class=\"{class}\" x=\"250\" y=\"{y}\" \
             width=\"{width:.1}\" height=\"18\" rx=\"2\"/>\n<text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 14,
            width + 256.0,
            y + 14,
            thousands(*value)
        )
        .expect("memory");
    }
    svg + "</svg>\n"
}

/// Breaks a paragraph into lines of at most 128 characters.
fn wrap(text: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > 128 {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}
