//! Values made from a schema alone, to test whether its type reads them and writes what the schema describes.

use serde::ser::{self, SerializeMap as _, SerializeTuple as _};
use serde::{Serialize, Serializer};

use super::{EnumSchema, Field, Schema, StructSchema, Tagging};

/// A value of a schema; `pick` chooses among variants and between something and nothing.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) schema: &'static Schema,
    pub(crate) pick: usize,
    /// Whether to write the variants that exist only for unknown ones.
    pub(crate) writes_other: bool,
}

impl Sample {
    fn of(self, schema: &'static Schema) -> Self {
        Self { schema, ..self }
    }

    fn leaves_out(self, field: &Field) -> bool {
        field.may_be_absent && self.pick.is_multiple_of(2)
    }

    fn fields<M: serde::ser::SerializeMap>(self, map: &mut M, schema: &StructSchema) -> Result<(), M::Error> {
        for field in schema.fields {
            if !self.leaves_out(field) {
                map.serialize_entry(field.name, &self.of(field.schema))?;
            }
        }
        Ok(())
    }
}

/// A text of this meaning.
fn text_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "decimal" => "-79228162514264337593543950.335",
        "rfc3339" => "2026-01-02T03:04:05Z",
        "rfc9557" => "2026-01-02T03:04:05+02:00[+02:00]",
        "date-time" => "2026-01-02T03:04:05",
        "date" => "2026-01-02",
        "week-date" => "2026-W01-5",
        "time-of-day" => "03:04:05",
        "iso8601-duration" => "PT1H30M",
        "iso8601-span" => "P1M2DT3H",
        "weekday" => "Fri",
        "month" => "January",
        _ => return None,
    })
}

/// Numbers of this meaning.
fn numbers_of(name: &str) -> Option<&'static [i64]> {
    Some(match name {
        "offset-date-time-parts" => &[2026, 2, 3, 4, 5, 6, -7, -30, 0],
        "utc-date-time-parts" | "date-time-parts" => &[2026, 2, 3, 4, 5, 6],
        "date-parts" => &[2026, 2],
        "time-of-day-parts" => &[3, 4, 5, 6],
        "offset-parts" => &[-7, -30, 0],
        "signed-duration" | "time-delta" => &[7, 5],
        _ => return None,
    })
}

/// A value that only its own type can write, or one that contains itself without end.
fn no_sample<E: ser::Error>() -> E {
    E::custom("no sample of it can be made")
}

/// Whether a value would lead back to the type it is part of.
fn is_recursive(schema: &Schema) -> bool {
    match schema {
        Schema::Ref(_) => true,
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Map(_, inner) => is_recursive(inner),
        Schema::Tuple(members) => members.iter().any(|member| is_recursive(member)),
        _ => false,
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.schema {
            Schema::Unit => to.serialize_unit(),
            Schema::Bool => to.serialize_bool(true),
            Schema::Char => to.serialize_char('é'),
            Schema::Str => to.serialize_str("text"),
            Schema::Bytes => to.serialize_bytes(b"sixteen bytes !!"),
            Schema::Int { bits: 8, signed: false } => to.serialize_u8(u8::MAX),
            Schema::Int { bits, signed: false } => to.serialize_u64(u64::MAX >> (64 - bits)),
            Schema::Int { bits, signed: true } => to.serialize_i64(i64::MIN >> (64 - bits)),
            Schema::F32 => to.serialize_f32(1.5),
            Schema::F64 => to.serialize_f64(-2.25),
            Schema::Option(inner) if self.pick.is_multiple_of(2) || is_recursive(inner) => to.serialize_none(),
            Schema::Option(inner) => to.serialize_some(&self.of(inner)),
            Schema::Seq(inner) => {
                let length = if is_recursive(inner) { 0 } else { self.pick % 2 };
                to.collect_seq(vec![self.of(inner); length].as_slice())
            }
            Schema::Array(inner, length) => {
                let mut tuple = to.serialize_tuple(*length)?;
                for _ in 0..*length {
                    tuple.serialize_element(&self.of(inner))?;
                }
                tuple.end()
            }
            Schema::Map(key, value) => {
                let length = if is_recursive(value) { 0 } else { self.pick % 2 };
                let mut map = to.serialize_map(Some(length))?;
                for _ in 0..length {
                    map.serialize_entry(&self.of(key), &self.of(value))?;
                }
                map.end()
            }
            Schema::Tuple(members) => {
                let mut tuple = to.serialize_tuple(members.len())?;
                for member in *members {
                    tuple.serialize_element(&self.of(member))?;
                }
                tuple.end()
            }
            Schema::Struct(schema) => {
                let absent = schema.fields.iter().filter(|field| self.leaves_out(field)).count();
                let mut map = to.serialize_map(Some(schema.fields.len() - absent))?;
                self.fields(&mut map, schema)?;
                map.end()
            }
            Schema::Enum(schema) => self.variant(schema, to),
            Schema::Logical { name, wire: Schema::Str } => match text_of(name) {
                Some(text) => to.serialize_str(text),
                None => Err(no_sample()),
            },
            Schema::Logical { name, wire: wire @ Schema::Tuple(_) } => match numbers_of(name) {
                Some(numbers) => numbers.serialize(to),
                None => self.of(wire).serialize(to),
            },
            Schema::Logical { name: "weekday-number" | "month-number", .. } => to.serialize_u8(7),
            Schema::Logical { name: "duration" | "time", wire: Schema::Struct(schema) } => {
                let mut map = to.serialize_map(Some(2))?;
                map.serialize_entry(schema.fields[0].name, &7_u64)?;
                map.serialize_entry(schema.fields[1].name, &5_u32)?;
                map.end()
            }
            Schema::Logical { wire, .. } => self.of(wire).serialize(to),
            Schema::Opaque(_) | Schema::Ref(_) => Err(no_sample()),
        }
    }
}

impl Sample {
    fn variant<S: Serializer>(self, schema: &'static EnumSchema, to: S) -> Result<S::Ok, S::Error> {
        let variants: Vec<_> =
            schema.variants.iter().filter(|variant| self.writes_other || !variant.catch_all).collect();
        let Some(variant) = variants.get(self.pick % variants.len().max(1)) else { return Err(no_sample()) };
        let body = self.of(variant.body);
        match (schema.tagging, variant.body) {
            (Tagging::External, Schema::Unit) => to.serialize_str(variant.name),
            (Tagging::External, _) => {
                let mut map = to.serialize_map(Some(1))?;
                map.serialize_entry(variant.name, &body)?;
                map.end()
            }
            (Tagging::Internal(tag), Schema::Struct(inner)) => {
                let mut map = to.serialize_map(Some(1 + inner.fields.len()))?;
                map.serialize_entry(tag, variant.name)?;
                body.fields(&mut map, inner)?;
                map.end()
            }
            (Tagging::Internal(tag) | Tagging::Adjacent(tag, _), Schema::Unit) => {
                let mut map = to.serialize_map(Some(1))?;
                map.serialize_entry(tag, variant.name)?;
                map.end()
            }
            (Tagging::Internal(_), _) => Err(no_sample()),
            (Tagging::Adjacent(tag, content), _) => {
                let mut map = to.serialize_map(Some(2))?;
                map.serialize_entry(tag, variant.name)?;
                map.serialize_entry(content, &body)?;
                map.end()
            }
        }
    }
}
