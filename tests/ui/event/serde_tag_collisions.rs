//! A variant and its tag share one map.
use std::collections::BTreeMap;
use streams_core::{event_type, stream_event};

#[event_type]
struct Gadget {
    kind: String,
}

#[event_type]
enum Other {
    kind(u8),
}

#[event_type]
#[serde(tag = "kind")]
enum Nested {
    Gone { at: u64 },
}

#[stream_event(stream = "gadgets")]
#[serde(tag = "kind")]
enum Changed {
    Made(Gadget),
    Moved(Other),
    Told(Nested),
    Held(Box<Changed>),
    Named(String),
    Listed(Vec<u16>),
}

#[event_type]
#[serde(tag = "kind")]
enum Words {
    Made {
        kind: u8,
        #[serde(rename = "kind")]
        other: u8,
    },
    Pair(u8, u8),
}

#[event_type]
#[serde(tag = "type")]
enum Fine {
    Made(Gadget),
    Moved(Other),
    Told(Nested),
    Nothing(()),
    Any(BTreeMap<String, u8>),
    At(std::time::SystemTime),
}

#[event_type]
#[serde(tag = "kind", content = "what")]
enum FineToo {
    Made(Gadget),
    Named(String),
}

fn main() {}
