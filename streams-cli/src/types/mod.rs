//! Types of events in other languages, written from the locks of a repository.

mod python;
mod typescript;
#[cfg(test)]
mod tests;

use streams_core::schema::lock::{self, LockedEvent};
use streams_core::schema::{Layout, Schema, Tagging};

/// A language that types are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    /// Dataclasses, with the bytes of a payload by the package msgpack.
    Python,
    /// Interfaces of decoded payloads.
    Typescript,
}

/// A module with the types of all events in these locks, each the name of a file and its text.
///
/// # Errors
/// The first lock that cannot be read, by its name.
pub(crate) fn types<'a>(
    language: Language,
    locks: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<String, String> {
    let mut events = Vec::new();
    for (file, text) in locks {
        events.extend(lock::events(text).map_err(|problem| format!("{file} is no lock: {problem}"))?);
    }
    events.sort_by_key(|event| (event.stream, event.name, event.version));
    Ok(match language {
        Language::Python => python::write(&events),
        Language::Typescript => typescript::write(&events),
    })
}

/// The name of an event's type: with the version, so that the next version renames nothing.
fn event_type(event: &LockedEvent) -> String {
    format!("{}V{}", pascal(event.name), event.version)
}

/// A name as types are called: `order-placed` becomes `OrderPlaced`.
fn pascal(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).map(|word| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    });
    identifier(&words.collect::<String>())
}

/// A name as an identifier of most languages: other characters become `_`.
fn identifier(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_alphabetic() || c == '_') { plain } else { format!("_{plain}") }
}

/// Whether this is a variant with fields, which is no named type.
fn is_inline(name: &str) -> bool {
    name.contains("::")
}

/// Whether this is an enum whose variants are names alone.
fn is_text(schema: &Schema) -> bool {
    let Schema::Enum(schema) = schema else { return false };
    schema.tagging == Tagging::External && schema.variants.iter().all(|variant| matches!(variant.body, Schema::Unit))
}

/// The range or the form of a value that a language has no type for.
fn remark(schema: &Schema) -> Option<String> {
    match schema {
        Schema::Int { bits, signed } => Some(format!("{}{bits}", if *signed { "i" } else { "u" })),
        Schema::F32 => Some("f32".to_owned()),
        Schema::Char => Some("one character".to_owned()),
        Schema::Logical { name: "uuid" | "duration" | "time", .. } => None,
        Schema::Logical { name, .. } => Some(meaning(name)),
        Schema::Option(some) => remark(some),
        _ => None,
    }
}

/// A meaning for people: the standard of a text, or the places of an array.
fn meaning(name: &str) -> String {
    match name {
        "rfc3339" => "RFC 3339",
        "rfc9557" => "RFC 9557, with the time zone",
        "date-time" => "ISO 8601 without an offset",
        "date" => "2026-01-31",
        "time-of-day" => "03:04:05.5",
        "week-date" => "2026-W05-6",
        "iso8601-duration" | "iso8601-span" => "ISO 8601, such as PT1H30M",
        "decimal" => "a decimal number as text",
        "nonzero" => "not 0",
        "ipv4" | "ipv6" => "the bytes of an address, most significant first",
        "socket-v4" | "socket-v6" => "address, port",
        "weekday" => "Mon, Tue, ..",
        "month" => "January, February, ..",
        "weekday-number" => "from 1 for Monday",
        "month-number" => "from 1 for January",
        "date-parts" => "year, day of the year",
        "time-of-day-parts" => "hour, minute, second, nanosecond",
        "date-time-parts" | "utc-date-time-parts" => "year, day of the year, hour, minute, second, nanosecond",
        "offset-date-time-parts" => {
            "year, day of the year, hour, minute, second, nanosecond, and hours, minutes and seconds of the offset"
        }
        "offset-parts" => "hours, minutes, seconds",
        "signed-duration" | "time-delta" => "seconds, nanoseconds",
        other => other,
    }
    .to_owned()
}

/// The names of types, one per shape.
#[derive(Default)]
struct Names {
    known: Vec<Known>,
    taken: Vec<String>,
    /// The named types around the present one, from outside, each with its name in the language.
    around: Vec<(&'static str, String)>,
}

struct Known {
    schema: &'static Schema,
    layout: Layout,
    /// The types around it, where it leads back to one of them.
    around: Vec<(&'static str, String)>,
    name: String,
}

impl Names {
    /// This name, with a number behind it where another type has it.
    fn free(&mut self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.taken.contains(name));
        let free = free.unwrap_or(name);
        self.taken.push(free.clone());
        free
    }

    /// The name of a shape, and whether it is new.
    fn of(&mut self, rust_name: &str, schema: &'static Schema, layout: Layout) -> (String, bool) {
        let around = if schema.leads_outside() { self.around.clone() } else { Vec::new() };
        let layout = if is_text(schema) { Layout::Map } else { layout };
        let is_it = |known: &&Known| known.schema == schema && known.layout == layout && known.around == around;
        if let Some(known) = self.known.iter().find(is_it) {
            return (known.name.clone(), false);
        }
        let name = self.free(pascal(rust_name));
        self.known.push(Known { schema, layout, around, name: name.clone() });
        (name, true)
    }

    /// The name of the enclosing type that `Self` or a name leads back to.
    fn enclosing(&self, name: &str) -> Option<&str> {
        let leads_to = |around: &str| if name == "Self" { !is_inline(around) } else { around == name };
        self.around.iter().rev().find(|(around, _)| leads_to(around)).map(|(_, name)| name.as_str())
    }
}
