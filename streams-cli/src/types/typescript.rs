//! Interfaces in TypeScript of payloads as a MessagePack library decodes them.

use std::fmt::Write as _;

use streams_core::schema::lock::LockedEvent;
use streams_core::schema::{EnumSchema, Layout, Schema, StructSchema, Tagging, Variant, is_byte};

use super::{Names, event_type, identifier, is_inline, remark};

const HEADER: &str = "\
// Written by `streams schema types --lang typescript`. Do not edit it: write it again when a lock changes.
// The types are those of decoded MessagePack, such as by @msgpack/msgpack. A u64 or i64 is a bigint where that library is
// told so (`useBigInt64: true`), and a number otherwise.
";

pub(super) fn write(events: &[LockedEvent]) -> String {
    let mut typescript = Typescript { names: Names::default(), layout: Layout::Map, text: HEADER.to_owned() };
    // Before the types inside them, which have to give way.
    let names: Vec<_> = events.iter().map(|event| typescript.names.free(event_type(event))).collect();
    for (event, name) in events.iter().zip(&names) {
        typescript.event(event, name);
    }
    typescript.text
}

struct Typescript {
    names: Names,
    layout: Layout,
    text: String,
}

impl Typescript {
    fn event(&mut self, event: &LockedEvent, type_name: &str) {
        self.layout = event.layout;
        let LockedEvent { stream, name, version, schema, .. } = event;
        let declared = match schema {
            Schema::Struct(inner) => {
                self.names.around.push((inner.name, type_name.to_owned()));
                let declared = self.structure(inner, type_name);
                self.names.around.pop();
                declared
            }
            schema => format!("export type {type_name} = {};\n", self.of(schema)),
        };
        let _ = write!(
            self.text,
            "\n/** Version {version} of the event `{name}` on the stream `{stream}`. */\n{declared}\n\
             /** Where it goes, and the field `event` of its entries. */\n\
             export const {type_name} = {{ stream: {}, event: {} }} as const;\n",
            quoted(stream),
            quoted(&format!("{name}@{version}"))
        );
    }

    /// The declaration of a struct.
    fn structure(&mut self, schema: &'static StructSchema, name: &str) -> String {
        if self.layout == Layout::Array {
            return format!("export type {name} = {};\n", self.fields(schema, None));
        }
        let mut lines = format!("export interface {name} {{\n");
        for field in schema.fields {
            if let Some(remark) = remark(field.schema) {
                let _ = writeln!(lines, "  /** {remark} */");
            }
            let mark = if field.optional { "?" } else { "" };
            let _ = writeln!(lines, "  {}{mark}: {};", property(field.name), self.of(field.schema));
        }
        lines + "}\n"
    }

    /// The fields of a struct as a type in one line, behind the member for a tag.
    fn fields(&mut self, schema: &'static StructSchema, tag: Option<(&str, &str)>) -> String {
        if self.layout == Layout::Array {
            let tag = tag.map(|(label, name)| format!("{}: {}", tuple_label(label), quoted(name)));
            let fields =
                schema.fields.iter().map(|field| format!("{}: {}", tuple_label(field.name), self.of(field.schema)));
            return format!("[{}]", tag.into_iter().chain(fields).collect::<Vec<_>>().join(", "));
        }
        let tag = tag.map(|(label, name)| format!("{}: {}", property(label), quoted(name)));
        let fields = schema.fields.iter().map(|field| {
            let mark = if field.optional { "?" } else { "" };
            format!("{}{mark}: {}", property(field.name), self.of(field.schema))
        });
        object(&tag.into_iter().chain(fields).collect::<Vec<_>>())
    }

    /// The name of a struct or an enum, which is declared the first time.
    fn named(&mut self, rust_name: &'static str, schema: &'static Schema) -> String {
        let (name, is_new) = self.names.of(rust_name, schema, self.layout);
        if is_new {
            self.names.around.push((rust_name, name.clone()));
            let declared = match schema {
                Schema::Struct(inner) => self.structure(inner, &name),
                Schema::Enum(inner) => self.enumeration(inner, &name),
                _ => String::new(),
            };
            self.names.around.pop();
            let _ = write!(self.text, "\n{declared}");
        }
        name
    }

    fn enumeration(&mut self, schema: &'static EnumSchema, name: &str) -> String {
        let variants: Vec<_> =
            schema.variants.iter().map(|variant| format!("\n  | {}", self.variant(schema.tagging, variant))).collect();
        let other = schema.variants.iter().find(|variant| variant.catch_all);
        let other = other.map(|other| format!("/** Consumers read any other name as `{}`. */\n", other.name));
        format!("{}export type {name} ={};\n", other.unwrap_or_default(), variants.concat())
    }

    fn variant(&mut self, tagging: Tagging, variant: &'static Variant) -> String {
        let name = quoted(variant.name);
        match (tagging, variant.body) {
            (Tagging::External, Schema::Unit) => name,
            (Tagging::External, body) => object(&[format!("{}: {}", property(variant.name), self.body(body))]),
            (Tagging::Internal(_), Schema::Unit) if self.layout == Layout::Array => format!("[{name}]"),
            (Tagging::Internal(tag) | Tagging::Adjacent(tag, _), Schema::Unit) => {
                object(&[format!("{}: {name}", property(tag))])
            }
            (Tagging::Internal(tag), Schema::Struct(inner)) if is_inline(inner.name) => {
                self.fields(inner, Some((tag, variant.name)))
            }
            // serde writes these among the names of a map in either layout.
            (Tagging::Internal(tag), Schema::Map(_, value)) => {
                object(&[format!("{}: {name}", property(tag)), format!("[name: string]: {name} | {}", self.of(value))])
            }
            (Tagging::Internal(tag), Schema::Enum(EnumSchema { tagging: Tagging::External, .. })) => {
                object(&[format!("{}: {name}", property(tag)), "[name: string]: unknown".to_owned()])
            }
            (Tagging::Internal(_), body) if self.layout == Layout::Array => format!("[{name}, ...{}]", self.of(body)),
            (Tagging::Internal(tag), body) => {
                format!("({} & {})", object(&[format!("{}: {name}", property(tag))]), self.of(body))
            }
            (Tagging::Adjacent(tag, content), body) => {
                object(&[format!("{}: {name}", property(tag)), format!("{}: {}", property(content), self.body(body))])
            }
        }
    }

    /// The content of a variant.
    fn body(&mut self, body: &'static Schema) -> String {
        match body {
            Schema::Struct(inner) if is_inline(inner.name) => self.fields(inner, None),
            _ => self.of(body),
        }
    }

    fn of(&mut self, schema: &'static Schema) -> String {
        match schema {
            Schema::Unit => "null".to_owned(),
            Schema::Bool => "boolean".to_owned(),
            Schema::Char | Schema::Str => "string".to_owned(),
            Schema::Bytes => "Uint8Array".to_owned(),
            Schema::Int { bits: 64, .. } => "number | bigint".to_owned(),
            Schema::Int { .. } | Schema::F32 | Schema::F64 => "number".to_owned(),
            Schema::Option(some) => format!("{} | null", self.of(some)),
            // The Rust type decides which it is.
            Schema::Seq(item) | Schema::Array(item, _) if is_byte(item) => "Uint8Array | number[]".to_owned(),
            Schema::Seq(item) | Schema::Array(item, _) => format!("Array<{}>", self.of(item)),
            Schema::Map(key, value) => match key {
                Schema::Str | Schema::Char => format!("Record<string, {}>", self.of(value)),
                Schema::Int { .. } => format!("Record<number, {}>", self.of(value)),
                _ => format!("Map<{}, {}>", self.of(key), self.of(value)),
            },
            Schema::Tuple(members) => {
                let members: Vec<_> = members.iter().map(|member| self.of(member)).collect();
                format!("[{}]", members.join(", "))
            }
            Schema::Struct(inner) => self.named(inner.name, schema),
            Schema::Enum(inner) => self.named(inner.name, schema),
            Schema::Logical { wire, .. } => self.of(wire),
            Schema::Ref(name) => self.names.enclosing(name).unwrap_or("unknown").to_owned(),
            // A form that the user vouches for is any.
            _ => "unknown".to_owned(),
        }
    }
}

/// Words that cannot name a member of a tuple.
const RESERVED: &[&str] = &[
    "break",
    "case",
    "catch",
    "class",
    "const",
    "continue",
    "debugger",
    "default",
    "delete",
    "do",
    "else",
    "enum",
    "export",
    "extends",
    "false",
    "finally",
    "for",
    "function",
    "if",
    "import",
    "in",
    "instanceof",
    "new",
    "null",
    "return",
    "super",
    "switch",
    "this",
    "throw",
    "true",
    "try",
    "typeof",
    "var",
    "void",
    "while",
    "with",
];

fn tuple_label(name: &str) -> String {
    let label = identifier(name);
    if RESERVED.contains(&label.as_str()) { label + "_" } else { label }
}

fn object(members: &[String]) -> String {
    if members.is_empty() { "Record<string, never>".to_owned() } else { format!("{{ {} }}", members.join("; ")) }
}

/// The name of a property: in quotes where it is no identifier.
fn property(name: &str) -> String {
    if identifier(name) == name && !name.is_empty() { name.to_owned() } else { quoted(name) }
}

/// A text as a literal: JSON's are JavaScript's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
