//! Traces: a span around each publish and each attempt, and the W3C trace context that ties them together in the entry.
//!
//! The names are those of OpenTelemetry's conventions for messaging. A publish is a producer span, a child of the caller's;
//! its context goes into the entry as `traceparent` (and `tracestate`). An attempt at one event is a consumer span **whose
//! parent is the publish**. So one trace shows a request and everything that came of it, in every group. An attempt about
//! several events cannot have several parents: it is linked to each publish instead.
//!
//! Without the feature `opentelemetry` there are no ids to read from a span, but the context still travels. The
//! [`Publisher`](crate::Publisher) that a handler takes as an argument passes on the trace of the handler's event.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use streams_core::{Entry, Failure, Outcome, Scope};
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};

use crate::random::Random;

/// The target of every span, for filters: `RUST_LOG=info,streams::trace=debug`.
const TARGET: &str = "streams::trace";
/// A program with the feature `opentelemetry` wants spans. Without it they are one level below the usual filter: a span
/// costs about as much as handling a small event.
const LEVEL: Level = if cfg!(feature = "opentelemetry") { Level::INFO } else { Level::DEBUG };
const SYSTEM: &str = "redis";

/// The fields of an entry that carry the context.
pub(crate) const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// The longest `tracestate` that is passed on: what the W3C asks everybody to carry.
const MAX_STATE: usize = 512;
/// The most publishes that one attempt is linked to, which is what collectors keep.
#[cfg(feature = "opentelemetry")]
const MAX_LINKS: usize = 128;

type Call = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// The span of one attempt of a consumer, about these entries. Nothing is computed where nobody wants it.
pub(crate) fn process(scope: &Scope, entries: &[Arc<Entry>], attempt: u32) -> Span {
    let only = match entries {
        [only] => Some(only),
        _ => None,
    };
    let span = tracing::span!(
        target: TARGET, LEVEL, "process",
        otel.name = format!("process {}", scope.stream),
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.system = SYSTEM,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = scope.stream,
        messaging.destination.partition.id = scope.partition.to_string(),
        messaging.consumer.group.name = scope.group,
        messaging.message.id = only.map(|entry| entry.event_id().to_string()),
        messaging.batch.message_count = only.is_none().then_some(entries.len()),
        streams.consumer = scope.consumer,
        streams.entry = only.map(|entry| entry.id.to_string()),
        streams.attempt = attempt,
    );
    #[cfg(feature = "opentelemetry")]
    if !span.is_disabled() {
        otel::follow(&span, entries);
    }
    span
}

/// Runs the call in the span.
pub(crate) fn within(span: &Span, call: Call) -> Call {
    if span.is_disabled() { call } else { Box::pin(call.instrument(span.clone())) }
}

/// The span of a call to publish.
pub(crate) fn publish(stream: &str) -> Span {
    tracing::span!(
        target: TARGET, LEVEL, "publish",
        otel.name = format!("publish {stream}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.system = SYSTEM,
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = stream,
        messaging.destination.partition.id = Empty,
        messaging.message.id = Empty,
        messaging.batch.message_count = Empty,
    )
}

/// Records the partition and the event id of a publish, once they are known.
pub(crate) fn publishes(span: &Span, partition: u32, event_id: &str) {
    if !span.is_disabled() {
        span.record("messaging.destination.partition.id", partition.to_string());
        span.record("messaging.message.id", event_id);
    }
}

/// How many events a call took that takes several.
pub(crate) fn published(span: &Span, count: usize) {
    span.record("messaging.batch.message_count", count);
}

/// How the operation of a span went: `None`, or the kind of its error.
pub(crate) fn ended(span: &Span, error: Option<&'static str>) {
    if let Some(error) = error {
        span.record("error.type", error);
        span.record("otel.status_code", "ERROR");
    }
}

/// A place in a trace, as an entry carries it: <https://www.w3.org/TR/trace-context/>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// The context that an entry carries; none where there is none or it cannot be read.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        // Most entries carry none: two comparisons of lengths for each field.
        let text = |name| entry.field(name).and_then(|value| std::str::from_utf8(value).ok());
        Self::parse(text(TRACEPARENT)?, text(TRACESTATE))
    }

    fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let hex = |text: &str, digits: usize| {
            let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            (text.len() == digits && lower).then(|| u128::from_str_radix(text, 16).ok())?
        };
        let mut parts = parent.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let (trace, span, flags) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        // A later version may say more behind what is known, version 0 may not, and 255 is none.
        if version == 255 || (version == 0 && parts.next().is_some()) || trace == 0 || span == 0 {
            return None;
        }
        let state = state.filter(|state| !state.is_empty() && state.len() <= MAX_STATE).map(str::to_owned);
        Some(Self { trace, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()?, state })
    }

    /// Another place in the same trace.
    fn child(&self, random: &Random) -> Self {
        Self { span: random.span_id(), ..self.clone() }
    }

    fn headers(self) -> Vec<(String, String)> {
        let parent = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags);
        let state = self.state.map(|state| (TRACESTATE.to_owned(), state));
        std::iter::once((TRACEPARENT.to_owned(), parent)).chain(state).collect()
    }
}

/// The headers that tie what is published to where it comes from: the span, or else the event that the publisher was
/// handed out with.
pub(crate) fn headers(span: &Span, handling: Option<&TraceContext>, random: &Random) -> Vec<(String, String)> {
    #[cfg(feature = "opentelemetry")]
    if let Some(context) = otel::context(span) {
        return context.headers();
    }
    #[cfg(not(feature = "opentelemetry"))]
    let _ = span;
    handling.map_or_else(Vec::new, |context| context.child(random).headers())
}

/// Notes that a publish carries a context which its caller has chosen.
pub(crate) fn carries(span: &Span, parent: &str) {
    #[cfg(feature = "opentelemetry")]
    if let Some(context) = TraceContext::parse(parent, None).filter(|_| !span.is_disabled()) {
        otel::link(span, &context);
    }
    #[cfg(not(feature = "opentelemetry"))]
    let _ = (span, parent);
}

#[cfg(feature = "opentelemetry")]
mod otel {
    use std::str::FromStr;
    use std::sync::Arc;

    use opentelemetry::Context;
    use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
    use streams_core::Entry;
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{MAX_LINKS, TraceContext};

    /// Makes the span follow what its entries were published in.
    pub(super) fn follow(span: &Span, entries: &[Arc<Entry>]) {
        match entries {
            [only] => {
                if let Some(context) = TraceContext::of(only) {
                    // It fails where no layer for OpenTelemetry is there to hear it.
                    let _ = span.set_parent(Context::new().with_remote_span_context(remote(&context)));
                }
            }
            several => {
                let contexts = several.iter().filter_map(|entry| TraceContext::of(entry));
                contexts.take(MAX_LINKS).for_each(|context| link(span, &context));
            }
        }
    }

    pub(super) fn link(span: &Span, context: &TraceContext) {
        span.add_link(remote(context));
    }

    fn remote(context: &TraceContext) -> SpanContext {
        let state = context.state.as_deref().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
        SpanContext::new(context.trace.into(), context.span.into(), TraceFlags::new(context.flags), true, state)
    }

    /// Where the span stands; where it is not wanted itself, the span around it.
    pub(super) fn context(span: &Span) -> Option<TraceContext> {
        let around = if span.is_disabled() { Span::current().context() } else { span.context() };
        let context = around.span().span_context().clone();
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        context.is_valid().then(|| TraceContext {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
            state: state.filter(|state| state.len() <= super::MAX_STATE),
        })
    }
}

#[cfg(test)]
mod tests {
    use streams_core::EntryId;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_reads_back_as_it_was_written() {
        let context = TraceContext::parse(PARENT, Some("vendor=1")).unwrap();
        let headers = [(TRACEPARENT, PARENT), (TRACESTATE, "vendor=1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(context.clone().headers(), headers);
        let fields = headers.map(|(name, value)| (name.into_bytes(), value.into_bytes())).to_vec();
        assert_eq!(TraceContext::of(&Entry::new(EntryId::ZERO, &fields)), Some(context));
        assert_eq!(TraceContext::of(&Entry::new::<&str, &str>(EntryId::ZERO, &[])), None);
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let context = TraceContext::parse(PARENT, Some("vendor=1")).unwrap();
        let child = context.child(&Random::seeded(1));
        assert_eq!((child.trace, child.flags, &child.state), (context.trace, context.flags, &context.state));
        assert_ne!(child.span, context.span);
    }

    #[test]
    fn what_is_no_traceparent_is_passed_over() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text, None), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(TraceContext::parse(later, None).is_some());
        let long = "x".repeat(MAX_STATE + 1);
        assert_eq!(TraceContext::parse(PARENT, Some(&long)).unwrap().state, None);
    }
}
