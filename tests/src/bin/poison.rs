//! A service whose handlers end the process where the event says so, for the tests of poison. It says on standard output
//! when it begins and ends an event.

use streams_runtime::{Error, Stopped, consumer};
use streams_tests::poison::{Dose, End, Pill, Vaccine};

#[consumer(group = "frail")]
async fn frail(dose: Dose) {
    handle(&dose);
}

/// The same as a work queue; which of them runs the environment says.
#[consumer(group = "frail-queue", delivery = "queue", concurrency = 4)]
async fn frail_queue(dose: Dose) {
    // Time for others to be in flight as well.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    handle(&dose);
}

fn handle(dose: &Dose) {
    println!("begin {}", dose.n);
    if let Some(by) = dose.by {
        by.over(dose.n, dose.times);
    }
    println!("end {}", dose.n);
}

#[consumer(group = "lanes", concurrency = 4)]
async fn lanes(pill: Pill) {
    println!("begin {}", pill.n);
    if pill.bad {
        End::Abort.over(pill.n, u32::MAX);
    }
    println!("end {}", pill.n);
}

/// A queue of several partitions, with much in flight when an event ends the process.
#[consumer(group = "vaccines", delivery = "queue", concurrency = 16)]
async fn vaccines(vaccine: Vaccine) {
    println!("begin {}", vaccine.n);
    if vaccine.bad {
        End::Abort.over(vaccine.n, u32::MAX);
    }
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    println!("end {}", vaccine.n);
}

fn main() -> Result<Stopped, Error> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("an executor")
        .block_on(streams_runtime::run())
}
