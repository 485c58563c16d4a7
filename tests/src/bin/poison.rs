//! A service whose handler ends the process where the event says so, for the tests of poison. It says on standard output
//! when it begins and ends an event, and writes down in the file `POISON_JOURNAL` which event it is about to end over.

use std::fs;
use std::hint::black_box;
use std::io::Write;

use streams_runtime::{Error, consumer};
use streams_tests::poison::{Dose, End};

#[consumer(group = "frail")]
async fn frail(dose: Dose) -> Result<(), std::io::Error> {
    handle(dose).await
}

/// The same as a work queue; which of them runs the environment says.
#[consumer(group = "frail-queue", delivery = "shared", concurrency = 4)]
async fn frail_queue(dose: Dose) -> Result<(), std::io::Error> {
    // Time for others to be in hand as well.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    handle(dose).await
}

async fn handle(dose: Dose) -> Result<(), std::io::Error> {
    println!("begin {}", dose.n);
    if let Some(by) = dose.by {
        let path = std::env::var("POISON_JOURNAL").expect("POISON_JOURNAL names a file");
        let line = dose.n.to_string();
        let before = fs::read_to_string(&path).unwrap_or_default().lines().filter(|said| *said == line).count();
        if before < dose.times as usize {
            writeln!(fs::File::options().create(true).append(true).open(&path)?, "{line}")?;
            end(by);
        }
    }
    println!("end {}", dose.n);
    Ok(())
}

fn end(by: End) {
    match by {
        End::Abort => std::process::abort(),
        End::Overflow => drop(black_box(deeper(0))),
        End::Exit => std::process::exit(0),
        End::Exhaust => {
            // Never touched, so that the machine of the tests does not feel it: the limit counts addresses.
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(Vec::<u8>::with_capacity(256 << 20)));
            }
        }
    }
}

fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { deeper(depth + 1) + frame[0] }
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("an executor")
        .block_on(streams_runtime::run())
}
