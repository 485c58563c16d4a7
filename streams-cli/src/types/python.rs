//! Dataclasses in Python, with functions from and to the bytes of a payload.

use std::fmt::Write as _;

use streams_core::schema::lock::LockedEvent;
use streams_core::schema::{EnumSchema, Field, Layout, Schema, StructSchema, Tagging, Variant, is_byte};

use super::{Names, event_type, identifier, is_inline, is_text, pascal, remark};

/// Names that a field cannot have: keywords, and what a class has besides its fields.
const RESERVED: &[&str] = &[
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "STREAM",
    "EVENT",
    "to_wire",
    "from_wire",
    "to_bytes",
    "from_bytes",
];

const HEADER: &str = "\
# Written by `streams schema types --lang python`. Do not edit it: write it again when a lock changes.
# It needs Python 3.10 and the package msgpack.
from __future__ import annotations

import dataclasses
import decimal
import ipaddress
import typing
import uuid

import msgpack


def _fields(wire, names, aliases={}):
    \"\"\"The fields of a struct by name, from a map or from an array.\"\"\"
    if isinstance(wire, (list, tuple)):
        return dict(zip(names, wire))
    return {aliases.get(name, name): value for name, value in wire.items()}


def _variant(wire):
    \"\"\"The name and the content of a variant.\"\"\"
    if isinstance(wire, str):
        return wire, None
    ((name, body),) = wire.items()
    return name, body


def _tagged(wire, tag):
    \"\"\"The name and the content of a variant whose name stands among its fields.\"\"\"
    if isinstance(wire, (list, tuple)):
        return wire[0], wire[1:]
    return wire[tag], {name: value for name, value in wire.items() if name != tag}
";

pub(super) fn write(events: &[LockedEvent]) -> String {
    let mut python = Python { names: Names::default(), layout: Layout::Map, text: HEADER.to_owned() };
    // Before the types inside them, which have to give way.
    let names: Vec<_> = events.iter().map(|event| python.names.free(event_type(event))).collect();
    for (event, name) in events.iter().zip(&names) {
        python.event(event, name);
    }
    python.text
}

struct Python {
    names: Names,
    layout: Layout,
    text: String,
}

/// A field as an attribute of a class.
struct Attribute {
    name: String,
    field: &'static Field,
    /// Whether it may be left out.
    optional: bool,
}

impl Python {
    fn event(&mut self, event: &LockedEvent, class: &str) {
        self.layout = event.layout;
        let LockedEvent { stream, name, version, .. } = event;
        let of_event = format!(
            "    \"\"\"Version {version} of the event `{name}` on the stream `{stream}`.\"\"\"\n\n    \
             STREAM: typing.ClassVar[str] = {}\n    EVENT: typing.ClassVar[str] = {}\n",
            quoted(stream),
            quoted(&format!("{name}@{version}"))
        );
        let bytes = format!(
            "\n    def to_bytes(self) -> bytes:\n        return msgpack.packb(self.to_wire())\n\n    \
             @classmethod\n    def from_bytes(cls, payload: bytes) -> {class}:\n        \
             return cls.from_wire(msgpack.unpackb(payload, strict_map_key=False))\n"
        );
        match event.schema {
            Schema::Struct(schema) => {
                self.names.around.push((schema.name, class.to_owned()));
                let body = self.structure(schema, class);
                self.names.around.pop();
                self.class(class, &(of_event + &body + &bytes));
            }
            schema => {
                let (annotation, to, from) =
                    (self.annotation(schema), self.written(schema, "self.value"), self.read(schema, "wire"));
                let value = format!(
                    "    value: {annotation}\n\n    def to_wire(self):\n        return {to}\n\n    \
                     @classmethod\n    def from_wire(cls, wire) -> {class}:\n        return cls(value={from})\n"
                );
                self.class(class, &(of_event + &value + &bytes));
            }
        }
    }

    fn class(&mut self, name: &str, body: &str) {
        let _ = write!(self.text, "\n\n@dataclasses.dataclass(kw_only=True)\nclass {name}:\n{body}");
    }

    fn attributes(&self, schema: &'static StructSchema) -> Vec<Attribute> {
        let mut taken: Vec<String> = RESERVED.iter().map(|&word| word.to_owned()).collect();
        let attribute = |field: &'static Field| {
            let mut name = identifier(field.name);
            while taken.contains(&name) {
                name.push('_');
            }
            taken.push(name.clone());
            // In an array every value has its place.
            Attribute { name, field, optional: field.optional && self.layout == Layout::Map }
        };
        schema.fields.iter().map(attribute).collect()
    }

    /// The lines that declare the fields.
    fn declarations(&mut self, attributes: &[Attribute]) -> String {
        let mut lines = String::new();
        for Attribute { name, field, optional } in attributes {
            let mut annotation = self.annotation(field.schema);
            let is_option = matches!(field.schema, Schema::Option(_));
            if *optional && !is_option {
                annotation.push_str(" | None");
            }
            let default = if *optional || is_option { " = None" } else { "" };
            let remark = remark(field.schema).map(|remark| format!("  # {remark}")).unwrap_or_default();
            let _ = writeln!(lines, "    {name}: {annotation}{default}{remark}");
        }
        lines
    }

    /// The statements that make `wire` of the attributes.
    fn written_fields(&mut self, attributes: &[Attribute]) -> String {
        let value = |this: &mut Self, attribute: &Attribute| {
            this.written(attribute.field.schema, &format!("self.{}", attribute.name))
        };
        if self.layout == Layout::Array {
            let values: Vec<_> = attributes.iter().map(|attribute| value(self, attribute)).collect();
            return format!("        wire = [{}]\n", values.join(", "));
        }
        let pairs: Vec<_> = attributes
            .iter()
            .filter(|attribute| !attribute.optional)
            .map(|attribute| format!("{}: {}", quoted(attribute.field.name), value(self, attribute)))
            .collect();
        let mut lines = format!("        wire = {{{}}}\n", pairs.join(", "));
        for attribute in attributes.iter().filter(|attribute| attribute.optional) {
            let (name, field) = (&attribute.name, attribute.field);
            let some = if let Schema::Option(some) = field.schema { some } else { field.schema };
            let value = self.written(some, &format!("self.{name}"));
            let _ = writeln!(
                lines,
                "        if self.{name} is not None:\n            wire[{}] = {value}",
                quoted(field.name)
            );
        }
        lines
    }

    /// The call that makes an object of `wire`.
    fn read_fields(&mut self, schema: &'static StructSchema, attributes: &[Attribute]) -> String {
        let names: String = schema.fields.iter().map(|field| quoted(field.name) + ", ").collect();
        let aliases: Vec<_> = schema
            .fields
            .iter()
            .flat_map(|field| field.aliases.iter().map(|alias| format!("{}: {}", quoted(alias), quoted(field.name))))
            .collect();
        let aliases = if aliases.is_empty() { String::new() } else { format!(", {{{}}}", aliases.join(", ")) };
        let mut lines = format!("        fields = _fields(wire, ({names}){aliases})\n        return cls(\n");
        for Attribute { name, field, optional } in attributes {
            let place = format!("fields[{}]", quoted(field.name));
            let some = if let Schema::Option(some) = field.schema { some } else { field.schema };
            let value = if *optional {
                let value = self.read(some, &place);
                format!("None if fields.get({}) is None else {value}", quoted(field.name))
            } else {
                self.read(field.schema, &place)
            };
            let _ = writeln!(lines, "            {name}={value},");
        }
        lines + "        )\n"
    }

    /// The body of a class for a struct.
    fn structure(&mut self, schema: &'static StructSchema, class: &str) -> String {
        let attributes = self.attributes(schema);
        let (declared, to, from) =
            (self.declarations(&attributes), self.written_fields(&attributes), self.read_fields(schema, &attributes));
        format!(
            "{declared}\n    def to_wire(self):\n{to}        return wire\n\n    \
             @classmethod\n    def from_wire(cls, wire) -> {class}:\n{from}"
        )
    }

    /// The name of a struct or an enum, whose class is written the first time.
    fn named(&mut self, rust_name: &'static str, schema: &'static Schema) -> String {
        let (name, is_new) = self.names.of(rust_name, schema, self.layout);
        if is_new {
            self.names.around.push((rust_name, name.clone()));
            match schema {
                Schema::Struct(inner) => {
                    let body = self.structure(inner, &name);
                    self.class(&name, &body);
                }
                Schema::Enum(inner) if is_text(schema) => self.text_enum(inner, &name),
                Schema::Enum(inner) => self.enumeration(inner, &name),
                _ => {}
            }
            self.names.around.pop();
        }
        name
    }

    /// The type of variants that are names alone.
    fn text_enum(&mut self, schema: &'static EnumSchema, name: &str) {
        let names: Vec<_> = schema.variants.iter().map(|variant| quoted(variant.name)).collect();
        let any = if schema.variants.iter().any(|variant| variant.catch_all) { ", str" } else { "" };
        let _ = write!(self.text, "\n\n{name} = typing.Union[typing.Literal[{}]{any}]\n", names.join(", "));
    }

    fn enumeration(&mut self, schema: &'static EnumSchema, name: &str) {
        let classes: Vec<_> = schema
            .variants
            .iter()
            .map(|variant| {
                let class = self.names.free(format!("{name}{}", pascal(variant.name)));
                self.variant(schema.tagging, variant, &class);
                class
            })
            .collect();
        let quoted_classes: Vec<_> = classes.iter().map(|class| quoted(class)).collect();
        let _ = write!(self.text, "\n\n{name} = typing.Union[{}]\n", quoted_classes.join(", "));
        let read = match schema.tagging {
            Tagging::External => "_variant(wire)".to_owned(),
            Tagging::Internal(tag) => format!("_tagged(wire, {})", quoted(tag)),
            Tagging::Adjacent(tag, content) => format!("wire[{}], wire.get({})", quoted(tag), quoted(content)),
        };
        let _ = write!(self.text, "\n\ndef _{name}(wire) -> {name}:\n    name, body = {read}\n");
        for (variant, class) in schema.variants.iter().zip(&classes) {
            let names: Vec<_> = [variant.name].iter().chain(variant.aliases).map(|name| quoted(name)).collect();
            let _ =
                writeln!(self.text, "    if name in ({},):\n        return {class}.from_wire(body)", names.join(", "));
        }
        let _ = match schema.variants.iter().zip(&classes).find(|(variant, _)| variant.catch_all) {
            Some((_, class)) => writeln!(self.text, "    return {class}()"),
            None => writeln!(self.text, "    raise ValueError(f\"{name} has no variant {{name!r}}\")"),
        };
    }

    /// The class of a variant. `to_wire` writes it with its name, and `from_wire` reads its content.
    fn variant(&mut self, tagging: Tagging, variant: &'static Variant, class: &str) {
        let name = quoted(variant.name);
        let (declared, to, from, body) = match variant.body {
            Schema::Unit => {
                (String::new(), "        wire = None\n".to_owned(), "        return cls()\n".to_owned(), None)
            }
            Schema::Struct(inner) if is_inline(inner.name) => {
                self.names.around.push((inner.name, String::new()));
                let attributes = self.attributes(inner);
                let parts = (
                    self.declarations(&attributes),
                    self.written_fields(&attributes),
                    self.read_fields(inner, &attributes),
                );
                self.names.around.pop();
                (parts.0, parts.1, parts.2, Some(()))
            }
            body => {
                // It is written among the fields of the tag, in its own form.
                let as_is = matches!((tagging, body), (Tagging::Internal(_), Schema::Enum(inner)) if inner.tagging == Tagging::External);
                let annotation = if as_is { "typing.Any".to_owned() } else { self.annotation(body) };
                let to = if as_is { "self.value".to_owned() } else { self.written(body, "self.value") };
                let from = if as_is { "wire".to_owned() } else { self.read(body, "wire") };
                (
                    format!("    value: {annotation}\n"),
                    format!("        wire = {to}\n"),
                    format!("        return cls(value={from})\n"),
                    Some(()),
                )
            }
        };
        // serde writes these among the names of a map in either layout.
        let is_map =
            matches!(variant.body, Schema::Map(..) | Schema::Enum(EnumSchema { tagging: Tagging::External, .. }));
        let wire = match (tagging, body, if is_map { Layout::Map } else { self.layout }) {
            (Tagging::External, None, _) => name,
            (Tagging::External, Some(()), _) => format!("{{{name}: wire}}"),
            (Tagging::Internal(_), None, Layout::Array) => format!("[{name}]"),
            (Tagging::Internal(_), Some(()), Layout::Array) => format!("[{name}, *wire]"),
            (Tagging::Internal(tag), None, Layout::Map) | (Tagging::Adjacent(tag, _), None, _) => {
                format!("{{{}: {name}}}", quoted(tag))
            }
            (Tagging::Internal(tag), Some(()), Layout::Map) => format!("{{{}: {name}, **wire}}", quoted(tag)),
            (Tagging::Adjacent(tag, content), Some(()), _) => {
                format!("{{{}: {name}, {}: wire}}", quoted(tag), quoted(content))
            }
        };
        let body = format!(
            "{declared}\n    def to_wire(self):\n{to}        return {wire}\n\n    \
             @classmethod\n    def from_wire(cls, wire) -> {class}:\n{from}"
        );
        self.class(class, body.trim_start_matches('\n'));
    }

    /// The type of a value.
    fn annotation(&mut self, schema: &'static Schema) -> String {
        match schema {
            Schema::Unit => "None".to_owned(),
            Schema::Bool => "bool".to_owned(),
            Schema::Char | Schema::Str => "str".to_owned(),
            Schema::Bytes => "bytes".to_owned(),
            Schema::Int { .. } => "int".to_owned(),
            Schema::F32 | Schema::F64 => "float".to_owned(),
            Schema::Option(some) => format!("{} | None", self.annotation(some)),
            Schema::Seq(item) | Schema::Array(item, _) if is_byte(item) => "bytes".to_owned(),
            Schema::Seq(item) | Schema::Array(item, _) => format!("list[{}]", self.annotation(item)),
            Schema::Map(key, value) => format!("dict[{}, {}]", self.annotation(key), self.annotation(value)),
            Schema::Tuple([]) => "tuple[()]".to_owned(),
            Schema::Tuple(members) => {
                let members: Vec<_> = members.iter().map(|member| self.annotation(member)).collect();
                format!("tuple[{}]", members.join(", "))
            }
            Schema::Struct(inner) => self.named(inner.name, schema),
            Schema::Enum(inner) => self.named(inner.name, schema),
            Schema::Logical { name: "uuid", .. } => "uuid.UUID".to_owned(),
            Schema::Logical { name: "decimal", .. } => "decimal.Decimal".to_owned(),
            Schema::Logical { name: "ipv4", .. } => "ipaddress.IPv4Address".to_owned(),
            Schema::Logical { name: "ipv6", .. } => "ipaddress.IPv6Address".to_owned(),
            Schema::Logical { wire, .. } => self.annotation(wire),
            Schema::Ref(name) => self.names.enclosing(name).unwrap_or("typing.Any").to_owned(),
            // A form that the user vouches for is any.
            _ => "typing.Any".to_owned(),
        }
    }

    /// The expression of a value on the wire.
    fn written(&mut self, schema: &'static Schema, value: &str) -> String {
        match schema {
            Schema::F32 | Schema::F64 => format!("float({value})"),
            Schema::Option(some) => {
                let inner = self.written(some, value);
                if inner == value { inner } else { format!("(None if {value} is None else {inner})") }
            }
            Schema::Seq(item) | Schema::Array(item, _) if is_byte(item) => format!("bytes({value})"),
            Schema::Seq(item) | Schema::Array(item, _) => format!("[{} for x in {value}]", self.written(item, "x")),
            Schema::Map(key, item) => {
                format!("{{{}: {} for k, x in {value}.items()}}", self.written(key, "k"), self.written(item, "x"))
            }
            Schema::Tuple(members) => {
                let member =
                    |(index, member): (usize, &&'static Schema)| self.written(member, &format!("{value}[{index}]"));
                format!("[{}]", members.iter().enumerate().map(member).collect::<Vec<_>>().join(", "))
            }
            Schema::Enum(_) if is_text(schema) => value.to_owned(),
            Schema::Struct(_) | Schema::Enum(_) => format!("{value}.to_wire()"),
            Schema::Ref(name) if self.names.enclosing(name).is_some() => format!("{value}.to_wire()"),
            Schema::Logical { name: "uuid", .. } => format!("{value}.bytes"),
            // Its own text may have an exponent.
            Schema::Logical { name: "decimal", .. } => format!("format({value}, \"f\")"),
            Schema::Logical { name: "ipv4" | "ipv6", .. } => format!("{value}.packed"),
            Schema::Logical { wire, .. } => self.written(wire, value),
            _ => value.to_owned(),
        }
    }

    /// The expression of a value from the wire.
    fn read(&mut self, schema: &'static Schema, value: &str) -> String {
        match schema {
            Schema::Option(some) => {
                let inner = self.read(some, value);
                if inner == value { inner } else { format!("(None if {value} is None else {inner})") }
            }
            Schema::Seq(item) | Schema::Array(item, _) if is_byte(item) => format!("bytes({value})"),
            Schema::Seq(item) | Schema::Array(item, _) => format!("[{} for x in {value}]", self.read(item, "x")),
            Schema::Map(key, item) => {
                format!("{{{}: {} for k, x in {value}.items()}}", self.read(key, "k"), self.read(item, "x"))
            }
            Schema::Tuple(members) => {
                let member =
                    |(index, member): (usize, &&'static Schema)| self.read(member, &format!("{value}[{index}]")) + ",";
                format!("({})", members.iter().enumerate().map(member).collect::<Vec<_>>().join(" "))
            }
            Schema::Struct(inner) => format!("{}.from_wire({value})", self.named(inner.name, schema)),
            Schema::Enum(_) if is_text(schema) => value.to_owned(),
            Schema::Enum(inner) => format!("_{}({value})", self.named(inner.name, schema)),
            Schema::Ref(name) => match self.names.enclosing(name) {
                Some(class) if self.is_enum(class) => format!("_{class}({value})"),
                Some(class) => format!("{class}.from_wire({value})"),
                None => value.to_owned(),
            },
            Schema::Logical { name: "uuid", .. } => format!("uuid.UUID(bytes={value})"),
            Schema::Logical { name: "decimal", .. } => format!("decimal.Decimal({value})"),
            Schema::Logical { name: "ipv4", .. } => format!("ipaddress.IPv4Address(bytes({value}))"),
            Schema::Logical { name: "ipv6", .. } => format!("ipaddress.IPv6Address(bytes({value}))"),
            Schema::Logical { wire, .. } => self.read(wire, value),
            _ => value.to_owned(),
        }
    }

    fn is_enum(&self, class: &str) -> bool {
        self.names.known.iter().any(|known| known.name == class && matches!(known.schema, Schema::Enum(_)))
    }
}

/// A text as a literal: JSON's are Python's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
