//! The rules of change, which the compiler evaluates for `lock`: which readers a difference between two schemas breaks.
//!
//! `old` is the lock's record, `new` the code's shape. Everything is `const` and allocates nothing, because it runs
//! where a user's crate is compiled. A test compares the verdicts with serde.
//!
//! The same rules judge two builds that run ([`compare_builds`]): `old` is the build there, `new` the one here. A lock
//! also covers events that were written long ago; of a build only its own events count.

use super::types::ITSELF;
use super::{
    EnumSchema, Field, Layout, Schema, StructSchema, Tagging, Variant, holds_refs, layout_fingerprint, text_eq,
};

/// The policy of an event, `compat = "..."`: which changes are allowed under one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    /// Old and new programs read each other's events, so they may be deployed in any order.
    Full,
    /// New programs read old events. Deploy consumers before producers.
    Backward,
    /// No change is allowed.
    Exact,
    /// Every change is allowed. Nothing is compared.
    None,
}

impl Compat {
    /// The word in the attribute and in the lock.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Backward => "backward",
            Self::Exact => "exact",
            Self::None => "none",
        }
    }

    /// The inverse of [`Self::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Full, Self::Backward, Self::Exact, Self::None].into_iter().find(|compat| compat.word() == word)
    }
}

/// The most names around a difference. A deeper difference is reported at the innermost of these.
const DEPTH: usize = 24;
/// The most places that a report can point at. Beyond that it shows one of them.
const PLACES: usize = 64;
/// The most bytes of a report. It leaves out the rest, and says so.
const TEXT: usize = 3072;

/// How a line begins.
const BULLET: &str = "\n  - ";

/// A report of the readers that a change breaks.
#[derive(Debug)]
pub struct Report {
    text: [u8; TEXT],
    length: usize,
    breaks: usize,
    /// Whether new code reads old events, and deployed consumers read new ones.
    reads: (bool, bool),
    compat: Compat,
    ordered: bool,
    /// Whether two builds are compared, and not a lock with the code.
    builds: bool,
    path: [&'static str; DEPTH],
    depth: usize,
    /// The names of the enclosing named types, of the old schema and of the new one.
    around: [(&'static str, &'static str); DEPTH],
    types: usize,
    places: [&'static str; PLACES],
}

impl Report {
    pub(crate) const fn new(compat: Compat, ordered: bool) -> Self {
        Self {
            text: [0; TEXT],
            length: 0,
            breaks: 0,
            reads: (true, true),
            compat,
            ordered,
            builds: false,
            path: [""; DEPTH],
            depth: 0,
            around: [("", ""); DEPTH],
            types: 0,
            places: [""; PLACES],
        }
    }

    /// The number of differences that break a reader whom the policy protects.
    pub const fn breaks(&self) -> usize {
        self.breaks
    }

    /// Whether the build here reads the events of the one there, and the other way round. Not public API.
    #[doc(hidden)]
    pub const fn reads(&self) -> (bool, bool) {
        self.reads
    }

    /// The differences one by one, as far as they fit. Not public API.
    #[doc(hidden)]
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text().split(BULLET).skip(1)
    }

    /// The report, one line per difference.
    pub const fn text(&self) -> &str {
        let (text, _) = self.text.split_at(self.length);
        match core::str::from_utf8(text) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        }
    }

    /// Whether a difference breaks a reader at this field or variant of the event, or inside it.
    pub const fn is_at(&self, place: &str) -> bool {
        let mut i = 0;
        while i < self.breaks && i < PLACES {
            if text_eq(self.places[i], place) {
                return true;
            }
            i += 1;
        }
        false
    }

    /// Adds text only if it fits whole, so that the report never ends inside a character.
    pub(crate) const fn write(&mut self, text: &str) {
        const CUT: &str = "\n  ...";
        let bytes = text.as_bytes();
        let room = TEXT - CUT.len();
        if self.length > room {
            return;
        }
        let cut = self.length + bytes.len() > room;
        let bytes = if cut { CUT.as_bytes() } else { bytes };
        let mut i = 0;
        while i < bytes.len() {
            self.text[self.length] = bytes[i];
            self.length += 1;
            i += 1;
        }
        if cut {
            // From here on nothing fits, however short.
            while self.length <= room {
                self.text[self.length] = b' ';
                self.length += 1;
            }
        }
    }

    pub(crate) const fn write_number(&mut self, number: u64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let (_, digits) = digits.split_at(at);
        match core::str::from_utf8(digits) {
            Ok(digits) => self.write(digits),
            Err(_) => unreachable!(),
        }
    }

    const fn write_type(&mut self, schema: &Schema) {
        match schema {
            Schema::Unit => self.write("()"),
            Schema::Bool => self.write("bool"),
            Schema::Char => self.write("char"),
            Schema::Str => self.write("string"),
            Schema::Bytes => self.write("bytes"),
            Schema::Int { bits, signed } => {
                self.write(if *signed { "i" } else { "u" });
                self.write_number(*bits as u64);
            }
            Schema::F32 => self.write("f32"),
            Schema::F64 => self.write("f64"),
            Schema::Option(some) => {
                self.write("option<");
                self.write_type(some);
                self.write(">");
            }
            Schema::Seq(item) => {
                self.write("list<");
                self.write_type(item);
                self.write(">");
            }
            Schema::Array(item, length) => {
                self.write("[");
                self.write_type(item);
                self.write("; ");
                self.write_number(*length as u64);
                self.write("]");
            }
            Schema::Map(key, value) => {
                self.write("map<");
                self.write_type(key);
                self.write(", ");
                self.write_type(value);
                self.write(">");
            }
            Schema::Tuple(members) => {
                self.write("(");
                let mut i = 0;
                while i < members.len() {
                    if i > 0 {
                        self.write(", ");
                    }
                    self.write_type(members[i]);
                    i += 1;
                }
                self.write(")");
            }
            Schema::Struct(schema) => {
                self.write("struct ");
                self.write(schema.name);
            }
            Schema::Enum(schema) => {
                self.write("enum ");
                self.write(schema.name);
            }
            Schema::Logical { name, .. } => self.write(name),
            Schema::Opaque(tag) => {
                self.write("opaque ");
                self.write(tag);
            }
            Schema::Ref(name) => {
                self.write("recursive ");
                self.write(name);
            }
        }
    }

    const fn enter(&mut self, name: &'static str) {
        if self.depth < DEPTH {
            self.path[self.depth] = name;
        }
        self.depth += 1;
    }

    const fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Begins a line, if the policy cares. `old_events`: new code cannot read them. `old_readers`: they cannot
    /// read new events.
    const fn open(&mut self, old_events: bool, old_readers: bool) -> bool {
        // Another order, or another number of fields, is another event.
        let (old_events, old_readers) =
            if self.builds && self.ordered { (true, true) } else { (old_events, old_readers) };
        let counts = match self.compat {
            Compat::Full => old_events || old_readers,
            Compat::Backward => old_events,
            Compat::Exact => true,
            Compat::None => false,
        };
        if !counts {
            return false;
        }
        if self.breaks < PLACES {
            self.places[self.breaks] = if self.depth > 0 { self.path[0] } else { "" };
        }
        self.breaks += 1;
        self.reads = (self.reads.0 && !old_events, self.reads.1 && !old_readers);
        self.write(BULLET);
        if self.depth > 0 {
            self.write("`");
            let mut i = 0;
            while i < self.depth && i < DEPTH {
                if i > 0 && !text_eq(self.path[i], ITEM) {
                    self.write(".");
                }
                self.write(self.path[i]);
                i += 1;
            }
            self.write(if self.builds { "` " } else { "`: " });
        } else if self.builds {
            self.write("the event ");
        }
        true
    }

    /// Ends the line with the readers that the difference breaks.
    const fn close(&mut self, old_events: bool, old_readers: bool) {
        if self.builds {
            // Said once for all of them.
            return;
        }
        self.write(match (old_events, old_readers) {
            (true, true) => " [new code cannot read old events, nor deployed consumers new ones]",
            (true, false) => " [new code cannot read old events]",
            (false, true) => " [deployed consumers cannot read new events]",
            (false, false) => " [the event allows no change]",
        });
    }

    /// One line: as a change, and as a difference between builds.
    const fn line(&mut self, change: &str, builds: &str, old_events: bool, old_readers: bool) {
        if self.open(old_events, old_readers) {
            self.write(if self.builds { builds } else { change });
            self.close(old_events, old_readers);
        }
    }

    /// One line about a field that only one side has.
    const fn only(&mut self, field: &Field, change: &str, side: &str, old_events: bool, old_readers: bool) {
        if !self.builds {
            self.line(change, "", old_events, old_readers);
        } else if self.open(old_events, old_readers) {
            self.write("(");
            self.write_type(field.schema);
            self.write(if field.optional { ", optional) is only " } else { ", required) is only " });
            self.write(side);
        }
    }

    /// One line about something that is called otherwise.
    const fn called(&mut self, name: &str, side: &str, old_events: bool, old_readers: bool) {
        if self.open(old_events, old_readers) {
            self.write("is called `");
            self.write(name);
            self.write("` ");
            self.write(side);
        }
    }

    const fn changed(&mut self, old: &Schema, new: &Schema, old_events: bool, old_readers: bool) {
        if self.open(old_events, old_readers) {
            let (before, between) = if self.builds { ("is ", " here and ") } else { ("type changed from ", " to ") };
            let (one, other) = if self.builds { (new, old) } else { (old, new) };
            self.write(before);
            self.write_type(one);
            self.write(between);
            self.write_type(other);
            self.write(if self.builds { " there" } else { "" });
            self.close(old_events, old_readers);
        }
    }

    pub(super) const fn compare(&mut self, old: &'static Schema, new: &'static Schema) {
        match (old, new) {
            (Schema::Unit, Schema::Unit)
            | (Schema::Bool, Schema::Bool)
            | (Schema::Char, Schema::Char)
            | (Schema::Str, Schema::Str)
            | (Schema::Bytes, Schema::Bytes)
            | (Schema::F32, Schema::F32)
            | (Schema::F64, Schema::F64) => {}
            (
                Schema::Int { bits: old_bits, signed: old_signed },
                Schema::Int { bits: new_bits, signed: new_signed },
            ) => {
                let old_events = !holds(*new_bits, *new_signed, *old_bits, *old_signed);
                let old_readers = !holds(*old_bits, *old_signed, *new_bits, *new_signed);
                if old_events || old_readers {
                    self.changed(old, new, old_events, old_readers);
                }
            }
            (Schema::F32, Schema::F64) => self.changed(old, new, false, true),
            // The value could be read, but would not be the same number.
            (Schema::F64, Schema::F32) => self.changed(old, new, true, false),
            (Schema::Option(old), Schema::Option(new)) => self.compare(old, new),
            (Schema::Seq(old), Schema::Seq(new)) if !self.builds => self.compare(old, new),
            (Schema::Seq(old), Schema::Seq(new)) => {
                self.enter(ITEM);
                self.compare(old, new);
                self.leave();
            }
            (old, Schema::Option(new)) => {
                self.line("became optional", "may be nil here and not there", false, true);
                self.compare(old, new);
            }
            (Schema::Option(old), new) => {
                self.line("was optional, and no longer is", "may be nil there and not here", true, false);
                self.compare(old, new);
            }
            (Schema::Array(old_item, old_length), Schema::Array(new_item, new_length))
                if *old_length == *new_length =>
            {
                self.compare(old_item, new_item);
            }
            (Schema::Map(old_key, old_value), Schema::Map(new_key, new_value)) => {
                self.enter("{key}");
                self.compare(old_key, new_key);
                self.leave();
                self.compare(old_value, new_value);
            }
            (Schema::Tuple(old_members), Schema::Tuple(new_members)) if old_members.len() == new_members.len() => {
                let mut i = 0;
                while i < old_members.len() {
                    self.enter(if i < MEMBERS.len() { MEMBERS[i] } else { "(..)" });
                    self.compare(old_members[i], new_members[i]);
                    self.leave();
                    i += 1;
                }
            }
            (
                Schema::Logical { name: old_name, wire: old_wire },
                Schema::Logical { name: new_name, wire: new_wire },
            ) if text_eq(old_name, new_name) => self.compare(old_wire, new_wire),
            (Schema::Opaque(old_tag), Schema::Opaque(new_tag)) if text_eq(old_tag, new_tag) => {}
            (Schema::Struct(old), Schema::Struct(new)) => {
                self.nest(old.name, new.name);
                self.fields(old, new);
                self.types -= 1;
            }
            (Schema::Enum(old), Schema::Enum(new)) => {
                self.nest(old.name, new.name);
                self.variants(old, new);
                self.types -= 1;
            }
            (Schema::Ref(old_name), Schema::Ref(new_name)) if self.same_type(old_name, new_name) => {}
            _ => self.changed(old, new, true, true),
        }
    }

    const fn nest(&mut self, old: &'static str, new: &'static str) {
        if self.types < DEPTH {
            self.around[self.types] = (old, new);
        }
        self.types += 1;
    }

    /// Whether two names of enclosing types mean the same place, whatever the names.
    const fn same_type(&self, old: &str, new: &str) -> bool {
        let (old_itself, new_itself) = (text_eq(old, ITSELF), text_eq(new, ITSELF));
        if old_itself != new_itself && self.types > 0 && self.types <= DEPTH {
            // With `#[event(recursive)]` on the innermost type, one schema names the type where the other says `Self`.
            let (old_here, new_here) = self.around[self.types - 1];
            return if old_itself { text_eq(new_here, new) } else { text_eq(old_here, old) };
        }
        let mut i = if self.types < DEPTH { self.types } else { DEPTH };
        while i > 0 {
            i -= 1;
            let (old_here, new_here) = (text_eq(self.around[i].0, old), text_eq(self.around[i].1, new));
            if old_here || new_here {
                return old_here && new_here;
            }
        }
        text_eq(old, new)
    }

    const fn fields(&mut self, old: &'static StructSchema, new: &'static StructSchema) {
        if self.ordered && !same_order(old.fields, new.fields) {
            self.line(
                "the order of the fields changed, and `layout = \"array\"` goes by it",
                "has its fields in another order there, and `layout = \"array\"` goes by it",
                true,
                true,
            );
        }
        let mut i = 0;
        while i < old.fields.len() {
            let locked = &old.fields[i];
            match reader(new.fields, locked.name) {
                Some(field) => self.field(locked, field, old.deny_unknown),
                None => {
                    let written = written(new.fields, locked);
                    let is_written = matches!(written, Some(field) if !field.may_be_absent);
                    let (old_events, old_readers) = (new.deny_unknown, !locked.optional && !is_written);
                    self.enter(locked.name);
                    match written {
                        Some(field) if self.builds => self.called(field.name, "here", old_events, old_readers),
                        _ => self.only(locked, "removed, or renamed; keep it", "there", old_events, old_readers),
                    }
                    // Deployed consumers read it under another name.
                    if let Some(field) = written {
                        self.compare(locked.schema, field.schema);
                    }
                    self.leave();
                }
            }
            i += 1;
        }
        let mut i = 0;
        while i < new.fields.len() {
            let field = &new.fields[i];
            if written(old.fields, field).is_none() {
                let old_readers = old.deny_unknown && reader(old.fields, field.name).is_none();
                self.enter(field.name);
                match reader(old.fields, field.name) {
                    // Said at its name there; here nobody reads that.
                    Some(there) if self.builds && reader(new.fields, there.name).is_none() => {
                        self.reads.0 &= field.optional;
                    }
                    _ if field.optional => self.only(field, "added", "here", false, old_readers),
                    _ => {
                        let change = "added without a default; make it an `Option`, or give it `#[serde(default)]`";
                        self.only(field, change, "here", true, old_readers);
                    }
                }
                self.leave();
            }
            i += 1;
        }
        self.doubled(old.fields, new.fields, true);
        self.doubled(new.fields, old.fields, false);
        if old.deny_unknown != new.deny_unknown {
            let builds = if new.deny_unknown {
                "refuses unknown fields here and not there"
            } else {
                "refuses unknown fields there and not here"
            };
            self.line("`deny_unknown_fields` changed", builds, false, false);
        }
    }

    /// One field that reads two fields of one event, by an alias: serde refuses the second.
    const fn doubled(&mut self, written: &'static [Field], readers: &'static [Field], old_events: bool) {
        let mut r = 0;
        while r < readers.len() {
            let reader = &readers[r];
            let mut i = 0;
            // A reader without an alias reads one name.
            while i < written.len() && !reader.aliases.is_empty() {
                let mut j = 0;
                while j < i && reads(reader, &written[i]) {
                    let (one, other) = (&written[j], &written[i]);
                    // If one reads the other, it is the same field under a new name, and no event has both.
                    if reads(reader, one) && !reads(one, other) && !reads(other, one) {
                        self.enter(if old_events { reader.name } else { other.name });
                        if self.open(old_events, !old_events) {
                            let (before, between, after) = match (self.builds, old_events) {
                                (false, true) => (
                                    "read from `",
                                    "` and from `",
                                    "`, and an event that has both cannot be read; remove the alias",
                                ),
                                (false, false) => (
                                    "deployed consumers read `",
                                    "` and `",
                                    "` as one field, and cannot read an event that has both",
                                ),
                                (true, true) => ("is read here from `", "` and `", "`, and events there have both"),
                                (true, false) => ("and `", "` are two fields here, and there `", "` reads both"),
                            };
                            self.write(before);
                            self.write(one.name);
                            self.write(between);
                            self.write(if self.builds && !old_events { reader.name } else { other.name });
                            self.write(after);
                            self.close(old_events, !old_events);
                        }
                        self.leave();
                    }
                    j += 1;
                }
                i += 1;
            }
            r += 1;
        }
    }

    /// A field and its present reader.
    const fn field(&mut self, locked: &'static Field, field: &'static Field, strict: bool) {
        self.enter(field.name);
        if !text_eq(locked.name, field.name) && !is_listed(field.name, locked.aliases) {
            let old_readers = !locked.optional || strict;
            if self.builds {
                self.called(locked.name, "there", false, old_readers);
            } else if self.open(false, old_readers) {
                self.write("renamed from `");
                self.write(locked.name);
                self.write("`; keep that name with `#[serde(rename = \"");
                self.write(locked.name);
                self.write("\")]`");
                self.close(false, old_readers);
            }
        }
        if locked.optional && !field.optional {
            let (builds, old_events) = if locked.may_be_absent {
                ("may be left out there and is required here", true)
            } else {
                // It is always written; only events of before it existed lack it.
                ("is optional there and required here", !self.builds)
            };
            self.line("could be left out, and no longer can; keep its default", builds, old_events, false);
        } else if field.may_be_absent && !locked.optional {
            self.line("may now be left out", "may be left out here and is required there", false, true);
        } else if field.optional && !locked.optional || field.may_be_absent != locked.may_be_absent {
            let builds = if field.optional && !locked.optional {
                "is optional here and required there"
            } else if field.may_be_absent {
                "may be left out here and not there"
            } else {
                "may be left out there and not here"
            };
            self.line("its default or `skip_serializing_if` changed", builds, false, false);
        }
        self.aliases(locked.aliases, field.name, field.aliases);
        self.compare(locked.schema, field.schema);
        self.leave();
    }

    /// Checks the aliases, the names under which older events may have been written.
    const fn aliases(&mut self, old: &'static [&'static str], name: &str, new: &'static [&'static str]) {
        let mut i = 0;
        while i < old.len() {
            // No build writes under an alias.
            let old_events = !self.builds;
            if !text_eq(old[i], name) && !is_listed(old[i], new) && self.open(old_events, false) {
                self.write(if self.builds { "is read there from `" } else { "no longer read as `" });
                self.write(old[i]);
                if !self.builds {
                    self.write("`; keep `alias = \"");
                    self.write(old[i]);
                }
                self.write(if self.builds { "`, too" } else { "\"`" });
                self.close(old_events, false);
            }
            i += 1;
        }
    }

    const fn variants(&mut self, old: &'static EnumSchema, new: &'static EnumSchema) {
        if !same_tagging(old.tagging, new.tagging) {
            self.line(
                "how the variants are told apart (`tag`, `content`) changed",
                "has its variants told apart otherwise (`tag`, `content`) there",
                true,
                true,
            );
        }
        let (old_catches, new_catches) = (catches(old.variants), catches(new.variants));
        let mut i = 0;
        while i < old.variants.len() {
            let variant = &old.variants[i];
            self.enter(variant.name);
            match find_variant(new.variants, variant.name) {
                None => {
                    // No build writes the one that is there for unknown variants.
                    let old_events =
                        !(new_catches && absorbs(new.tagging, variant.body) || self.builds && variant.catch_all);
                    let builds = "(a variant) is only there";
                    self.line("variant removed, or renamed; keep it", builds, old_events, false);
                }
                Some(found) => {
                    if !text_eq(found.name, variant.name) && find_variant(old.variants, found.name).is_none() {
                        if self.builds {
                            let old_readers = !(old_catches && absorbs(old.tagging, found.body));
                            self.called(found.name, "here", false, old_readers);
                        } else {
                            self.line(
                                "variant renamed; keep the name with `#[serde(rename = \"..\")]`",
                                "",
                                false,
                                true,
                            );
                        }
                    }
                    if variant.catch_all && !found.catch_all {
                        self.line(
                            "no longer read for unknown variants; keep `#[serde(other)]`",
                            "stands for unknown variants there and not here",
                            !self.builds,
                            false,
                        );
                    }
                    self.aliases(variant.aliases, found.name, found.aliases);
                    self.compare(variant.body, found.body);
                }
            }
            self.leave();
            i += 1;
        }
        let mut i = 0;
        while i < new.variants.len() {
            let variant = &new.variants[i];
            // The variant for unknown ones is for readers: nobody writes it.
            let old_readers = !(variant.catch_all || old_catches && absorbs(old.tagging, variant.body));
            if !is_known(old.variants, variant) {
                self.enter(variant.name);
                match find_variant(old.variants, variant.name) {
                    // Deployed consumers read it as another variant.
                    Some(locked) => self.compare(locked.body, variant.body),
                    None => self.line(
                        "variant added, and deployed consumers have no `#[serde(other)]` variant for it",
                        "(a variant) is only here",
                        false,
                        old_readers,
                    ),
                }
                self.leave();
            }
            i += 1;
        }
    }
}

/// Any item of a list.
const ITEM: &str = "[]";
/// Names for the members of a tuple.
const MEMBERS: [&str; 12] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];

/// The report of a change from `old` to `new`.
///
/// In the array layout the order of an event's fields counts. The caller compares the layouts themselves.
pub const fn compare(old: &'static Schema, new: &'static Schema, layout: Layout, compat: Compat) -> Report {
    let ordered = matches!(layout, Layout::Array);
    let mut report = Report::new(compat, ordered);
    // For most events these two numbers are equal. They do not show which enclosing type a place leads back to.
    let is_same = layout_fingerprint(old, layout) == layout_fingerprint(new, layout);
    if is_same && !holds_refs(old) && !holds_refs(new) {
        return report;
    }
    report.compare(old, new);
    if report.breaks == 0 && matches!(compat, Compat::Exact) && !is_same {
        report.line("its shape differs", "", false, false);
    }
    report
}

/// Compares an event of the build `there` with the same event of the build `here`, and says which build reads which.
pub(super) fn compare_builds(there: (&'static Schema, Layout), here: (&'static Schema, Layout)) -> Report {
    let ordered = matches!(there.1, Layout::Array) || matches!(here.1, Layout::Array);
    let mut report = Report { builds: true, ..Report::new(Compat::Exact, ordered) };
    if here.1 != there.1 && report.open(true, true) {
        report.write("has `layout = \"");
        report.write(here.1.word());
        report.write("\"` here and `layout = \"");
        report.write(there.1.word());
        report.write("\"` there");
    }
    report.compare(there.0, here.0);
    if report.breaks == 0 {
        report.line("", "differs in nothing but what either reads besides", false, false);
    }
    report
}

/// Whether an integer of the first kind holds every number of the second.
const fn holds(bits: u8, signed: bool, other_bits: u8, other_signed: bool) -> bool {
    match (signed, other_signed) {
        (true, true) | (false, false) => bits >= other_bits,
        (true, false) => bits > other_bits,
        (false, true) => false,
    }
}

const fn same_order(old: &[Field], new: &[Field]) -> bool {
    if old.len() != new.len() {
        // Reported at the field that was added or removed.
        return true;
    }
    let mut i = 0;
    while i < old.len() {
        if !text_eq(old[i].name, new[i].name) {
            return false;
        }
        i += 1;
    }
    true
}

const fn same_tagging(old: Tagging, new: Tagging) -> bool {
    match (old, new) {
        (Tagging::External, Tagging::External) => true,
        (Tagging::Internal(old), Tagging::Internal(new)) => text_eq(old, new),
        (Tagging::Adjacent(old_tag, old_content), Tagging::Adjacent(new_tag, new_content)) => {
            text_eq(old_tag, new_tag) && text_eq(old_content, new_content)
        }
        _ => false,
    }
}

const fn catches(variants: &[Variant]) -> bool {
    let mut i = 0;
    while i < variants.len() {
        if variants[i].catch_all {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether serde's `other` accepts an unknown variant with this body: it skips data only beside a tag inside.
const fn absorbs(tagging: Tagging, body: &Schema) -> bool {
    matches!(tagging, Tagging::Internal(_)) || matches!(body, Schema::Unit)
}

/// The field that is read from this name.
const fn reader(fields: &'static [Field], name: &str) -> Option<&'static Field> {
    let mut i = 0;
    while i < fields.len() {
        if text_eq(fields[i].name, name) || is_listed(name, fields[i].aliases) {
            return Some(&fields[i]);
        }
        i += 1;
    }
    None
}

/// Whether a field is read from the name under which another one is written.
const fn reads(reader: &Field, written: &Field) -> bool {
    text_eq(reader.name, written.name) || is_listed(written.name, reader.aliases)
}

/// The field that is written under a name that `field` reads.
const fn written(fields: &'static [Field], field: &Field) -> Option<&'static Field> {
    let mut i = 0;
    while i < fields.len() {
        if reads(field, &fields[i]) {
            return Some(&fields[i]);
        }
        i += 1;
    }
    None
}

/// The variant that reads this name.
const fn find_variant(variants: &'static [Variant], name: &str) -> Option<&'static Variant> {
    let mut i = 0;
    while i < variants.len() {
        if text_eq(variants[i].name, name) || is_listed(name, variants[i].aliases) {
            return Some(&variants[i]);
        }
        i += 1;
    }
    None
}

/// Whether one of these variants is written under a name that `variant` reads.
const fn is_known(old: &[Variant], variant: &Variant) -> bool {
    let mut i = 0;
    while i < old.len() {
        if text_eq(old[i].name, variant.name) || is_listed(old[i].name, variant.aliases) {
            return true;
        }
        i += 1;
    }
    false
}

const fn is_listed(name: &str, list: &[&str]) -> bool {
    let mut i = 0;
    while i < list.len() {
        if text_eq(name, list[i]) {
            return true;
        }
        i += 1;
    }
    false
}
