//! The web console: how streams and groups stand, entries, dead letters, and an operator's acts, in a browser.
//!
//! May use `operate` for the collector and the acts, and `ops` for dead letters and the HTTP connections. `app` serves it
//! beside the probes, a service nests its router, and a tool serves it alone.

mod guard;
mod pages;
mod looks;
mod entries;
mod letters;
mod shapes;
mod handlers;
mod program;
mod way;
mod acts;
mod edit;
mod publish;
mod shared;
mod jobs;
mod scan;
mod collector;
mod answer;

use std::fmt;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use streams_core::broker::Broker;
use streams_core::keys::{self, InvalidName};
use tokio::net::TcpListener;

pub(crate) use self::program::{Program, Registered, Setting};
use self::shared::{Settings, Shared};
use crate::operate::Redact;
use crate::ops::http;

/// The most bytes of the body of an act: a thousand ids of dead letters.
const BODY: usize = 64 * 1024;

/// The console of one broker and namespace. It is read-only until it has a [`token`](Self::token).
///
/// Reading needs no token: nest the router behind a login of one's own, or listen where only those may connect who may
/// read payloads.
///
/// ```no_run
/// use std::sync::Arc;
/// use streams_runtime::broker::Redis;
/// use streams_runtime::console::Console;
///
/// # fn example(login: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Arc::new(Redis::open("redis://127.0.0.1/")?);
/// let console = Console::on(broker, None)?.production("production");
/// let service: axum::Router = axum::Router::new().nest("/internal/streams", console.router()).merge(login);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Console(Settings);

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("broker", &self.0.broker)
            .field("namespace", &self.0.namespace)
            .field("read_only", &(self.0.read_only || self.0.token.is_none()))
            .field("production", &self.0.production)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// A console for the streams of a namespace; without one for all streams of the server. It only reads.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    pub fn on(broker: Arc<dyn Broker>, namespace: Option<&str>) -> Result<Self, InvalidName> {
        namespace.map_or(Ok(()), keys::check_namespace)?;
        Ok(Self(Settings {
            broker,
            namespace: namespace.map(str::to_owned),
            token: None,
            read_only: false,
            production: None,
            is_local: false,
            redact: Redact::default(),
            program: None,
        }))
    }

    /// Allows acts to those who send this token: publish, pause, resume, reset, remove, replay, edit and discard. A long random text, such
    /// as `openssl rand -hex 32` prints, cannot be guessed.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.0.token = Some(token.into()).filter(|token| !token.is_empty());
        self
    }

    /// Refuses every act, also with a token: no request changes a byte at the server.
    pub fn read_only(mut self) -> Self {
        self.0.read_only = true;
        self
    }

    /// Shows a coloured band with this text above every page, such as `production`.
    pub fn production(mut self, label: impl Into<String>) -> Self {
        self.0.production = Some(label.into()).filter(|label| !label.is_empty());
        self
    }

    /// Hides the values of these fields and headers in every payload that is shown, at any depth; bytes that cannot be decoded
    /// are hidden whole. The reasons of dead letters are shown as handlers have written them.
    pub fn redact(mut self, fields: Redact) -> Self {
        self.0.redact = fields;
        self
    }

    /// The program that serves the console, with its handlers.
    pub(crate) fn program(mut self, program: Program) -> Self {
        self.0.program = Some(program);
        self
    }

    /// Answers only requests that name this machine or an address, because it listens on this machine alone. A page of
    /// another site whose name leads here then reads nothing.
    pub(crate) fn local(mut self, is_local: bool) -> Self {
        self.0.is_local = is_local;
        self
    }

    /// The routes, to be nested at any path: pages, their files, and the data below `api/`. The pages take their path from
    /// their own URL.
    pub fn router(self) -> Router {
        let shared = Arc::new(Shared::new(self.0));
        let reads = Router::new()
            .route("/api/about", get(looks::about))
            .route("/api/overview", get(looks::overview))
            .route("/api/stream", get(looks::stream))
            .route("/api/group", get(looks::group))
            .route("/api/server", get(looks::server))
            .route("/api/history", get(looks::history))
            .route("/api/shapes", get(shapes::list))
            .route("/api/shape", get(shapes::one))
            .route("/api/handlers", get(handlers::list))
            .route("/api/trace", get(way::page))
            .route("/api/entries", get(entries::list))
            .route("/api/entry", get(entries::one))
            .route("/api/dead", get(letters::list))
            .route("/api/dead/histogram", get(letters::histogram))
            .route("/api/dead/letter", get(letters::one))
            .route("/api/reset", get(acts::plan))
            .route("/api/jobs", get(acts::jobs))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::in_turn));
        let acts = Router::new()
            .route("/api/token", post(acts::token))
            .route("/api/publish", post(publish::publish))
            .route("/api/pause", post(acts::pause))
            .route("/api/resume", post(acts::resume))
            .route("/api/reset", post(acts::reset))
            .route("/api/remove", post(acts::remove))
            .route("/api/replay", post(acts::replay))
            .route("/api/discard", post(acts::discard))
            .route("/api/edit", post(edit::edit).layer(DefaultBodyLimit::max(edit::BODY)))
            .route("/api/stop", post(acts::stop))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::act))
            .layer(DefaultBodyLimit::max(BODY));
        Router::new()
            .merge(reads)
            .merge(acts)
            .route("/api/events", get(looks::events))
            .route("/", get(pages::index))
            .route(pages::PAGE, get(pages::index))
            .route("/assets/{name}", get(pages::asset))
            .fallback(pages::other)
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::around))
            .with_state(shared)
    }

    /// Answers on this listener until the future is dropped, with the console at `/`.
    ///
    /// # Errors
    /// When the listener has no address.
    ///
    /// # Cancel safety
    /// Dropping the future ends every connection. An act may have been done.
    ///
    /// ```no_run
    /// # async fn example(console: streams_runtime::console::Console) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// println!("http://{}/", listener.local_addr()?);
    /// console.serve(listener).await
    /// # }
    /// ```
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let is_local = listener.local_addr()?.ip().is_loopback();
        let service = TowerToHyperService::new(self.local(is_local).router());
        http::serve(listener, move |request| {
            let answered = service.call(request);
            async move {
                match answered.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        })
        .await;
        Ok(())
    }
}
