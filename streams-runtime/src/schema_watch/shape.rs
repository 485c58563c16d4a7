//! The shape of an event as one program tells it to another, and what two programs that differ can read of each other.
//!
//! The core's schema is known at compile time only; this is what becomes of it in a record. Both sides of a
//! comparison are only ever read here: nothing depends on the answer but what is logged.

use std::fmt;

use serde::{Deserialize, Serialize};
use streams_core::schema::{Schema, StructSchema, Tagging};

/// What is written for an event, or for a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shape {
    Unit,
    Bool,
    Char,
    Str,
    Bytes,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    Option(Box<Shape>),
    Seq(Box<Shape>),
    Array(Box<Shape>, usize),
    Map(Box<Shape>, Box<Shape>),
    Tuple(Vec<Shape>),
    Struct(Struct),
    Enum(Enum),
    Logical(String, Box<Shape>),
    Opaque(String),
    /// An enclosing type.
    Ref,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Struct {
    fields: Vec<Field>,
    /// A field that is not listed fails decoding.
    #[serde(default, skip_serializing_if = "is_false")]
    strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(rename = "type")]
    shape: Shape,
    /// A reader can do without it.
    #[serde(default, skip_serializing_if = "is_false")]
    optional: bool,
    /// A writer may leave it out.
    #[serde(default, skip_serializing_if = "is_false")]
    absent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Enum {
    /// Where the variant's name and content stand: serde's `tag` and `content`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tag: Vec<String>,
    variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Variant {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(rename = "type")]
    shape: Shape,
    /// Variants that are not listed are read as this one.
    #[serde(default, skip_serializing_if = "is_false")]
    other: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

impl From<&Schema> for Shape {
    fn from(schema: &Schema) -> Self {
        let boxed = |schema: &Schema| Box::new(Self::from(schema));
        match schema {
            Schema::Unit => Self::Unit,
            Schema::Bool => Self::Bool,
            Schema::Char => Self::Char,
            Schema::Str => Self::Str,
            Schema::Bytes => Self::Bytes,
            Schema::Int { bits, signed } => match (bits, signed) {
                (8, false) => Self::U8,
                (16, false) => Self::U16,
                (32, false) => Self::U32,
                (_, false) => Self::U64,
                (8, true) => Self::I8,
                (16, true) => Self::I16,
                (32, true) => Self::I32,
                (_, true) => Self::I64,
            },
            Schema::F32 => Self::F32,
            Schema::F64 => Self::F64,
            Schema::Option(some) => Self::Option(boxed(some)),
            // Whichever Rust type holds bytes, they are written and read as either.
            Schema::Seq(Schema::Int { bits: 8, signed: false }) => Self::Bytes,
            Schema::Seq(item) => Self::Seq(boxed(item)),
            Schema::Array(item, length) => Self::Array(boxed(item), *length),
            Schema::Map(key, value) => Self::Map(boxed(key), boxed(value)),
            Schema::Tuple(members) => Self::Tuple(members.iter().map(|&member| member.into()).collect()),
            Schema::Struct(StructSchema { fields, deny_unknown, .. }) => {
                let fields = fields.iter().map(|field| Field {
                    name: field.name.to_owned(),
                    aliases: owned(field.aliases),
                    shape: field.schema.into(),
                    optional: field.optional,
                    absent: field.may_be_absent,
                });
                Self::Struct(Struct { fields: fields.collect(), strict: *deny_unknown })
            }
            Schema::Enum(schema) => {
                let variants = schema.variants.iter().map(|variant| Variant {
                    name: variant.name.to_owned(),
                    aliases: owned(variant.aliases),
                    shape: variant.body.into(),
                    other: variant.catch_all,
                });
                let tag = match schema.tagging {
                    Tagging::External => Vec::new(),
                    Tagging::Internal(tag) => owned(&[tag]),
                    Tagging::Adjacent(tag, content) => owned(&[tag, content]),
                };
                Self::Enum(Enum { tag, variants: variants.collect() })
            }
            Schema::Logical { name, wire } => Self::Logical((*name).to_owned(), boxed(wire)),
            Schema::Opaque(tag) => Self::Opaque((*tag).to_owned()),
            Schema::Ref(_) => Self::Ref,
            // The model may grow before its records do.
            _ => Self::Opaque("of an unknown kind".to_owned()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unit => "unit",
            Self::Bool => "bool",
            Self::Char => "char",
            Self::Str => "string",
            Self::Bytes => "bytes",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Option(some) => return write!(f, "option<{some}>"),
            Self::Seq(item) => return write!(f, "list<{item}>"),
            Self::Array(item, length) => return write!(f, "[{item}; {length}]"),
            Self::Map(key, value) => return write!(f, "map<{key}, {value}>"),
            Self::Tuple(members) => return write!(f, "tuple of {}", members.len()),
            Self::Struct(_) => "struct",
            Self::Enum(_) => "enum",
            Self::Logical(name, _) => name,
            Self::Opaque(tag) => return write!(f, "opaque {tag}"),
            Self::Ref => "the type itself",
        })
    }
}

/// One thing that two programs say differently of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// What, seen from here.
    pub(super) what: String,
    /// Whether this program can read what the other writes, as far as this goes.
    pub(super) we_read: bool,
    /// Whether the other can read what this one writes.
    pub(super) they_read: bool,
}

/// What differs between the shape that this program knows and the one that another has recorded.
pub(super) fn differences(ours: &Shape, theirs: &Shape) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(ours, theirs, "", &mut found);
    found
}

fn compare(ours: &Shape, theirs: &Shape, path: &str, found: &mut Vec<Difference>) {
    match (ours, theirs) {
        (Shape::Option(ours), Shape::Option(theirs)) => compare(ours, theirs, path, found),
        (Shape::Seq(ours), Shape::Seq(theirs)) => compare(ours, theirs, &format!("{path}[]"), found),
        (Shape::Array(ours, n), Shape::Array(theirs, m)) if n == m => {
            compare(ours, theirs, &format!("{path}[]"), found);
        }
        (Shape::Map(our_key, ours), Shape::Map(their_key, theirs)) => {
            compare(our_key, their_key, &format!("{path}{{key}}"), found);
            compare(ours, theirs, &format!("{path}{{}}"), found);
        }
        (Shape::Tuple(ours), Shape::Tuple(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(ours, theirs, &format!("{path}[{index}]"), found);
            }
        }
        (Shape::Logical(our_name, ours), Shape::Logical(their_name, theirs)) if our_name == their_name => {
            compare(ours, theirs, path, found);
        }
        (Shape::Struct(ours), Shape::Struct(theirs)) => fields(ours, theirs, path, found),
        (Shape::Enum(ours), Shape::Enum(theirs)) if ours.tag == theirs.tag => variants(ours, theirs, path, found),
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => found.push(Difference {
            what: match (ours, theirs) {
                (Shape::Enum(_), Shape::Enum(_)) => format!("{} is tagged differently", named(path)),
                _ => format!("{} is {ours} here and {theirs} there", named(path)),
            },
            we_read: reads(ours, theirs),
            they_read: reads(theirs, ours),
        }),
    }
}

fn fields(ours: &Struct, theirs: &Struct, path: &str, found: &mut Vec<Difference>) {
    for field in &ours.fields {
        let at = inside(path, &field.name);
        // What a reader takes for a field is for it to say: its aliases count, whichever side has them.
        let Some(other) = theirs.fields.iter().find(|other| field.is(other)) else {
            let (we_read, they_read) = (field.optional, !theirs.strict);
            found.push(Difference { what: only(&at, field, "here"), we_read, they_read });
            continue;
        };
        let we_read = ours.finds(field, other);
        let they_read = theirs.finds(other, field);
        if field.name != other.name {
            let what = format!("{} is called `{}` there", named(&at), other.name);
            found.push(Difference { what, we_read, they_read });
        } else if !we_read || !they_read {
            let (may, must) = if they_read { ("there", "here") } else { ("here", "there") };
            let what = format!("{} may be left out {may} and is required {must}", named(&at));
            found.push(Difference { what, we_read, they_read });
        } else if field.optional != other.optional {
            let (may, must) = if field.optional { ("here", "there") } else { ("there", "here") };
            let what = format!("{} is optional {may} and required {must}", named(&at));
            // Written by both all the same.
            found.push(Difference { what, we_read, they_read });
        }
        compare(&field.shape, &other.shape, &at, found);
    }
    for field in theirs.fields.iter().filter(|field| !ours.fields.iter().any(|ours| ours.is(field))) {
        let what = only(&inside(path, &field.name), field, "there");
        found.push(Difference { what, we_read: !ours.strict, they_read: field.optional });
    }
}

impl Struct {
    /// Whether what is written as `written` can be read as this field of the struct, or done without.
    fn finds(&self, field: &Field, written: &Field) -> bool {
        if field.takes(&written.name) { field.optional || !written.absent } else { field.optional && !self.strict }
    }
}

impl Field {
    /// Whether both are the same field under names of which one side knows both.
    fn is(&self, other: &Self) -> bool {
        self.takes(&other.name) || other.takes(&self.name)
    }

    fn takes(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

fn variants(ours: &Enum, theirs: &Enum, path: &str, found: &mut Vec<Difference>) {
    for variant in &ours.variants {
        let at = inside(path, &variant.name);
        match theirs.variants.iter().find(|other| other.takes(&variant.name) || variant.takes(&other.name)) {
            Some(other) => compare(&variant.shape, &other.shape, &at, found),
            None => found.push(Difference {
                what: format!("the variant {} is only here", named(&at)),
                we_read: true,
                they_read: theirs.absorbs(variant),
            }),
        }
    }
    let known = |other: &Variant| ours.variants.iter().any(|ours| ours.takes(&other.name) || other.takes(&ours.name));
    for variant in theirs.variants.iter().filter(|variant| !known(variant)) {
        found.push(Difference {
            what: format!("the variant {} is only there", named(&inside(path, &variant.name))),
            we_read: ours.absorbs(variant),
            they_read: true,
        });
    }
}

impl Variant {
    fn takes(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

impl Enum {
    /// Whether a variant that is not listed can be read: serde's `other` swallows what it holds only where the tag stands beside it.
    fn absorbs(&self, variant: &Variant) -> bool {
        variant.other
            || (self.variants.iter().any(|variant| variant.other)
                && (self.tag.len() == 1 || variant.shape == Shape::Unit))
    }
}

/// Whether a value that is written in one shape can be read in another, where the two are not the same.
fn reads(reader: &Shape, writer: &Shape) -> bool {
    if let (Some((reader_bits, reader_signed)), Some((writer_bits, writer_signed))) = (integer(reader), integer(writer))
    {
        return match (reader_signed, writer_signed) {
            (true, false) => reader_bits > writer_bits,
            (false, true) => false,
            _ => reader_bits >= writer_bits,
        };
    }
    match (reader, writer) {
        (Shape::F64, Shape::F32) => true,
        // A value stands for itself, nil for none.
        (Shape::Option(some), writer) => {
            let mut found = Vec::new();
            compare(some, writer, "", &mut found);
            found.iter().all(|difference| difference.we_read)
        }
        _ => false,
    }
}

/// Bits, and whether it may be negative.
fn integer(shape: &Shape) -> Option<(u8, bool)> {
    Some(match shape {
        Shape::U8 => (8, false),
        Shape::U16 => (16, false),
        Shape::U32 => (32, false),
        Shape::U64 => (64, false),
        Shape::I8 => (8, true),
        Shape::I16 => (16, true),
        Shape::I32 => (32, true),
        Shape::I64 => (64, true),
        _ => return None,
    })
}

fn inside(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn named(path: &str) -> String {
    if path.is_empty() { "the event".to_owned() } else { format!("`{path}`") }
}

fn only(path: &str, field: &Field, side: &str) -> String {
    let kind = if field.optional { "optional" } else { "required" };
    format!("{} ({}, {kind}) is only {side}", named(path), field.shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Shape {
        serde_json::from_str(text).unwrap()
    }

    /// A struct of fields that are written as JSON.
    fn of(fields: &str) -> Shape {
        read(&format!(r#"{{"struct":{{"fields":[{fields}]}}}}"#))
    }

    fn field(name: &str, shape: &str, flags: &str) -> String {
        format!(r#"{{"name":"{name}","type":{shape}{flags}}}"#)
    }

    const OPTIONAL: &str = r#","optional":true"#;

    #[track_caller]
    fn check(ours: &Shape, theirs: &Shape, expected: &[(&str, bool, bool)]) {
        let found = differences(ours, theirs);
        let found: Vec<_> = found.iter().map(|found| (found.what.as_str(), found.we_read, found.they_read)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_optional_field_more_is_read_by_both() {
        let old = of(&field("price", r#""f64""#, ""));
        let new = of(&[field("price", r#""f64""#, ""), field("venue", r#""str""#, OPTIONAL)].join(","));
        check(&new, &old, &[("`venue` (string, optional) is only here", true, true)]);
        check(&old, &new, &[("`venue` (string, optional) is only there", true, true)]);
        check(&new, &new, &[]);
    }

    #[test]
    fn what_one_side_cannot_do_without_is_told_by_side() {
        let (none, venue) = (of(""), of(&field("venue", r#""str""#, "")));
        check(&venue, &none, &[("`venue` (string, required) is only here", false, true)]);
        check(&none, &venue, &[("`venue` (string, required) is only there", true, false)]);
        let strict = read(r#"{"struct":{"fields":[],"strict":true}}"#);
        check(&strict, &venue, &[("`venue` (string, required) is only there", false, false)]);
        let absent = of(&field("venue", r#""str""#, r#","optional":true,"absent":true"#));
        check(&venue, &absent, &[("`venue` may be left out there and is required here", false, true)]);
        let defaulted = of(&field("venue", r#""str""#, OPTIONAL));
        check(&venue, &defaulted, &[("`venue` is optional there and required here", true, true)]);
    }

    #[test]
    fn types_differ_by_what_reads_what() {
        for (ours, theirs, text, we_read, they_read) in [
            (r#""f64""#, r#""str""#, "`x` is f64 here and string there", false, false),
            (r#""u64""#, r#""u32""#, "`x` is u64 here and u32 there", true, false),
            (r#""i32""#, r#""u32""#, "`x` is i32 here and u32 there", false, false),
            (r#""i64""#, r#""u32""#, "`x` is i64 here and u32 there", true, false),
            (r#""f32""#, r#""f64""#, "`x` is f32 here and f64 there", false, true),
            (r#"{"option":"u64"}"#, r#""u32""#, "`x` is option<u64> here and u32 there", true, false),
            (r#"{"seq":"str"}"#, r#"{"seq":"bool"}"#, "`x[]` is string here and bool there", false, false),
            (r#"{"map":["str","u8"]}"#, r#"{"map":["str","str"]}"#, "`x{}` is u8 here and string there", false, false),
        ] {
            let (ours, theirs) = (of(&field("x", ours, "")), of(&field("x", theirs, "")));
            check(&ours, &theirs, &[(text, we_read, they_read)]);
        }
    }

    #[test]
    fn a_field_that_was_renamed_is_found_by_its_alias() {
        let (new, old) =
            (of(&field("size", r#""u8""#, r#","aliases":["quantity"]"#)), of(&field("quantity", r#""u8""#, "")));
        check(&new, &old, &[("`size` is called `quantity` there", true, false)]);
        check(&old, &new, &[("`quantity` is called `size` there", false, true)]);
    }

    #[test]
    fn variants_are_read_where_there_is_one_for_all_others() {
        let side = |variants: &str| of(&field("side", &format!(r#"{{"enum":{{"variants":[{variants}]}}}}"#), ""));
        let variant = |name: &str, flags: &str| field(name, r#""unit""#, flags);
        let (one, two) = (side(&variant("Buy", "")), side(&[variant("Buy", ""), variant("Sell", "")].join(",")));
        check(&two, &one, &[("the variant `side.Sell` is only here", true, false)]);
        check(&one, &two, &[("the variant `side.Sell` is only there", false, true)]);
        let other = side(&[variant("Buy", ""), variant("Unknown", r#","other":true"#)].join(","));
        let expected = [
            ("the variant `side.Unknown` is only here", true, true),
            ("the variant `side.Sell` is only there", true, true),
        ];
        check(&other, &two, &expected);
    }

    #[test]
    fn a_schema_becomes_a_record_and_comes_back() {
        const LEG: StructSchema = StructSchema::new(
            "Leg",
            false,
            &[streams_core::schema::Field {
                name: "n",
                aliases: &["m"],
                schema: &Schema::Option(&Schema::Int { bits: 16, signed: true }),
                optional: true,
                may_be_absent: false,
            }],
        );
        let schema = Schema::Tuple(&[&Schema::Struct(&LEG), &Schema::Seq(&Schema::Int { bits: 8, signed: false })]);
        let shape = Shape::from(&schema);
        let text = serde_json::to_string(&shape).unwrap();
        let expected = r#"{"tuple":[{"struct":{"fields":[{"name":"n","aliases":["m"],"type":{"option":"i16"},"optional":true}]}},"bytes"]}"#;
        assert_eq!(text, expected);
        assert_eq!(read(&text), shape);
    }
}
