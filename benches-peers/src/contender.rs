//! The contenders by name, and what each promises.

use crate::rust_stream::Mode;
use crate::work::{Form, Work};
use crate::{bare, ours, rust_stream, sea};

/// One way to handle or to publish the same events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Xread,
    XreadAhead,
    Xreadgroup,
    Poll,
    Ours,
    OursBatch,
    OursQueue,
    RustStream,
    RustStreamWorkers,
    RustStreamPipeline,
    RustStreamBatch,
    SeaStreamer,
    SeaStreamerGroup,
}

use Contender::{
    Ours, OursBatch, OursQueue, Poll, RustStream, RustStreamBatch, RustStreamPipeline, RustStreamWorkers, SeaStreamer,
    SeaStreamerGroup, Xread, XreadAhead, Xreadgroup,
};

impl Contender {
    pub(crate) const ALL: [Self; 13] = [
        Xread,
        XreadAhead,
        Xreadgroup,
        Poll,
        Ours,
        OursBatch,
        OursQueue,
        RustStream,
        RustStreamWorkers,
        RustStreamPipeline,
        RustStreamBatch,
        SeaStreamer,
        SeaStreamerGroup,
    ];

    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Xread => "bare XREAD",
            XreadAhead => "bare XREAD, reading ahead",
            Xreadgroup => "bare XREADGROUP + XACK",
            Poll => "polling XREADGROUP + XACK",
            Ours => "this",
            OursBatch => "this, batches",
            OursQueue => "this, `delivery = \"queue\"`",
            RustStream => "RustStream",
            RustStreamWorkers => "RustStream, `workers(16)`",
            RustStreamPipeline => "RustStream, `.pipeline()`",
            RustStreamBatch => "RustStream, batches, `.pipeline()`",
            SeaStreamer => "sea-streamer, `RealTime`",
            SeaStreamerGroup => "sea-streamer, `LoadBalanced`",
        }
    }

    /// The fate of events when a process dies or a handler fails.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Xread => "None. The position lives in the process, so a restart loses events or repeats all.",
            XreadAhead => "None, as before. The next two reads are on their way while the entries of one are handled.",
            Xreadgroup | Poll => {
                "At least once while the process lives, one XACK per read. Nobody tries an event again or takes over what a dead \
                 process has read."
            }
            Ours => {
                "At least once, in order, one handler call per event. A failure is tried again in place, and another process takes \
                 over. A crash repeats at most 1,000 events or 100 ms."
            }
            OursBatch => "The same; the handler takes up to 1,000 events at once.",
            OursQueue => {
                "At least once, in no order, each event acked by itself. Another process takes over the events that a dead one had in hand."
            }
            RustStream => {
                "At least once while the process lives, one XACK per event, awaited (the default). A dead process's events come back \
                 only to a second subscription, `RedisStream::reclaim`, which did not run."
            }
            RustStreamWorkers => "The same with up to 16 handlers at once, so out of order.",
            RustStreamPipeline => "The same as the default, one XACK per read of 64.",
            RustStreamBatch => "The same, one XACK per batch.",
            SeaStreamer => "None, as bare XREAD: it reads without a group.",
            SeaStreamerGroup => {
                "At least once: `AutoCommit::Rolling`, `ack` after each event, one XACK per 100 ms at most. There is no retry. Idle \
                 events of a dead consumer are claimed after a minute."
            }
        }
    }

    /// Whose entries it reads or writes.
    pub(crate) fn form(self) -> Form {
        match self {
            Xread | XreadAhead | Xreadgroup | Poll | Ours | OursBatch | OursQueue => Form::Ours,
            RustStream | RustStreamWorkers | RustStreamPipeline | RustStreamBatch => Form::RustStream,
            SeaStreamer | SeaStreamerGroup => Form::SeaStreamer,
        }
    }

    /// Handles the events of the work in this process.
    pub(crate) async fn consume(self, work: &Work) {
        match self {
            Xread => bare::xread(work, false).await,
            XreadAhead => bare::xread(work, true).await,
            Xreadgroup => bare::xreadgroup(work, false).await,
            Poll => bare::xreadgroup(work, true).await,
            Ours => ours::ordered(work).await,
            OursBatch => ours::batches(work).await,
            OursQueue => ours::queue(work).await,
            RustStream => rust_stream::run(work, Mode::Plain).await,
            RustStreamWorkers => rust_stream::run(work, Mode::Workers).await,
            RustStreamPipeline => rust_stream::run(work, Mode::Pipeline).await,
            RustStreamBatch => rust_stream::run(work, Mode::Batch).await,
            SeaStreamer => sea::run(work, false).await,
            SeaStreamerGroup => sea::run(work, true).await,
        }
    }

    /// Publishes so many events from this process, as fast as it can, and returns when all are acknowledged.
    pub(crate) async fn publish(self, url: &str, events: u64, size: usize) {
        match self {
            Ours => ours::publish(url, events, size).await,
            RustStream => rust_stream::publish(url, events, size).await,
            SeaStreamer => sea::publish(url, events, size).await,
            _ => bare::publish(url, events, size).await,
        }
    }
}
