//! A service as users write it, for the end-to-end tests. It handles jobs, and prints when it begins and ends one.
//! `WORKER_THREADS=1` gives it an executor of one thread, `WORKER_BLOCKS=apart` lets it block where that is right. `WORKER_STARTS=1` starts and stops the app without reading the environment, `WORKER_SILENT=1` installs no subscriber.

use std::time::Duration;

use streams_runtime::{App, Error, Stopped, consumer};
use streams_tests::jobs::{Does, Job};

#[consumer(group = "work")]
async fn work(job: Job) -> Result<(), String> {
    println!("begin {}", job.n);
    match job.does {
        None => {}
        Some(Does::Wait(millis)) => tokio::time::sleep(Duration::from_millis(millis)).await,
        Some(Does::Block(millis)) if std::env::var("WORKER_BLOCKS").as_deref() == Ok("apart") => {
            let block = move || std::thread::sleep(Duration::from_millis(millis));
            tokio::task::spawn_blocking(block).await.map_err(|error| error.to_string())?;
        }
        Some(Does::Block(millis)) => std::thread::sleep(Duration::from_millis(millis)),
        Some(Does::Fail) => return Err(format!("job {} fails", job.n)),
    }
    println!("end {}", job.n);
    Ok(())
}

fn main() -> Result<Stopped, Error> {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("WORKER_SILENT") {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    let executor = if std::env::var("WORKER_THREADS").as_deref() == Ok("1") {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    };
    let executor = executor.expect("an executor");
    if is_set("WORKER_STARTS") {
        return executor.block_on(async {
            let stopped = App::linked().start().await?.shutdown().await;
            println!("{stopped:?}");
            Ok(stopped)
        });
    }
    let stopped = executor.block_on(streams_runtime::run())?;
    eprintln!("run() returned {stopped:?}");
    Ok(stopped)
}
