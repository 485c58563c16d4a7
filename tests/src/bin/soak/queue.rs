//! The worker of `cargo xtask queue`.

use std::sync::Arc;

use streams_runtime::{App, Config, ConsumerOptions, Context, Delivery, State, consumer, consumers};
use streams_tests::soak::journal::Mark;
use streams_tests::soak::queue::{LEASE, MAX_ATTEMPTS, Task, fails, takes};
use streams_tests::soak::witness::Witness;

// More crashes than an event can meet by chance in a run. Other tests show that a kill is put down to an event.
#[consumer(group = "works", max_attempts = 4, max_crashes = 50, backoff = "20ms..200ms", concurrency = 4)]
async fn work(task: Task, ctx: Context, journal: State<Arc<Witness>>) -> Result<(), String> {
    let call = journal.begins(&ctx, task.key, task.n);
    tokio::time::sleep(takes(&task)).await;
    if fails(&task, ctx.attempt()) {
        call.ends(Mark::Failed);
        return Err("not this time".to_owned());
    }
    call.ends(Mark::Done);
    Ok(())
}

/// Its app.
pub(crate) fn app() -> App {
    let options = ConsumerOptions::DEFAULT.with_delivery(Delivery::Queue).with_max_attempts(MAX_ATTEMPTS);
    App::with(consumers![work]).config(Config::new().lease(LEASE).consumers(options))
}
