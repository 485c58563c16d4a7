//! The shape of an event on the wire, known at compile time; `types` and the attributes describe it, `compat` compares
//! it and [`lock`] records it.
//!
//! A [`Schema`] describes the bytes that [`crate::codec`] writes, not the Rust types. Its names are wire names, and
//! [`fingerprint`] ignores names of Rust types and the order of fields and variants.

mod types;
mod compat;
mod json_schema;
pub mod lock;
#[doc(hidden)]
pub mod left_out;
pub(crate) mod sample;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

pub use compat::{Compat, Report, compare};
pub use json_schema::{Definitions, json_schema};
pub(crate) use types::{DECIMAL, ITSELF};
#[doc(hidden)]
pub use types::{Recursion, forms};

/// The wire form of a type.
///
/// Structs are maps by field name, and enums have serde's form. A [`Schema::Seq`] or [`Schema::Array`] of `u8` is
/// written as bytes or as an array, as its Rust type decides. Consumers read either form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schema {
    /// `nil`.
    Unit,
    /// A truth value.
    Bool,
    /// A string of one character.
    Char,
    /// A string.
    Str,
    /// Bytes.
    Bytes,
    /// A whole number within the range of this many bits.
    Int {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// Whether it may be negative.
        signed: bool,
    },
    /// A float of 32 bits.
    F32,
    /// A float of 64 bits.
    F64,
    /// `nil` or the value.
    Option(&'static Schema),
    /// Any number of values.
    Seq(&'static Schema),
    /// This many values.
    Array(&'static Schema, usize),
    /// Keys with values.
    Map(&'static Schema, &'static Schema),
    /// An array with one value per member.
    Tuple(&'static [&'static Schema]),
    /// A map by field name.
    Struct(&'static StructSchema),
    /// One of several forms.
    Enum(&'static EnumSchema),
    /// A type with a meaning beyond its wire form, such as a time.
    Logical {
        /// Its meaning.
        name: &'static str,
        /// The form on the wire.
        wire: &'static Schema,
    },
    /// A form that the user vouches for: only the tag is compared.
    Opaque(&'static str),
    /// An enclosing type that contains itself: `Self`, or the Rust type's name if another type lies between.
    Ref(&'static str),
}

impl Schema {
    /// The doc comment of a struct or an enum; empty where there is none.
    pub const fn doc(&self) -> &'static str {
        match self {
            Self::Struct(schema) => schema.doc,
            Self::Enum(schema) => schema.doc,
            _ => "",
        }
    }

    /// Whether a part of it leads back to a type of another name, which stands around it.
    pub const fn leads_outside(&self) -> bool {
        holds_refs(self)
    }
}

/// A struct, or a variant with named fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StructSchema {
    /// The name of the Rust type, for messages.
    pub name: &'static str,
    /// Its fields in the order of the source.
    pub fields: &'static [Field],
    /// Whether a field that is not listed fails decoding.
    pub deny_unknown: bool,
    /// The doc comment, for people alone; empty where there is none.
    pub doc: &'static str,
    hash: u64,
    holds_bytes: bool,
    holds_decimals: bool,
    holds_refs: bool,
}

impl StructSchema {
    /// A struct with these fields.
    ///
    /// It computes the hash of the fields here, once per type, so that a nested type adds one number to the hash around
    /// it. A walk of the tree for each event would grow exponentially with its depth.
    pub const fn new(name: &'static str, deny_unknown: bool, fields: &'static [Field]) -> Self {
        let (mut holds_bytes, mut holds_decimals, mut holds_refs) = (false, false, false);
        let mut i = 0;
        while i < fields.len() {
            holds_bytes |= self::holds_bytes(fields[i].schema);
            holds_decimals |= self::holds_decimals(fields[i].schema);
            holds_refs |= self::holds_refs(fields[i].schema);
            i += 1;
        }
        let hash = hash_fields(deny_unknown, fields);
        Self { name, fields, deny_unknown, doc: "", hash, holds_bytes, holds_decimals, holds_refs }
    }

    /// The same with a doc comment, which is no part of the shape.
    #[must_use]
    pub const fn documented(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }
}

/// A field of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name on the wire.
    pub name: &'static str,
    /// Other names under which consumers read it.
    pub aliases: &'static [&'static str],
    /// Its form.
    pub schema: &'static Schema,
    /// Whether a reader can do without it: an `Option`, or with a default.
    pub optional: bool,
    /// Whether a writer may leave it out.
    pub may_be_absent: bool,
    /// The doc comment, for people alone; empty where there is none.
    pub doc: &'static str,
}

/// An enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnumSchema {
    /// The name of the Rust type, for messages.
    pub name: &'static str,
    /// How the variant's name is written.
    pub tagging: Tagging,
    /// Its variants in the order of the source.
    pub variants: &'static [Variant],
    /// The doc comment, for people alone; empty where there is none.
    pub doc: &'static str,
    hash: u64,
    holds_bytes: bool,
    holds_decimals: bool,
    holds_refs: bool,
}

impl EnumSchema {
    /// An enum with these variants; see [`StructSchema::new`] for the hash.
    ///
    /// # Panics
    /// While compiling, when the enum has a tag inside and holds a sequence of `u8`: it could not be read back.
    #[track_caller]
    pub const fn new(name: &'static str, tagging: Tagging, variants: &'static [Variant]) -> Self {
        let (mut holds_bytes, mut holds_decimals, mut holds_refs) = (false, false, false);
        let mut i = 0;
        while i < variants.len() {
            holds_bytes |= self::holds_bytes(variants[i].body);
            holds_decimals |= self::holds_decimals(variants[i].body);
            holds_refs |= self::holds_refs(variants[i].body);
            i += 1;
        }
        // serde reads such an enum through a buffer, from which it cannot turn bytes into a sequence.
        assert!(
            !(holds_bytes && matches!(tagging, Tagging::Internal(_))),
            "an enum with `tag` alone cannot hold a sequence of `u8`, because serde could not read it back; add `content = \"...\"`"
        );
        let hash = hash_enum(tagging, variants);
        Self { name, tagging, variants, doc: "", hash, holds_bytes, holds_decimals, holds_refs }
    }

    /// The same with a doc comment, which is no part of the shape.
    #[must_use]
    pub const fn documented(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }
}

/// A variant of an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Its name on the wire.
    pub name: &'static str,
    /// Other names under which consumers read it.
    pub aliases: &'static [&'static str],
    /// Its content; [`Schema::Unit`] for none.
    pub body: &'static Schema,
    /// Whether consumers read unknown variants as this one.
    pub catch_all: bool,
    /// The doc comment, for people alone; empty where there is none.
    pub doc: &'static str,
}

/// How an enum's variants are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagging {
    /// A unit variant is its name; any other is a map with one entry, from its name to its content.
    External,
    /// The name is in this field, beside the variant's own fields.
    Internal(&'static str),
    /// The name is in the first field, the variant's content in the second.
    Adjacent(&'static str, &'static str),
}

/// How structs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As maps by field name: fields may be added and removed.
    Map,
    /// As arrays in the order of the source: about half the bytes, but consumers can read no changed shape.
    Array,
}

impl Layout {
    /// The word in the attribute and in the lock.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Array => "array",
        }
    }
}

/// A type whose wire form is known.
///
/// This crate implements it for std's types, and by feature for those of `bytes`, `chrono`, `jiff`, `rust_decimal`,
/// `time` and `uuid`; `#[event_type]` and `#[stream_event(..)]` implement it for yours. It is left out on purpose for
/// some. The range of `usize`, `isize` and the 128-bit integers differs by machine and language. An event owns its
/// data, so there are no references. `Arc<str>` needs the feature `rc`, which turns on that of serde for the whole
/// program.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no event schema, so it cannot be part of a stream event",
    label = "this type has no known wire form",
    note = "if `{Self}` is your type, put `#[event_type]` on it",
    note = "for a type of `uuid`, `chrono`, `time`, `jiff`, `rust_decimal` or `bytes` enable the feature of that name, and for `Arc<str>` the feature `rc`",
    note = "if it comes from another crate, name its wire form on the field: `#[event(wire = \"String\")]`, or vouch for it with `#[event(opaque = \"name@1\")]` and raise the number whenever it changes"
)]
pub trait SchemaType {
    /// The wire form.
    const SCHEMA: &'static Schema;
}

/// A hash of the wire form, the same in every build. It differs when two programs mean different things by one event.
///
/// It detects accidents, not forgeries (FNV-1a, 64 bits).
pub const fn fingerprint(schema: &Schema) -> u64 {
    hash(SEED, schema)
}

/// The [`fingerprint`] of an event in its layout: in an array the order of the fields counts, too.
pub const fn layout_fingerprint(schema: &Schema, layout: Layout) -> u64 {
    match layout {
        Layout::Map => fingerprint(schema),
        Layout::Array => hash_order(mix(fingerprint(schema), 19), schema),
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

const fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

const fn mix_u64(mut hash: u64, value: u64) -> u64 {
    let bytes = value.to_le_bytes();
    let mut i = 0;
    while i < bytes.len() {
        hash = mix(hash, bytes[i]);
        i += 1;
    }
    hash
}

const fn mix_str(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        hash = mix(hash, bytes[i]);
        i += 1;
    }
    // No UTF-8 text holds this byte, so `ab`, `c` and `a`, `bc` differ.
    mix(hash, 0xff)
}

pub(crate) const fn text_eq(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Adds the hashes of the fields, so that their order does not matter: on the wire they are a map.
const fn hash_fields(deny_unknown: bool, fields: &[Field]) -> u64 {
    let mut sum = 0_u64;
    let mut i = 0;
    while i < fields.len() {
        let field = &fields[i];
        let named = mix_str(SEED, field.name);
        let flagged = mix(named, field.optional as u8 | (field.may_be_absent as u8) << 1);
        sum = sum.wrapping_add(hash(mix_aliases(flagged, field.aliases), field.schema));
        i += 1;
    }
    mix_u64(mix(mix_u64(SEED, fields.len() as u64), deny_unknown as u8), sum)
}

/// Adds the other names under which consumers read a field or variant.
const fn mix_aliases(so_far: u64, aliases: &[&str]) -> u64 {
    let mut sum = 0_u64;
    let mut i = 0;
    while i < aliases.len() {
        sum = sum.wrapping_add(mix_str(SEED, aliases[i]));
        i += 1;
    }
    if aliases.is_empty() { so_far } else { mix_u64(mix(so_far, 20), sum) }
}

/// Adds the names of the fields of all structs in their order. It walks the whole tree, so only the array layout uses
/// it.
const fn hash_order(so_far: u64, schema: &Schema) -> u64 {
    match schema {
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Array(inner, _) => hash_order(so_far, inner),
        Schema::Map(key, value) => hash_order(hash_order(so_far, key), value),
        Schema::Tuple(members) => {
            let mut order = so_far;
            let mut i = 0;
            while i < members.len() {
                order = hash_order(order, members[i]);
                i += 1;
            }
            order
        }
        Schema::Struct(schema) => {
            let mut order = so_far;
            let mut i = 0;
            while i < schema.fields.len() {
                order = hash_order(mix_str(order, schema.fields[i].name), schema.fields[i].schema);
                i += 1;
            }
            order
        }
        Schema::Enum(schema) => {
            // Variants are written by name, so their own order does not count.
            let mut sum = 0_u64;
            let mut i = 0;
            while i < schema.variants.len() {
                let named = mix_str(SEED, schema.variants[i].name);
                sum = sum.wrapping_add(hash_order(named, schema.variants[i].body));
                i += 1;
            }
            mix_u64(so_far, sum)
        }
        Schema::Logical { wire, .. } => hash_order(so_far, wire),
        _ => so_far,
    }
}

/// Whether a writer may leave a value out: in an array all later values would move.
const fn leaves_out(schema: &Schema) -> bool {
    match schema {
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Array(inner, _) => leaves_out(inner),
        Schema::Map(key, value) => leaves_out(key) || leaves_out(value),
        Schema::Tuple(members) => {
            let mut i = 0;
            while i < members.len() {
                if leaves_out(members[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        Schema::Struct(schema) => {
            let mut i = 0;
            while i < schema.fields.len() {
                if schema.fields[i].may_be_absent || leaves_out(schema.fields[i].schema) {
                    return true;
                }
                i += 1;
            }
            false
        }
        Schema::Enum(schema) => {
            // serde leaves out the content of a variant without data, and then cannot read the array.
            if matches!(schema.tagging, Tagging::Adjacent(..)) {
                return true;
            }
            let mut i = 0;
            while i < schema.variants.len() {
                if leaves_out(schema.variants[i].body) {
                    return true;
                }
                i += 1;
            }
            false
        }
        Schema::Logical { wire, .. } => leaves_out(wire),
        _ => false,
    }
}

/// Checks a schema against its layout.
///
/// # Panics
/// While compiling, when a writer may leave out a value in an array.
#[track_caller]
#[doc(hidden)]
pub const fn check_layout(schema: &Schema, layout: Layout) {
    assert!(
        matches!(layout, Layout::Map) || !leaves_out(schema),
        "`layout = \"array\"` goes by the order of the fields, so nothing may be left out; remove `skip_serializing_if`, and `content` from enums"
    );
}

/// Adds the hashes of the variants, whose names distinguish them, not their order.
const fn hash_enum(tagging: Tagging, variants: &[Variant]) -> u64 {
    let mut sum = 0_u64;
    let mut i = 0;
    while i < variants.len() {
        let variant = &variants[i];
        let named = mix(mix_str(SEED, variant.name), variant.catch_all as u8);
        sum = sum.wrapping_add(hash(mix_aliases(named, variant.aliases), variant.body));
        i += 1;
    }
    let tagged = match tagging {
        Tagging::External => mix(SEED, 0),
        Tagging::Internal(tag) => mix_str(mix(SEED, 1), tag),
        Tagging::Adjacent(tag, content) => mix_str(mix_str(mix(SEED, 2), tag), content),
    };
    mix_u64(mix_u64(tagged, variants.len() as u64), sum)
}

/// Checks that a reader can distinguish a value that is nil from one that is missing.
///
/// # Panics
/// While compiling, when the value inside an `Option` may be nil itself.
#[doc(hidden)]
#[track_caller]
pub const fn check_nil(schema: &Schema) {
    assert!(
        !confuses_nil(schema),
        "`Some` of nothing and `None` are both nil on the wire, so one would arrive as the other; use one `Option`, or an enum that names the cases"
    );
}

/// Structs and enums inside are checked at their own declarations.
const fn confuses_nil(schema: &Schema) -> bool {
    match schema {
        Schema::Option(inner) => is_nil(inner) || confuses_nil(inner),
        Schema::Seq(inner) | Schema::Array(inner, _) => confuses_nil(inner),
        Schema::Map(key, value) => confuses_nil(key) || confuses_nil(value),
        Schema::Tuple(members) => {
            let mut i = 0;
            while i < members.len() {
                if confuses_nil(members[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        _ => false,
    }
}

const fn is_nil(schema: &Schema) -> bool {
    match schema {
        Schema::Unit | Schema::Option(_) => true,
        Schema::Logical { wire, .. } => is_nil(wire),
        _ => false,
    }
}

/// Checks that the content of a variant can share one map with this tag.
///
/// # Panics
/// While compiling, when the content is no map, or has a field of that name itself.
#[doc(hidden)]
#[track_caller]
pub const fn check_beside_tag(tag: &str, body: &Schema) {
    match has_place(tag, body) {
        Place::Free => {}
        Place::Taken => panic!(
            "it writes a key with the name of the `tag` itself, so nobody could read the event; give one of them another name, or add `content = \"..\"`"
        ),
        Place::NoMap => panic!(
            "serde writes a variant into the map with its `tag`, and this is no map, so it could not be published; add `content = \"..\"`, or hold it in a struct"
        ),
    }
}

/// Where a name appears in the map that a value is written as.
enum Place {
    Free,
    Taken,
    NoMap,
}

const fn has_place(tag: &str, body: &Schema) -> Place {
    match body {
        // The user vouches for this one.
        Schema::Opaque(_) => Place::Free,
        // Their keys are known only at run time.
        Schema::Unit | Schema::Map(..) => Place::Free,
        Schema::Struct(schema) => {
            let mut i = 0;
            while i < schema.fields.len() {
                if text_eq(schema.fields[i].name, tag) {
                    return Place::Taken;
                }
                i += 1;
            }
            Place::Free
        }
        Schema::Enum(schema) => {
            match schema.tagging {
                Tagging::Adjacent(own, content) if text_eq(own, tag) || text_eq(content, tag) => return Place::Taken,
                Tagging::Internal(own) if text_eq(own, tag) => return Place::Taken,
                Tagging::Adjacent(..) => return Place::Free,
                Tagging::Internal(_) | Tagging::External => {}
            }
            let is_external = matches!(schema.tagging, Tagging::External);
            let mut i = 0;
            while i < schema.variants.len() {
                // Without a tag field, the variant's name is a key.
                let is_taken = if is_external {
                    text_eq(schema.variants[i].name, tag)
                } else {
                    matches!(has_place(tag, schema.variants[i].body), Place::Taken)
                };
                if is_taken {
                    return Place::Taken;
                }
                i += 1;
            }
            Place::Free
        }
        Schema::Logical { wire, .. } => has_place(tag, wire),
        // The type itself, with its tag.
        Schema::Ref(name) if text_eq(name, types::ITSELF) => Place::Taken,
        Schema::Ref(_) => Place::Free,
        _ => Place::NoMap,
    }
}

/// Whether a part of it is written as bytes and read as a sequence.
const fn holds_bytes(schema: &Schema) -> bool {
    match schema {
        Schema::Seq(item) | Schema::Array(item, _) => is_byte(item) || holds_bytes(item),
        Schema::Option(inner) => holds_bytes(inner),
        Schema::Map(key, value) => holds_bytes(key) || holds_bytes(value),
        Schema::Tuple(members) => {
            let mut all_bytes = !members.is_empty();
            let mut some_hold = false;
            let mut i = 0;
            while i < members.len() {
                all_bytes &= is_byte(members[i]);
                some_hold |= holds_bytes(members[i]);
                i += 1;
            }
            all_bytes || some_hold
        }
        Schema::Struct(schema) => schema.holds_bytes,
        Schema::Enum(schema) => schema.holds_bytes,
        Schema::Logical { wire, .. } => holds_bytes(wire),
        _ => false,
    }
}

/// Whether a part of it is a decimal number, which must never be a float on the wire.
pub(crate) const fn holds_decimals(schema: &Schema) -> bool {
    match schema {
        Schema::Logical { name, wire } => text_eq(name, DECIMAL) || holds_decimals(wire),
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Array(inner, _) => holds_decimals(inner),
        Schema::Map(key, value) => holds_decimals(key) || holds_decimals(value),
        Schema::Tuple(members) => {
            let mut i = 0;
            while i < members.len() {
                if holds_decimals(members[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        Schema::Struct(schema) => schema.holds_decimals,
        Schema::Enum(schema) => schema.holds_decimals,
        _ => false,
    }
}

/// Whether a part of it leads back to a type with another name.
const fn holds_refs(schema: &Schema) -> bool {
    match schema {
        Schema::Ref(name) => !text_eq(name, types::ITSELF),
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Array(inner, _) => holds_refs(inner),
        Schema::Map(key, value) => holds_refs(key) || holds_refs(value),
        Schema::Tuple(members) => {
            let mut i = 0;
            while i < members.len() {
                if holds_refs(members[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        Schema::Struct(schema) => schema.holds_refs,
        Schema::Enum(schema) => schema.holds_refs,
        Schema::Logical { wire, .. } => holds_refs(wire),
        _ => false,
    }
}

/// Checks that a type inside an older version, as the lock has it, is the type of today that the user names for it.
///
/// # Panics
/// While compiling, when their shapes differ.
#[doc(hidden)]
#[track_caller]
pub const fn check_today<T: SchemaType>(name: &str, locked: &'static Schema) {
    if fingerprint(T::SCHEMA) == fingerprint(locked) {
        return;
    }
    let mut text = Report::new(Compat::Exact, false);
    text.write("`");
    text.write(name);
    text.write("` has changed since this version, so no type of today is the same; remove it from `types`, and it is written from the lock");
    text.compare(locked, T::SCHEMA);
    panic!("{}", text.text())
}

/// The types around a place in a schema.
struct Around<'a> {
    name: &'a str,
    outer: Option<&'a Around<'a>>,
}

/// Checks that a type marked `#[event(recursive)]` is inside the type that it leads back to; otherwise the schema would
/// not describe it.
///
/// # Panics
/// While compiling, when it is not inside.
#[doc(hidden)]
#[track_caller]
pub const fn check_recursion(schema: &Schema) {
    assert!(
        is_closed(schema, None),
        "a field marked `#[event(recursive)]` leads to a type that does not hold it here, so that changes of that type would not be noticed; move the mark to the field that leads back"
    );
}

const fn is_closed(schema: &Schema, around: Option<&Around<'_>>) -> bool {
    // Only a schema with such references needs the walk.
    if !holds_refs(schema) {
        return true;
    }
    match schema {
        Schema::Ref(name) => {
            let mut here = around;
            while let Some(around) = here {
                if text_eq(around.name, name) {
                    return true;
                }
                here = around.outer;
            }
            false
        }
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Array(inner, _) => is_closed(inner, around),
        Schema::Map(key, value) => is_closed(key, around) && is_closed(value, around),
        Schema::Tuple(members) => {
            let mut i = 0;
            while i < members.len() {
                if !is_closed(members[i], around) {
                    return false;
                }
                i += 1;
            }
            true
        }
        Schema::Struct(schema) => {
            let around = Around { name: schema.name, outer: around };
            let mut i = 0;
            while i < schema.fields.len() {
                if !is_closed(schema.fields[i].schema, Some(&around)) {
                    return false;
                }
                i += 1;
            }
            true
        }
        Schema::Enum(schema) => {
            let around = Around { name: schema.name, outer: around };
            let mut i = 0;
            while i < schema.variants.len() {
                if !is_closed(schema.variants[i].body, Some(&around)) {
                    return false;
                }
                i += 1;
            }
            true
        }
        Schema::Logical { wire, .. } => is_closed(wire, around),
        _ => true,
    }
}

/// Whether many of it in a row are bytes.
pub const fn is_byte(schema: &Schema) -> bool {
    match schema {
        Schema::Int { bits: 8, signed: false } => true,
        Schema::Logical { wire, .. } => is_byte(wire),
        _ => false,
    }
}

const fn hash(so_far: u64, schema: &Schema) -> u64 {
    match schema {
        Schema::Unit => mix(so_far, 1),
        Schema::Bool => mix(so_far, 2),
        Schema::Char => mix(so_far, 3),
        Schema::Str => mix(so_far, 4),
        Schema::Bytes => mix(so_far, 5),
        Schema::Int { bits, signed } => mix(mix(mix(so_far, 6), *bits), *signed as u8),
        Schema::F32 => mix(so_far, 7),
        Schema::F64 => mix(so_far, 8),
        Schema::Option(some) => hash(mix(so_far, 9), some),
        Schema::Seq(item) => hash(mix(so_far, 10), item),
        Schema::Array(item, length) => hash(mix_u64(mix(so_far, 11), *length as u64), item),
        Schema::Map(key, value) => hash(hash(mix(so_far, 12), key), value),
        Schema::Tuple(members) => {
            let mut tuple = mix_u64(mix(so_far, 13), members.len() as u64);
            let mut i = 0;
            while i < members.len() {
                tuple = hash(tuple, members[i]);
                i += 1;
            }
            tuple
        }
        Schema::Struct(schema) => mix_u64(mix(so_far, 14), schema.hash),
        Schema::Enum(schema) => mix_u64(mix(so_far, 15), schema.hash),
        Schema::Logical { name, wire } => hash(mix_str(mix(so_far, 16), name), wire),
        Schema::Opaque(tag) => mix_str(mix(so_far, 17), tag),
        // The wire does not show its name, which is that of a Rust type.
        Schema::Ref(_) => mix(so_far, 18),
    }
}
