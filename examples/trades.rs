//! The main job in one file: trades are published once and flow, in order, through three independent groups.
//!
//! ```sh
//! cargo run --example trades                                # a simulated market, embedded broker, no server
//! cargo run --example trades -- examples/data/demousd-trades.csv  # a replay of a CSV of trades
//! REDIS_URL=redis://127.0.0.1/ cargo run --example trades   # the same on a real Redis: kill it and start it again
//! cargo run --example trades -- live                        # 200 trades per second until it is stopped
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use streams_runtime::{App, EntryId, Message, Outcome, Publisher, Running, State, consumer, stream_event};

/// One fill on the exchange. Trades of one symbol stay in order.
#[stream_event(stream = "trades", key = symbol)]
#[derive(Debug, Clone, PartialEq)]
struct Trade {
    id: u64,
    symbol: String,
    price: f64,
    quantity: f64,
    time_ms: u64,
    is_buyer_maker: bool,
}

/// The volume-weighted average price of each symbol.
#[consumer(group = "vwap")]
async fn average_price(trade: Message<Trade>, figures: State<Figures>) {
    figures.update("vwap", &trade, |report| {
        let symbol = report.symbols.entry(trade.event.symbol.clone()).or_default();
        symbol.trades += 1;
        symbol.quantity += trade.event.quantity;
        symbol.quote += trade.event.price * trade.event.quantity;
    });
}

/// Refuses trades that cannot be: the event goes to this group's dead letters, the other groups never notice.
#[consumer(group = "risk")]
async fn check_risk(trade: Message<Trade>, figures: State<Figures>) -> Outcome {
    let Trade { id, price, quantity, .. } = &trade.event;
    let refused = !(price.is_finite() && *price > 0.0 && quantity.is_finite() && *quantity > 0.0);
    figures.update("risk", &trade, |report| {
        report.refused += u64::from(refused);
        report.largest = report.largest.max(price * quantity);
    });
    if refused {
        return Outcome::dead_letter(format!("trade {id} of {quantity} at {price} is not a trade"));
    }
    Outcome::Done
}

/// Counts trades and looks for gaps. Delivery is at least once, so a trade may come again: its id tells.
#[consumer(group = "audit")]
async fn audit(trade: &Message<Trade>, figures: State<Figures>) -> Outcome {
    let id = trade.event.id;
    let before = figures.update("audit", trade, |report| {
        let before = report.last_id.replace(id);
        report.gaps += u64::from(before.is_some_and(|before| id > before + 1));
        before
    });
    match before {
        Some(before) if id <= before => Outcome::skip(format!("trade {id} was counted before")),
        _ => Outcome::Done,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let began = Instant::now();
    let figures = Figures::default();
    let argument = std::env::args().nth(1);
    let (mut app, mut pace) = (App::linked().state(figures.clone()), Duration::ZERO);
    let mut trades: Box<dyn Iterator<Item = Result<Trade, String>>> =
        Box::new(simulated_market(2026).take(5_000).map(Ok));
    if argument.as_deref() == Some("live") {
        (trades, pace) = (Box::new(simulated_market(2026).map(Ok)), Duration::from_secs(1));
    } else if let Some(path) = &argument {
        trades = Box::new(replay(path)?.into_iter());
        // Each market has a stream of its own: the ids of its trades count for themselves.
        app = app.namespace(symbol_of(path).to_lowercase());
    }
    let app = app.from_environment().start().await?;

    // Only what the stream does not hold yet: a restart neither doubles nor skips a trade.
    let last = app.publisher().last::<Trade>().await?.map_or(0, |last| last.event.id);
    // Ctrl-C at any moment: what is settled is committed, and the next start goes on from there.
    let published = tokio::select! {
        published = publish_after(last, trades, pace, app.publisher()) => published?,
        _ = tokio::signal::ctrl_c() => return stop(app).await,
    };
    tokio::select! {
        done = app.settled() => done?,
        _ = tokio::signal::ctrl_c() => return stop(app).await,
    }
    figures.print(published, began);
    show_dead_letters(&app).await?;
    stop(app).await
}

async fn stop(app: Running) -> Result<(), Box<dyn Error>> {
    match app.shutdown().await {
        streams_runtime::Stopped::Clean => Ok(()),
        stopped => Err(format!("{stopped:?}").into()),
    }
}

/// Publishes the trades above `last`, in writes of many with a pause between them; answers how many there were.
///
/// The event id derives from the trade's own, so that consumers could tell a double.
async fn publish_after(
    last: u64,
    trades: impl Iterator<Item = Result<Trade, String>>,
    pace: Duration,
    publisher: &Publisher,
) -> Result<u64, Box<dyn Error>> {
    let mut published = 0;
    let mut fresh = trades.filter(|trade| !trade.as_ref().is_ok_and(|trade| trade.id <= last)).peekable();
    while fresh.peek().is_some() {
        let batch = fresh.by_ref().take(200).collect::<Result<Vec<_>, _>>()?;
        let with_ids = batch.into_iter().map(|trade| {
            let id = format!("trade-{}", trade.id);
            (trade, id)
        });
        for receipt in publisher.publish_all_with_ids(with_ids).await {
            receipt?;
            published += 1;
        }
        tokio::time::sleep(pace).await;
    }
    Ok(published)
}

/// Trades of three symbols on a random walk without an end, the same for the same seed; one of them is impossible.
fn simulated_market(seed: u64) -> impl Iterator<Item = Trade> {
    let mut state = seed;
    // The generator of Steele, Lea and Flood ("SplitMix64"): enough for a market that only has to look alive.
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    };
    let mut market = [("BTC-USD", 64_000.0), ("ETH-USD", 3_400.0), ("SOL-USD", 150.0)];
    (1..).map(move |id| {
        let (symbol, price) = &mut market[(random() * 3.0) as usize % 3];
        *price *= 1.0 + (random() - 0.5) / 1_000.0;
        Trade {
            id,
            symbol: (*symbol).to_owned(),
            // A fat finger at the exchange.
            price: if id == 2_500 { -1.0 } else { *price },
            quantity: 0.001 + random(),
            time_ms: 1_767_225_600_000 + id * 7,
            is_buyer_maker: random() < 0.5,
        }
    })
}

/// The trades of a CSV with the columns id, price, qty, quote_qty, time, is_buyer_maker and a line of headings.
fn replay(path: &str) -> Result<Vec<Result<Trade, String>>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let symbol = symbol_of(path);
    let lines = text.lines().enumerate().skip_while(|(number, line)| *number == 0 && line.starts_with("id,"));
    let trades = lines.filter(|(_, line)| !line.trim().is_empty()).map(|(number, line)| {
        parse(line, &symbol).ok_or_else(|| format!("{path}:{}: not a trade: `{line}`", number + 1))
    });
    Ok(trades.collect())
}

/// `BTCUSDT-trades-2021-01.csv` and `btcusdt-trades.csv` are of BTCUSDT.
fn symbol_of(path: &str) -> String {
    let file = std::path::Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or("trades");
    file.split(['-', '_', '.', ' ']).next().unwrap_or(file).to_uppercase()
}

fn parse(line: &str, symbol: &str) -> Option<Trade> {
    let columns: Vec<_> = line.split(',').map(str::trim).collect();
    let [id, price, quantity, _quote, time, is_buyer_maker] = columns.as_slice() else { return None };
    Some(Trade {
        id: id.parse().ok()?,
        symbol: symbol.to_owned(),
        price: price.parse().ok()?,
        quantity: quantity.parse().ok()?,
        time_ms: time.parse().ok()?,
        is_buyer_maker: is_buyer_maker.to_lowercase().parse().ok()?,
    })
}

/// The findings of the groups, in this run of the program.
#[derive(Clone, Default)]
struct Figures {
    groups: Arc<Mutex<BTreeMap<&'static str, Report>>>,
}

#[derive(Default)]
struct Report {
    entries: u64,
    covers: Option<(EntryId, EntryId)>,
    symbols: BTreeMap<String, Symbol>,
    refused: u64,
    largest: f64,
    last_id: Option<u64>,
    gaps: u64,
}

#[derive(Default)]
struct Symbol {
    trades: u64,
    quantity: f64,
    quote: f64,
}

impl Figures {
    fn update<T>(&self, group: &'static str, trade: &Message<Trade>, change: impl FnOnce(&mut Report) -> T) -> T {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let report = groups.entry(group).or_default();
        report.entries += 1;
        let id = trade.entry_id();
        report.covers = Some(report.covers.map_or((id, id), |(first, _)| (first, id)));
        change(report)
    }

    fn print(&self, published: u64, began: Instant) {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        println!("\npublished {published} trades; handled in {:.2} s:\n", began.elapsed().as_secs_f64());
        println!("{:<8}{:>9}  {:<40} figures", "group", "entries", "of this run, from entry to entry");
        for group in ["vwap", "risk", "audit"] {
            let Some(report) = groups.get(group) else {
                println!("{group:<8}{:>9}  {:<40} up to date before this run", 0, "-");
                continue;
            };
            let covers = report.covers.map_or_else(String::new, |(first, last)| format!("{first} .. {last}"));
            let figures = match group {
                "vwap" => report
                    .symbols
                    .iter()
                    .map(|(name, symbol)| {
                        format!("{name} {:.6} ({} trades)", symbol.quote / symbol.quantity, symbol.trades)
                    })
                    .collect::<Vec<_>>()
                    .join(", "),
                "risk" => format!("{} refused, largest {:.2}", report.refused, report.largest),
                _ => format!("last trade {}, {} gaps", report.last_id.unwrap_or_default(), report.gaps),
            };
            println!("{group:<8}{:>9}  {covers:<40} {figures}", report.entries);
        }
    }
}

async fn show_dead_letters(app: &Running) -> Result<(), Box<dyn Error>> {
    println!();
    for letter in app.dead_letters::<Trade>("risk").list(None, 10).await? {
        println!("dead letter of risk: entry {}, {}", letter.original().id, letter.reason());
    }
    Ok(())
}
