//! The whole of `main`: environment, signals, exit codes. Only this file touches the last two.

use std::process::{ExitCode, Termination};
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::clock::after;
use crate::error::Error;
use crate::shutdown::{PARTING, Stopped};

/// Handlers were still running at the deadline and were dropped; everything else is committed and given back.
const EXIT_ABORTED: u8 = 2;
/// A handler did not yield: the process ends without giving its leases back.
const EXIT_STUCK: u8 = 3;
/// The last commit, the giving back of a lease, or an event that was being published, was not answered or refused.
const EXIT_UNCOMMITTED: u8 = 4;
/// A group has stopped the app, because it could not go on.
const EXIT_FAILED: u8 = 5;
/// Added to the number of the second signal, as shells do.
const EXIT_SIGNAL: i32 = 128;

/// How much longer than the app itself the thread of the signals waits before it ends the process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs every `#[consumer]` that is linked into the program until SIGINT or SIGTERM: `App::linked().run()`.
///
/// # Errors
/// As [`App::start`].
///
/// # Cancel safety
/// As [`App::run`].
pub async fn run() -> Result<Stopped, Error> {
    App::linked().run().await
}

impl App {
    /// Reads the environment, starts, runs until SIGINT or SIGTERM, stops, and returns how that went.
    ///
    /// A `main` that returns the result ends with these exit codes:
    ///
    /// | exit code | meaning |
    /// |---|---|
    /// | 0 | stopped: every handler finished, everything is committed, every lease given back |
    /// | 1 | refused to start: `main` returns the error (this is Rust's own code) |
    /// | 2 | handlers, or blocking work that they had begun, still ran at the deadline and were dropped; what was settled is committed |
    /// | 3 | a handler did not yield even then: leases were not given back, others take over when they run out |
    /// | 4 | every handler finished, but a last commit or the giving back of a lease was not answered or refused, or events that were being published were not answered at the deadline |
    /// | 5 | a broadcast group with `on_failure = "stop"` has given an event up; otherwise as 0 |
    /// | 130, 143 | a second SIGINT or SIGTERM ended the process at once |
    ///
    /// ```no_run
    /// #[tokio::main]
    /// async fn main() -> Result<streams_runtime::Stopped, streams_runtime::Error> {
    ///     let stopped = streams_runtime::App::linked().run().await?;
    ///     println!("the app is over: {stopped:?}");
    ///     Ok(stopped)
    /// }
    /// ```
    ///
    /// This call ends the process itself only for a second signal and where a handler does not yield, because its thread
    /// cannot be joined. An executor that ends, as that of `#[tokio::main]` does when `main` returns, waits for
    /// `spawn_blocking` without a limit. So once the executor of this call ends, the process has until a second after the
    /// deadline, counted from the signal. Then it ends with code 2.
    ///
    /// # Errors
    /// As [`App::start`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the app without giving leases back: others take over when they run out.
    pub async fn run(self) -> Result<Stopped, Error> {
        let app = self.from_environment();
        // A newcomer must see these lines even without a subscriber; later ones need one.
        let quiet = !tracing::dispatcher::has_been_set();
        if quiet {
            eprintln!(
                "streams: no tracing subscriber is set, so failed attempts and dead letters are not shown; begin `main` with `tracing_subscriber::fmt::init()`"
            );
        }
        let signals = Signals::listen().map_err(Error::Thread)?;
        let running = tokio::select! {
            running = app.start() => running?,
            () = signals.first.cancelled() => return Ok(Stopped::Clean),
        };
        signals.watch(running.deadline());
        let halts = quiet.then(|| {
            running.banner().iter().for_each(|line| eprintln!("{line}"));
            running.report_halts(|reason| eprintln!("streams: halted: {reason}"))
        });
        // Called on the thread of the signals, so that groups stop also while this task gets no turn.
        let shutdown = running.stopper().clone();
        let stopper = running.stopper().clone();
        signals.on_first(move || shutdown.stop());
        // A group may stop the app, too.
        stopper.stopping().await;
        let stopped = running.shutdown().await;
        drop(halts);
        signals.finished();
        if let Stopped::Stuck { .. } = stopped {
            // The executor would wait for that thread for ever.
            std::process::exit(EXIT_STUCK.into());
        }
        Ok(stopped)
    }
}

impl Termination for Stopped {
    /// The exit codes of [`App::run`].
    fn report(self) -> ExitCode {
        match self {
            Self::Clean => ExitCode::SUCCESS,
            Self::Aborted { .. } => EXIT_ABORTED.into(),
            Self::Stuck { .. } => EXIT_STUCK.into(),
            Self::Failed => EXIT_FAILED.into(),
            Self::Uncommitted { .. } | Self::Unwritten => EXIT_UNCOMMITTED.into(),
        }
    }
}

/// Waits for signals on a thread of its own: a handler that blocks the executor must not keep the process from ending.
struct Signals {
    first: CancellationToken,
    /// The executor of the app ends, and may wait for blocking work.
    executor_ends: CancellationToken,
    news: mpsc::Sender<News>,
}

/// News of the app for the thread of the signals.
enum News {
    Deadline(Duration),
    OnFirst(Box<dyn FnOnce() + Send>),
    Finished,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let first = CancellationToken::new();
        let (news, arrived) = mpsc::channel();
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before the thread starts, so that no signal after this call is missed.
        let mut arriving = {
            let _inside = executor.enter();
            Arriving::new()?
        };
        let (stop, executor_ends) = (first.clone(), CancellationToken::new());
        let ends = executor_ends.clone();
        std::thread::Builder::new().name("streams-signals".to_owned()).spawn(move || {
            executor.block_on(async {
                let name = arriving.next().await.1;
                let told_to_stop = Instant::now();
                tracing::info!(
                    signal = name,
                    "stopping: no new event is begun; a second signal ends the process at once"
                );
                let (mut deadline, mut finished): (Option<Duration>, bool) = (None, false);
                let listen = |deadline: &mut Option<Duration>, finished: &mut bool| {
                    for news in arrived.try_iter() {
                        match news {
                            News::Deadline(of_app) => *deadline = Some(of_app),
                            News::OnFirst(act) => act(),
                            News::Finished => *finished = true,
                        }
                    }
                };
                listen(&mut deadline, &mut finished);
                stop.cancel();
                let deadline = after(told_to_stop, deadline.unwrap_or(Duration::MAX));
                // The app ends by itself; this is for handlers that leave it no turn.
                tokio::select! {
                    (number, _) = arriving.next() => std::process::exit(EXIT_SIGNAL + number),
                    () = tokio::time::sleep_until(after(deadline, PARTING + PATIENCE)) => {}
                    () = ends.cancelled() => {}
                }
                listen(&mut None, &mut finished);
                if !finished {
                    tracing::error!("handlers do not yield: the process ends without giving its leases back");
                    std::process::exit(EXIT_STUCK.into());
                }
                // The program's own work begins here; a signal ends it as it would without this crate.
                let executor_waits = async {
                    ends.cancelled().await;
                    tokio::time::sleep_until(after(deadline, PATIENCE)).await;
                };
                tokio::select! {
                    (number, _) = arriving.next() => std::process::exit(EXIT_SIGNAL + number),
                    () = executor_waits => {}
                }
                tracing::warn!(
                    "blocking work that handlers have begun is not over at the deadline: the process ends without it"
                );
                std::process::exit(EXIT_ABORTED.into());
            });
        })?;
        Ok(Self { first, executor_ends, news })
    }

    // The thread lives as long as the process, so that it always hears.
    fn watch(&self, deadline: Duration) {
        let _ = self.news.send(News::Deadline(deadline));
    }

    fn on_first(&self, act: impl FnOnce() + Send + 'static) {
        let _ = self.news.send(News::OnFirst(Box::new(act)));
    }

    fn finished(&self) {
        let _ = self.news.send(News::Finished);
        // An executor drops its tasks first of all when it ends.
        let ends = self.executor_ends.clone().drop_guard();
        tokio::spawn(async move {
            let _ends = ends;
            std::future::pending::<()>().await;
        });
    }
}

#[cfg(unix)]
struct Arriving {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Arriving {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal's number and name.
    async fn next(&mut self) -> (i32, &'static str) {
        tokio::select! {
            _ = self.interrupt.recv() => (2, "SIGINT"),
            _ = self.terminate.recv() => (15, "SIGTERM"),
        }
    }
}

#[cfg(not(unix))]
struct Arriving;

#[cfg(not(unix))]
impl Arriving {
    #[expect(clippy::unnecessary_wraps, reason = "the other systems can fail")]
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> (i32, &'static str) {
        // Without a console there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        (2, "SIGINT")
    }
}
