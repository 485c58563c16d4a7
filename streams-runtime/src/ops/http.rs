//! The HTTP endpoint of an app: `/metrics`, `/livez`, `/readyz`; [`monitor`](super::monitor) knows the answers.
//!
//! With the feature `console` the app gives it more routes, below `/console`. No TLS and no password: listen on an address
//! that only those who may read it can reach.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(not(feature = "console"))]
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::health::Health;
use super::monitor::Monitor;

/// How many connections are served at once, of probes and a collector or two; others wait in the system's queue.
const CONNECTIONS: usize = 32;
/// How long the head of a request may take to come, and how large it may be.
const HEAD: Duration = Duration::from_secs(2);
const HEAD_BYTES: usize = 16 * 1024;
/// How long a connection may last: each is for one request.
const CONNECTION: Duration = Duration::from_secs(10);
/// The end of the path of a request whose answer goes on, and how long it may; a browser then connects again.
const EVENTS: &str = "/api/events";
const WATCH: Duration = Duration::from_secs(3600);
/// The wait after a connection could not be taken, as when the process has no file descriptor left.
const BREATH: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
/// The version of the text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The body of an answer.
#[cfg(feature = "console")]
pub(crate) type Body = axum::body::Body;
#[cfg(not(feature = "console"))]
pub(crate) type Body = Full<Bytes>;

/// The routes below `/console`.
#[cfg(feature = "console")]
pub(crate) type Beside = hyper_util::service::TowerToHyperService<axum::Router>;
#[cfg(not(feature = "console"))]
#[derive(Debug, Clone)]
pub(crate) struct Beside;

/// Begins to listen, and says where; nothing is answered before [`Endpoint::start`].
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let listening = TcpListener::bind(address).await.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    listening.map_err(|error| {
        format!(
            "the HTTP endpoint cannot listen on {address}: {error}; choose another address with STREAMS_HTTP or `Config::http`"
        )
    })
}

/// The endpoint of an app; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl Endpoint {
    pub(crate) fn start((listener, address): (TcpListener, SocketAddr), monitor: Monitor, beside: Beside) -> Self {
        tracing::info!(%address, "answering /metrics, /livez and /readyz");
        let answers = move |request| answer(monitor.clone(), beside.clone(), request);
        Self { address, _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, answers))) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Takes connections for ever, and has each one's request answered.
pub(crate) async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, answer.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the HTTP endpoint cannot take a connection; trying again");
                tokio::time::sleep(BREATH).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Body>>,
{
    let goes_on = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        goes_on.store(request.uri().path().ends_with(EVENTS), Ordering::Relaxed);
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error on a probe's own connection does not concern the app.
    let ended = tokio::time::timeout(CONNECTION, &mut connection).await;
    if ended.is_err() && goes_on.load(Ordering::Relaxed) {
        let _ = tokio::time::timeout(WATCH, connection).await;
    }
}

async fn answer(monitor: Monitor, beside: Beside, request: Request<Incoming>) -> Response<Body> {
    #[cfg(feature = "console")]
    if request.uri().path().strip_prefix("/console").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return match hyper::service::Service::call(&beside, request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    #[cfg(not(feature = "console"))]
    let Beside = beside;
    probe(&monitor, request.method(), request.uri())
}

fn probe(monitor: &Monitor, method: &Method, uri: &Uri) -> Response<Body> {
    let path = uri.path();
    let known = matches!(path, "/metrics" | "/livez" | "/readyz");
    if known && method != Method::GET && method != Method::HEAD {
        let mut response = say(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let status = |well| if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match path {
        "/metrics" => say(StatusCode::OK, METRICS, monitor.metrics()),
        "/livez" => match monitor.health().stopped {
            None => say(StatusCode::OK, TEXT, "alive\n"),
            Some(reason) => say(status(false), TEXT, reason + "\n"),
        },
        "/readyz" => match ready(monitor.health(), uri.query().unwrap_or_default()) {
            Ok(health) => say(status(health.ready), TEXT, format!("{health}\n")),
            Err(problem) => say(StatusCode::BAD_REQUEST, TEXT, problem + "\n"),
        },
        _ => say(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n"),
    }
}

/// The health that a query asks for: of everything, or of the groups in `groups=risk,audit`; none for `groups=` and
/// `groups=none`.
///
/// Anything else is refused: a probe that asks about something else than it means to is not noticed before it is needed.
fn ready(health: Health, query: &str) -> Result<Health, String> {
    if query.is_empty() {
        return Ok(health);
    }
    let Some(groups) = query.strip_prefix("groups=").filter(|groups| !groups.contains('&')) else {
        return Err(format!(
            "`{}` is no query of /readyz; it takes `groups=` with names and commas",
            query.escape_debug()
        ));
    };
    // Clients may encode the comma; names have no letter for which they have to.
    let groups = groups.replace("%2C", ",").replace("%2c", ",");
    let groups: Vec<_> = groups.split(',').filter(|group| !group.is_empty()).collect();
    let known = |group| health.groups.iter().any(|health| health.group == group);
    let groups = if groups == ["none"] && !known("none") { &[] } else { &*groups };
    health.of(groups).map_err(|unknown| unknown.to_string())
}

fn say(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
