//! RustStream over `ruststream-fred`, as its guides show it without macros, which is the form for many groups.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use ruststream_fred::stream::prelude::*;

use crate::work::{Form, SEEN, Trade, Work};

/// How many publishes are on their way at once; its client sends those of the same time as one pipeline.
const TASKS: u64 = 256;

/// How a group's events are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One after the other, each acknowledged on its own: the default.
    Plain,
    /// Up to sixteen at once, out of order.
    Workers,
    /// `.pipeline()`: the acknowledgements of a read, 64 events, leave together.
    Pipeline,
    /// Slices of what a read asks for, in a pipeline.
    Batch,
}

struct Sum;

impl<C: Send> Handle<Trade, (), (), C> for Sum {
    async fn handle(&self, trade: &Trade, _: &(), _: &mut Context<'_, C>) -> Result<(), HandlerOutcome> {
        SEEN.count(trade.quantity, trade.sent_ns);
        Ok(())
    }
}

impl<C: Send> Handle<[Trade], (), (), C> for Sum {
    async fn handle(&self, trades: &[Trade], _: &(), _: &mut Context<'_, C>) -> Result<(), Vec<HandlerOutcome>> {
        trades.iter().for_each(|trade| SEEN.count(trade.quantity, trade.sent_ns));
        Ok(())
    }
}

/// A subscription for each consumer of each group: at least once while the process lives. Events that a dead consumer has read
/// come back only with `RedisStream::reclaim` beside this, which is not measured.
pub(crate) async fn run(work: &Work, mode: Mode) {
    let began = Instant::now();
    let count = NonZeroUsize::new(work.count).expect("at least one");
    let app = RustStream::new(AppInfo::new("peers", "0.0.0"));
    let app = app.with_broker(RedisBroker::standalone(&work.url), |b| {
        for group in work.groups() {
            for consumer in 0..work.consumers {
                let source = RedisStream::new(Form::RustStream.key()).group(&group).consumer(format!("c{consumer}"));
                let source = source.start_id(StreamStart::Beginning);
                match mode {
                    Mode::Plain => drop(b.include(subscriber::<_, Trade, _, _, (), _, _>(source, Sum).build())),
                    Mode::Workers => {
                        let chain = subscriber::<_, Trade, _, _, (), _, _>(source, Sum);
                        drop(b.include(chain.workers(nonzero!(16)).build()));
                    }
                    Mode::Pipeline => {
                        let chain = subscriber::<_, Trade, _, _, PipelineContext, _, _>(source, Sum);
                        drop(b.include(chain.pipeline().build()));
                    }
                    Mode::Batch => {
                        let chain = subscriber::<_, [Trade], _, _, PipelineContext, _, _>(source, Sum);
                        drop(b.include(chain.batch(count).pipeline().build()));
                    }
                }
            }
        }
    });
    let running = app.start().await.expect("a start");
    work.report(began).await;
    running.shutdown().await.expect("a clean stop");
    work.verify();
}

/// So many tasks, each with one publish on its way.
pub(crate) async fn publish(url: &str, events: u64, size: usize) {
    let broker = RedisBroker::standalone(url).connect().await.expect("a connection");
    let publisher = Arc::new(broker.publisher());
    let tasks = (0..TASKS).map(|task| {
        let publisher = Arc::clone(&publisher);
        tokio::spawn(async move {
            for number in (task..events).step_by(TASKS as usize) {
                publisher.message(&Trade::new(number, 0, size)).publish().await.expect("published");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("published");
    }
}
