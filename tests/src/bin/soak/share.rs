//! The worker of `cargo xtask share`.

use std::sync::Arc;
use std::time::Duration;

use streams_runtime::{App, Config, Context, State, consumer, consumers};
use streams_tests::soak::journal::Mark;
use streams_tests::soak::share::{Fill, LANE_ENTRIES, LEASE, stumbles};
use streams_tests::soak::witness::Witness;

type Journal = State<Arc<Witness>>;

#[consumer(group = "quick", checkpoint = 100)]
async fn quick(fill: Fill, ctx: Context, journal: Journal) {
    journal.begins(&ctx, fill.key, fill.n).ends(Mark::Done);
}

#[consumer(group = "waits", checkpoint = 100, concurrency = 4)]
async fn waits(fill: Fill, ctx: Context, journal: Journal) {
    let call = journal.begins(&ctx, fill.key, fill.n);
    tokio::time::sleep(Duration::from_millis(fill.n % 4)).await;
    call.ends(Mark::Done);
}

#[consumer(group = "stumbles", checkpoint = 100, backoff = "1ms..5ms")]
async fn stumbler(fill: Fill, ctx: Context, journal: Journal) -> Result<(), String> {
    let call = journal.begins(&ctx, fill.key, fill.n);
    if stumbles(&fill) && ctx.attempt() == 1 {
        call.ends(Mark::Failed);
        return Err("not this time".to_owned());
    }
    call.ends(Mark::Done);
    Ok(())
}

/// Its app.
pub(crate) fn app() -> App {
    let mut config = Config::new().lease(LEASE);
    config.max_unsettled_entries = LANE_ENTRIES;
    App::with(consumers![quick, waits, stumbler]).config(config)
}
