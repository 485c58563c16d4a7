//! The declarations of a program about its streams: the linked events, and the properties on which they agree.

use std::time::Duration;

use streams_core::codec::DEFAULT_MAX_PAYLOAD;
use streams_core::{Durability, EventInfo, EventRegistration, Registration, Retention};

/// How long entries are kept unless an event of the stream says otherwise.
const RETENTION: Retention = Retention::Age(Duration::from_secs(24 * 3600));

/// Properties of a stream that stand on any of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamProperties {
    pub(crate) partitions: u32,
    pub(crate) retention: Retention,
    pub(crate) durability: Option<Durability>,
    pub(crate) max_payload: usize,
}

/// The properties of a stream, from those of these events that are in it.
pub(crate) fn stream_properties<'a>(
    stream: &str,
    events: impl IntoIterator<Item = &'a &'static EventInfo>,
) -> StreamProperties {
    let events: Vec<_> = events.into_iter().filter(|info| info.stream == stream).collect();
    StreamProperties {
        partitions: events.iter().find_map(|info| info.partitions).unwrap_or(1),
        retention: events.iter().find_map(|info| info.retention).unwrap_or(RETENTION),
        durability: events.iter().find_map(|info| info.durability),
        max_payload: events
            .iter()
            .map(|info| info.max_payload.unwrap_or(DEFAULT_MAX_PAYLOAD))
            .max()
            .unwrap_or(DEFAULT_MAX_PAYLOAD),
    }
}

/// The retention that an event of the stream declares among these.
pub(crate) fn declared_retention(stream: &str, events: &[&'static EventInfo]) -> Option<Retention> {
    events.iter().filter(|info| info.stream == stream).find_map(|info| info.retention)
}

/// Every event type that is linked into the program.
pub(crate) fn linked_events() -> Vec<&'static EventInfo> {
    inventory::iter::<EventRegistration>().map(|registration| registration.info).collect()
}

/// Every consumer that is linked into the program.
pub(crate) fn linked_consumers() -> Vec<Registration> {
    inventory::iter::<Registration>().copied().collect()
}

/// Whether events of one stream contradict each other about its properties, in one line.
///
/// Two types of one name are no matter here: a publisher writes whichever it is given.
pub(crate) fn stream_problem<'a>(
    stream: &str,
    events: impl IntoIterator<Item = &'a &'static EventInfo>,
) -> Option<String> {
    let events: Vec<_> = events.into_iter().copied().filter(|info| info.stream == stream).collect();
    let pairs = events.iter().enumerate().flat_map(|(index, a)| events[index + 1..].iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| property_problems(a, b)).next()
}

/// The event and the types of its older versions.
pub(crate) fn chain(info: &'static EventInfo) -> impl Iterator<Item = &'static EventInfo> {
    std::iter::successors(Some(info), |info| info.upcast_from)
}

/// Distinguishes one declaration of an event from another.
pub(crate) fn declared_at(info: &EventInfo) -> (&'static str, u32, &'static str) {
    (info.file, info.line, info.type_name)
}

pub(crate) fn event_place(info: &EventInfo) -> String {
    format!("{}:{} `{}`", info.file, info.line, info.type_name)
}

/// The properties of a stream about which two of its events disagree.
pub(crate) fn property_problems(a: &EventInfo, b: &EventInfo) -> Vec<String> {
    fn differ<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
        a.is_some() && b.is_some() && a != b
    }
    let differing = [
        ("partitions", differ(&a.partitions, &b.partitions)),
        ("retention", differ(&a.retention, &b.retention)),
        ("durability", differ(&a.durability, &b.durability)),
    ];
    let differing = differing.into_iter().filter(|(_, differ)| *differ);
    differing
        .map(|(what, _)| {
            format!(
                "{} and {} give stream `{}` a different `{what}`; say it once, or the same",
                event_place(a),
                event_place(b),
                a.stream
            )
        })
        .collect()
}
