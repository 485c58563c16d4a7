//! MessagePack has one nil.
use streams_core::{event_type, stream_event};

#[stream_event(stream = "patches")]
struct Patch {
    note: Option<Option<String>>,
    seen: Vec<Option<()>>,
    boxed: std::collections::BTreeMap<u8, Option<Box<Option<u8>>>>,
}

type Maybe<T> = Option<T>;

#[event_type]
struct Note(Option<String>);

#[event_type]
struct Hidden {
    note: Option<Note>,
    alias: Maybe<Maybe<u8>>,
    inside: Vec<(u8, Option<Note>)>,
}

#[stream_event(stream = "patches")]
struct Fine {
    note: Note,
    one: Maybe<u8>,
    declared: Declared,
}

#[event_type]
struct Declared {
    #[event(wire = "Option<Option<u8>>")]
    old: Option<u8>,
}

fn main() {}
