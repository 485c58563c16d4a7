//! The scenarios: each runs its contenders round by round, one after the other, so that a busy machine slows all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contender::Contender::{
    self, Ours, OursBatch, OursQueue, Poll, RustStream, RustStreamBatch, RustStreamPipeline, RustStreamWorkers,
    SeaStreamer, SeaStreamerGroup, Xread, XreadAhead, Xreadgroup,
};
use crate::figures::{median, thousands};
use crate::measure::{Live, Load, Took, consume, publish};
use crate::report::{Section, Table};
use crate::server::RedisServer;
use crate::work::Form;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rounds: u64,
    /// Events of 100 bytes; larger ones are fewer.
    pub(crate) events: u64,
    /// How long events come, and how long none does.
    pub(crate) seconds: u64,
    /// Groups where there are many.
    pub(crate) groups: usize,
}

/// The rounds of each contender.
type Rounds = Vec<Vec<Took>>;

/// Runs every contender in every round.
fn interleave(rounds: u64, contenders: &[Contender], mut run: impl FnMut(Contender) -> Took) -> Rounds {
    let mut all: Rounds = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for (contender, rounds) in contenders.iter().zip(&mut all) {
            rounds.push(run(*contender));
        }
        eprintln!("round {} of {rounds} done", round + 1);
    }
    all
}

fn middle(rounds: &[Took], of: impl Fn(&Took) -> f64) -> f64 {
    median(rounds.iter().map(of))
}

/// The median of the ratios of one contender to another within a round.
fn ratio(one: &[Took], other: &[Took], of: impl Fn(&Took) -> f64) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| of(one) / of(other)))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("an executor").block_on(future)
}

/// A backlog, per size of payload and number of groups.
pub(crate) fn backlog(size: Size) -> Section {
    let contenders = [
        Xread,
        XreadAhead,
        Xreadgroup,
        Ours,
        OursBatch,
        RustStream,
        RustStreamPipeline,
        RustStreamBatch,
        SeaStreamer,
        SeaStreamerGroup,
    ];
    let cells = [(100, "100 B", 1), (1_000, "1 kB", 2), (100_000, "100 kB", 50)];
    let mut speeds: Vec<Vec<String>> = contenders.iter().map(|contender| vec![contender.name().to_owned()]).collect();
    let mut cpus = speeds.clone();
    let mut titles = vec![String::new()];
    let mut section = Section::new("backlog", "Backlog");
    for (bytes, label, part) in cells {
        let server = RedisServer::start();
        let events = (size.events / part).max(20);
        block_on(async {
            for form in Form::ALL {
                form.fill(&server.url(), events, bytes).await;
            }
        });
        for groups in [1, 4] {
            eprintln!("backlog: {events} events of {label}, {groups} groups");
            let load = Load { events, groups, consumers: 1, size: bytes, live: None, poll: Duration::ZERO };
            let all = interleave(size.rounds, &contenders, |contender| consume(&server, contender, load));
            let deliveries = (events * groups as u64) as f64;
            titles.push(format!("{label}, {groups} group{}", if groups == 1 { "" } else { "s" }));
            for (index, rounds) in all.iter().enumerate() {
                let speed = deliveries / middle(rounds, |took| took.wall);
                let of_bare = 1.0 / ratio(rounds, &all[2], |took| took.wall);
                speeds[index].push(format!("{} ({of_bare:.2})", thousands(speed)));
                let [client, redis] = [middle(rounds, |took| took.client), middle(rounds, |took| took.redis)];
                cpus[index].push(format!("{:.2} + {:.2}", client * 1e6 / deliveries, redis * 1e6 / deliveries));
                if bytes == 100 && groups == 1 {
                    let of_read = 1.0 / ratio(rounds, &all[0], |took| took.wall);
                    section.bars.push((contenders[index].name().to_owned(), speed));
                    section.readme.push(vec![
                        contenders[index].name().to_owned(),
                        format!("{of_read:.2} ({})", thousands(speed)),
                        format!("{of_bare:.2}"),
                        format!("{:.2} µs", client * 1e6 / deliveries),
                        format!("{:.2} µs", redis * 1e6 / deliveries),
                    ]);
                }
            }
        }
    }
    section.text = format!(
        "The stream holds {} events of 100 B, half as many of 1 kB, a fiftieth of 100 kB. One process handles all of it for one \
         group, or for four that get every event each. The clock starts before the first connection.",
        thousands(size.events as f64)
    );
    section.tables = vec![
        Table::new("Deliveries per second, and in parentheses the ratio to bare XREADGROUP + XACK:", &titles, speeds),
        Table::new("CPU per delivery in µs, of the process + of Redis:", &titles, cpus),
    ];
    section
}

/// Many groups in one process, and events that come at a steady rate.
pub(crate) fn fanout(size: Size) -> Section {
    let contenders = [Xreadgroup, Ours, RustStream, RustStreamPipeline, SeaStreamerGroup];
    let mut section = Section::new("fanout", "Fan-out");
    section.text = format!(
        "{} groups in one process get every event each, which another process adds one at a time for {} s. The latency is that from \
         the call of XADD to the handler, on one clock. Where a contender falls behind, its latency grows with the length of the run, and \
         its reads hold more events, which makes each cheaper. Redis CPU has the publisher's XADD in it.",
        size.groups, size.seconds
    );
    for rate in [260, 1_000] {
        eprintln!("fan-out: {} groups, {rate} events/s", size.groups);
        let server = RedisServer::start();
        let events = rate * size.seconds;
        let live = Some(Live { rate, idle: Duration::ZERO });
        let load = Load { events, groups: size.groups, consumers: 1, size: 100, live, poll: Duration::ZERO };
        let all = interleave(size.rounds, &contenders, |contender| {
            let took = consume(&server, contender, load);
            server.flush();
            took
        });
        let deliveries = (events * size.groups as u64) as f64;
        let rows = contenders.iter().zip(&all).map(|(contender, rounds)| {
            let mut row = vec![contender.name().to_owned()];
            row.extend((0..3).map(|index| millis(middle(rounds, |took| took.quantiles[index]))));
            let [client, redis] = [middle(rounds, |took| took.client), middle(rounds, |took| took.redis)];
            row.push(format!("{:.2}", client * 1e6 / deliveries));
            row.push(format!("{:.2}", redis * 1e6 / deliveries));
            row.push(format!("{:.2}", ratio(rounds, &all[0], |took| took.client + took.redis)));
            row.push(format!("{:.0}", middle(rounds, |took| took.memory)));
            row
        });
        let rows: Vec<_> = rows.collect();
        if rate == 1_000 {
            section.readme = rows
                .iter()
                .map(|row| {
                    let [name, _, p95, _, client, redis, _, memory] = &row[..] else { unreachable!("eight columns") };
                    let cells = [format!("{p95} ms"), format!("{client} µs"), format!("{redis} µs")];
                    [vec![name.clone()], cells.to_vec(), vec![format!("{memory} MiB")]].concat()
                })
                .collect();
        }
        let titles = ["", "p50 ms", "p95 ms", "p99 ms", "client µs", "Redis µs", "CPU, ratio to bare", "memory MiB"]
            .map(str::to_owned);
        section.tables.push(Table::new(
            &format!(
                "{} events per second, {} deliveries, CPU per delivery:",
                thousands(rate as f64),
                thousands(deliveries)
            ),
            &titles,
            rows,
        ));
    }
    section
}

/// Many groups and no events; afterwards a few, which say how late a handler would have been.
pub(crate) fn idle(size: Size) -> Section {
    let contenders = [Ours, Poll, Xreadgroup, RustStreamPipeline, SeaStreamerGroup];
    eprintln!("idle: {} groups for {} s", size.groups, size.seconds);
    let server = RedisServer::start();
    let live = Some(Live { rate: 50, idle: Duration::from_secs(size.seconds) });
    let mut load =
        Load { events: 100, groups: size.groups, consumers: 1, size: 100, live, poll: Duration::from_millis(1) };
    let mut waits = BTreeMap::new();
    let mut round = 0;
    let all = interleave(size.rounds, &contenders, |contender| {
        let took = consume(&server, contender, load);
        server.flush();
        if contender == Ours {
            // An event waits for the next poll as long as any share of the interval.
            load.poll = Duration::from_secs_f64(took.quantiles[1] / 0.95 / 1e3).max(Duration::from_millis(1));
            waits.insert(round, load.poll.as_secs_f64() * 1e3);
            round += 1;
        }
        took
    });
    let seconds = size.seconds as f64;
    let rows = contenders.iter().zip(&all).map(|(contender, rounds)| {
        vec![
            contender.name().to_owned(),
            format!("{:.2}", middle(rounds, |took| took.client) * 1e3 / seconds),
            format!("{:.2}", middle(rounds, |took| took.redis) * 1e3 / seconds),
            thousands(middle(rounds, |took| took.commands) / seconds),
            millis(middle(rounds, |took| took.quantiles[1])),
            format!("{:.0}", middle(rounds, |took| took.memory)),
        ]
    });
    let titles = ["", "client CPU, ms per s", "Redis CPU, ms per s", "commands per s", "p95 ms", "memory MiB"];
    let mut section = Section::new("idle", "Idle");
    section.text = format!(
        "{} groups in one process, and no event for {} s. Then 100 events come in two seconds: their p95 says how soon an event is \
         handled at this price. The polling loop asks for each group every {:.1} ms (median), which should give it the p95 of this \
         framework in the same round. Its commands share one connection, and where it cannot ask that often its own p95 says so.",
        size.groups,
        size.seconds,
        median(waits.into_values())
    );
    section.tables.push(Table::new("", &titles.map(str::to_owned), rows.collect()));
    section
}

/// One group whose consumers share the events, with handlers that only count.
pub(crate) fn queue(size: Size) -> Section {
    let contenders =
        [Xreadgroup, OursQueue, RustStream, RustStreamWorkers, RustStreamPipeline, RustStreamBatch, SeaStreamerGroup];
    let server = RedisServer::start();
    block_on(async {
        for form in Form::ALL {
            form.fill(&server.url(), size.events, 100).await;
        }
    });
    let mut rows: Vec<Vec<String>> = contenders.iter().map(|contender| vec![contender.name().to_owned()]).collect();
    let mut titles = vec![String::new()];
    for consumers in [1, 8] {
        eprintln!("queue: {} events, {consumers} consumers", size.events);
        let load = Load { events: size.events, groups: 1, consumers, size: 100, live: None, poll: Duration::ZERO };
        let all = interleave(size.rounds, &contenders, |contender| consume(&server, contender, load));
        let many = if consumers == 1 { "1 consumer".to_owned() } else { format!("{consumers} consumers") };
        titles.extend([format!("{many}, events/s"), "ratio".to_owned(), "client + Redis µs".to_owned()]);
        for (row, rounds) in rows.iter_mut().zip(&all) {
            let per_event = 1e6 / size.events as f64;
            let [client, redis] = [middle(rounds, |took| took.client), middle(rounds, |took| took.redis)];
            row.push(thousands(size.events as f64 / middle(rounds, |took| took.wall)));
            row.push(format!("{:.2}", 1.0 / ratio(rounds, &all[0], |took| took.wall)));
            row.push(format!("{:.2} + {:.2}", client * per_event, redis * per_event));
        }
    }
    let mut section = Section::new("queue", "Work queue");
    section.text = format!(
        "A backlog of {} events of 100 B for one group, whose consumers share it: members of their own in the group, in one process. \
         The handler only counts, so this is the price of the queue itself.",
        thousands(size.events as f64)
    );
    section.tables.push(Table::new("", &titles, rows));
    section
}

/// Publishing as fast as one process can.
pub(crate) fn publishing(size: Size) -> Section {
    let contenders = [Xreadgroup, Ours, RustStream, SeaStreamer];
    let names = [
        "bare XADD, 256 a pipeline",
        "this, `publish_all`",
        "RustStream, 256 publishes at once",
        "sea-streamer, `send`",
    ];
    let server = RedisServer::start();
    eprintln!("publishing: {} events", size.events);
    let expected = (size.events, size.events * (size.events - 1) / 2);
    let all = interleave(size.rounds, &contenders, |contender| {
        publish(&server, contender, size.events, 100, |url| {
            assert_eq!(block_on(contender.form().sum(url)), expected, "{contender:?} published every event");
        })
    });
    let per_event = 1e6 / size.events as f64;
    let rows = names.iter().zip(&all).map(|(name, rounds)| {
        vec![
            (*name).to_owned(),
            thousands(size.events as f64 / middle(rounds, |took| took.wall)),
            format!("{:.2}", 1.0 / ratio(rounds, &all[0], |took| took.wall)),
            format!("{:.2}", middle(rounds, |took| took.client) * per_event),
            format!("{:.2}", middle(rounds, |took| took.redis) * per_event),
        ]
    });
    let mut section = Section::new("publish", "Publishing");
    section.text = format!(
        "One process adds {} events of 100 B and awaits the id of each. This framework and the bare pipeline write the same fields, \
         among them an event id, and trim. RustStream and sea-streamer write the payload alone, RustStream without the names of its \
         fields, and never trim.",
        thousands(size.events as f64)
    );
    let titles = ["", "events/s", "ratio", "client µs", "Redis µs"].map(str::to_owned);
    section.tables.push(Table::new("", &titles, rows.collect()));
    section
}

fn millis(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { thousands(value) }
}
