//! Shapes as JSON Schema, draft 2020-12, for documentation and for programs in other languages.
//!
//! A JSON Schema describes JSON, and payloads are MessagePack. Bytes stand as base64 text, and keys of maps as text. Every
//! keyword here means the same in draft 7, where `prefixItems` is unknown and without effect.

use serde_json::{Map, Value, json};

use super::{DECIMAL, EnumSchema, Field, ITSELF, Layout, Schema, StructSchema, Tagging, Variant, holds_refs, is_byte};

/// The JSON Schema of a shape, with the named types inside it under `$defs`.
///
/// It describes the payloads that publishers may write: a field that consumers can do without is not required. Doc
/// comments are descriptions.
///
/// ```
/// use streams_core::StreamEvent as _;
/// use streams_core::schema::json_schema;
///
/// /// One fill on the exchange.
/// #[streams_core::stream_event(stream = "trades", lock = false)]
/// struct Trade { symbol: String, note: Option<String> }
///
/// let schema = json_schema(Trade::INFO.schema, Trade::INFO.layout);
/// assert_eq!(schema["description"], "One fill on the exchange.");
/// assert_eq!(schema["required"], serde_json::json!(["symbol"]));
/// ```
pub fn json_schema(schema: &'static Schema, layout: Layout) -> Value {
    let mut definitions = Definitions::new("#/$defs/");
    definitions.layout = layout;
    let mut root = definitions.named("#".to_owned(), schema);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    let defined = definitions.finish();
    if !defined.is_empty() {
        root["$defs"] = Value::Object(defined);
    }
    root
}

/// The JSON Schemas of many shapes, each named type once. They refer to each other below one place of a document.
#[derive(Debug)]
pub struct Definitions {
    /// The beginning of a reference, such as `#/components/schemas/`.
    place: &'static str,
    layout: Layout,
    /// Types that have a name, in the order in which they were met.
    known: Vec<Known>,
    defined: Map<String, Value>,
    /// The named types around the present one, from outside, with their references.
    around: Vec<(&'static str, String)>,
}

/// A type that has a name already.
#[derive(Debug)]
struct Known {
    schema: &'static Schema,
    layout: Layout,
    /// The types around it, where it leads back to one of them.
    around: Vec<(&'static str, String)>,
    name: String,
}

impl Definitions {
    /// No schemas yet; `place` begins each reference, such as `#/components/schemas/`.
    pub fn new(place: &'static str) -> Self {
        Self { place, layout: Layout::Map, known: Vec::new(), defined: Map::new(), around: Vec::new() }
    }

    /// Adds a shape under this name, and answers the reference to it. Characters that a name in a document cannot have
    /// become `_`.
    pub fn add(&mut self, name: &str, schema: &'static Schema, layout: Layout) -> Value {
        self.layout = layout;
        let name = self.free(name);
        let reference = format!("{}{name}", self.place);
        let value = self.named(reference.clone(), schema);
        self.defined.insert(name, value);
        json!({ "$ref": reference })
    }

    /// All schemas by name.
    pub fn finish(self) -> Map<String, Value> {
        self.defined
    }

    /// A name that no other schema has.
    fn free(&mut self, name: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.defined.contains_key(name));
        let free = free.unwrap_or(name);
        self.defined.insert(free.clone(), Value::Null);
        free
    }

    /// The schema of a shape to which types inside it may lead back by this reference.
    fn named(&mut self, reference: String, schema: &'static Schema) -> Value {
        match schema {
            Schema::Struct(inner) => self.inside(inner.name, reference, |this| this.structure(inner, inner.doc)),
            Schema::Enum(inner) => self.inside(inner.name, reference, |this| this.enumeration(inner)),
            _ => self.of(schema),
        }
    }

    fn inside<T>(&mut self, name: &'static str, reference: String, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.around.push((name, reference));
        let walked = walk(self);
        self.around.pop();
        walked
    }

    /// The reference to a named type, which is defined the first time.
    fn reference(&mut self, type_name: &str, schema: &'static Schema) -> String {
        let around = if holds_refs(schema) { self.around.clone() } else { Vec::new() };
        let layout = if is_text(schema) { Layout::Map } else { self.layout };
        let is_it = |known: &&Known| known.schema == schema && known.layout == layout && known.around == around;
        if let Some(known) = self.known.iter().find(is_it) {
            return format!("{}{}", self.place, known.name);
        }
        let name = self.free(type_name);
        let reference = format!("{}{name}", self.place);
        self.known.push(Known { schema, layout, around, name: name.clone() });
        let value = self.named(reference.clone(), schema);
        self.defined.insert(name, value);
        reference
    }

    fn of(&mut self, schema: &'static Schema) -> Value {
        match schema {
            Schema::Unit => json!({ "type": "null" }),
            Schema::Bool => json!({ "type": "boolean" }),
            Schema::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
            Schema::Str => json!({ "type": "string" }),
            Schema::Bytes => bytes(None),
            Schema::Int { bits, signed: false } => {
                json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX >> (64 - bits) })
            }
            Schema::Int { bits, signed: true } => {
                json!({ "type": "integer", "minimum": i64::MIN >> (64 - bits), "maximum": i64::MAX >> (64 - bits) })
            }
            Schema::F32 | Schema::F64 => json!({ "type": "number" }),
            Schema::Option(some) => nullable(self.of(some)),
            Schema::Seq(item) => or_bytes(is_byte(item), json!({ "type": "array", "items": self.of(item) }), None),
            Schema::Array(item, length) => {
                let mut list = json!({ "type": "array", "items": self.of(item) });
                set_length(&mut list, *length);
                or_bytes(is_byte(item), list, Some(*length))
            }
            Schema::Map(key, value) => self.map(key, value),
            Schema::Tuple(members) => {
                let all_bytes = !members.is_empty() && members.iter().all(|member| is_byte(member));
                let list = tuple(members.iter().map(|member| self.of(member)).collect());
                or_bytes(all_bytes, list, Some(members.len()))
            }
            Schema::Struct(inner) => json!({ "$ref": self.reference(inner.name, schema) }),
            Schema::Enum(inner) => json!({ "$ref": self.reference(inner.name, schema) }),
            Schema::Logical { name: "uuid", .. } => commented(bytes(Some(16)), "a UUID"),
            Schema::Logical { name: "rfc3339", .. } => json!({ "type": "string", "format": "date-time" }),
            Schema::Logical { name: "date", .. } => json!({ "type": "string", "format": "date" }),
            Schema::Logical { name: DECIMAL, .. } => {
                commented(json!({ "type": "string", "pattern": "^-?[0-9]+([.][0-9]+)?$" }), "a decimal number")
            }
            Schema::Logical { name: name @ "nonzero", wire } => {
                let mut number = commented(self.of(wire), name);
                number["not"] = json!({ "const": 0 });
                number
            }
            // A time or a duration in seconds and nanoseconds: its fields say so.
            Schema::Logical { wire: Schema::Struct(inner), .. } => self.structure(inner, inner.doc),
            Schema::Logical { name, wire } => commented(self.of(wire), name),
            Schema::Opaque(tag) => json!({ "$comment": tag }),
            Schema::Ref(name) => {
                // A variant with fields is no named type.
                let leads_to = |around: &str| if *name == ITSELF { !around.contains("::") } else { around == *name };
                let found = self.around.iter().rev().find(|(around, _)| leads_to(around));
                found.map_or_else(|| json!({}), |(_, reference)| json!({ "$ref": reference }))
            }
        }
    }

    /// A map. JSON has only text as keys, so keys of another form are described by their text.
    fn map(&mut self, key: &'static Schema, value: &'static Schema) -> Value {
        let mut map = json!({ "type": "object", "additionalProperties": self.of(value) });
        match key {
            Schema::Str => {}
            Schema::Int { signed, .. } => {
                map["propertyNames"] = json!({ "pattern": if *signed { "^-?[0-9]+$" } else { "^[0-9]+$" } });
            }
            Schema::Char => map["propertyNames"] = self.of(key),
            Schema::Enum(inner) if inner.variants.iter().all(|variant| matches!(variant.body, Schema::Unit)) => {
                map["propertyNames"] = self.of(key);
            }
            _ => map = commented(map, "keys as text"),
        }
        map
    }

    fn structure(&mut self, schema: &'static StructSchema, doc: &str) -> Value {
        if self.layout == Layout::Array {
            return described(tuple(self.positions(schema)), doc);
        }
        let mut object = json!({ "type": "object" });
        self.properties(&mut object, schema);
        described(object, doc)
    }

    /// Adds the fields to an object.
    fn properties(&mut self, object: &mut Value, schema: &'static StructSchema) {
        for field in schema.fields {
            object["properties"][field.name] = self.field(field);
        }
        let required = schema.fields.iter().filter(|field| !field.optional).map(|field| json!(field.name));
        let before = object["required"].as_array().cloned().unwrap_or_default();
        let required: Vec<_> = before.into_iter().chain(required).collect();
        if required.is_empty() {
            object.as_object_mut().map(|object| object.remove("required"));
        } else {
            object["required"] = Value::Array(required);
        }
        if schema.deny_unknown {
            object["additionalProperties"] = json!(false);
        }
    }

    /// The fields of a struct in the array layout.
    fn positions(&mut self, schema: &'static StructSchema) -> Vec<Value> {
        let titled = |field: &'static Field| {
            let mut value = self.field(field);
            value["title"] = json!(field.name);
            value
        };
        schema.fields.iter().map(titled).collect()
    }

    fn field(&mut self, field: &'static Field) -> Value {
        let mut value = self.of(field.schema);
        // Draft 7 passes over all that stands beside a reference.
        if value.get("$ref").is_some() && (!field.doc.is_empty() || self.layout == Layout::Array) {
            value = json!({ "allOf": [value] });
        }
        if !field.aliases.is_empty() {
            value = commented(value, &format!("consumers also read it as {}", field.aliases.join(", ")));
        }
        described(value, field.doc)
    }

    fn enumeration(&mut self, schema: &'static EnumSchema) -> Value {
        let names = || schema.variants.iter().map(|variant| variant.name).collect::<Vec<_>>();
        let is_plain = |variant: &Variant| matches!(variant.body, Schema::Unit) && variant.doc.is_empty();
        let value = if schema.tagging == Tagging::External && schema.variants.iter().all(is_plain) {
            json!({ "type": "string", "enum": names() })
        } else {
            let variants: Vec<_> =
                schema.variants.iter().map(|variant| self.variant(schema.tagging, variant)).collect();
            json!({ "oneOf": variants })
        };
        let value = match schema.variants.iter().find(|variant| variant.catch_all) {
            Some(other) => commented(value, &format!("consumers read any other name as {}", other.name)),
            None => value,
        };
        described(value, schema.doc)
    }

    fn variant(&mut self, tagging: Tagging, variant: &'static Variant) -> Value {
        let name = json!({ "const": variant.name });
        let value = match (tagging, variant.body) {
            (Tagging::External, Schema::Unit) => name,
            (Tagging::External, body) => {
                let mut value = json!({ "type": "object", "required": [variant.name], "additionalProperties": false });
                value["properties"][variant.name] = self.body(body);
                value
            }
            (Tagging::Internal(tag), body) => self.beside_tag(tag, name, body),
            (Tagging::Adjacent(tag, content), body) => {
                let mut value = json!({ "type": "object", "required": [tag] });
                value["properties"][tag] = name;
                if !matches!(body, Schema::Unit) {
                    value["properties"][content] = self.body(body);
                    value["required"] = json!([tag, content]);
                }
                value
            }
        };
        described(value, variant.doc)
    }

    /// The content of a variant: in its place if it has no name of its own.
    fn body(&mut self, body: &'static Schema) -> Value {
        match body {
            Schema::Struct(inner) if inner.name.contains("::") => {
                self.inside(inner.name, String::new(), |this| this.structure(inner, inner.doc))
            }
            _ => self.of(body),
        }
    }

    /// The content of a variant in one map, or one array, with its name.
    fn beside_tag(&mut self, tag: &'static str, name: Value, body: &'static Schema) -> Value {
        let mut value = json!({ "type": "object", "required": [tag] });
        value["properties"][tag] = name.clone();
        match body {
            Schema::Struct(inner) => {
                let is_named = !inner.name.contains("::");
                let reference = if is_named { self.reference(inner.name, body) } else { String::new() };
                if is_named && self.layout == Layout::Map && !inner.deny_unknown {
                    value["allOf"] = json!([{ "$ref": reference }]);
                    return value;
                }
                self.inside(inner.name, reference, |this| {
                    if this.layout == Layout::Array {
                        let members = std::iter::once(name).chain(this.positions(inner)).collect();
                        return tuple(members);
                    }
                    this.properties(&mut value, inner);
                    value
                })
            }
            Schema::Unit if self.layout == Layout::Array => tuple(vec![name]),
            Schema::Unit | Schema::Map(..) => value,
            // serde writes it behind the tag, in a map or in an array, as its own form is.
            _ if self.layout == Layout::Array => json!({}),
            // It is in the map of the tag. Its own schema may allow no other key, so it is not checked.
            _ => value,
        }
    }
}

/// Whether this is an enum whose variants are names alone, which is the same in any layout.
fn is_text(schema: &Schema) -> bool {
    let Schema::Enum(schema) = schema else { return false };
    schema.tagging == Tagging::External && schema.variants.iter().all(|variant| matches!(variant.body, Schema::Unit))
}

/// Bytes as base64 text, which takes four characters for each three bytes begun.
fn bytes(length: Option<usize>) -> Value {
    let mut value = json!({ "type": "string", "contentEncoding": "base64" });
    if let Some(length) = length {
        let characters = length.div_ceil(3) * 4;
        value["minLength"] = json!(characters);
        value["maxLength"] = json!(characters);
    }
    value
}

/// A list; where it is of `u8` alone, the Rust type decides whether it is written as bytes.
fn or_bytes(all_bytes: bool, list: Value, length: Option<usize>) -> Value {
    if all_bytes { json!({ "anyOf": [bytes(length), list] }) } else { list }
}

/// An array with one schema per member. The bounds of its length hold where `prefixItems` is unknown, too.
fn tuple(members: Vec<Value>) -> Value {
    let mut value = json!({ "type": "array" });
    set_length(&mut value, members.len());
    if !members.is_empty() {
        value["prefixItems"] = Value::Array(members);
    }
    value
}

fn set_length(array: &mut Value, length: usize) {
    array["minItems"] = json!(length);
    array["maxItems"] = json!(length);
}

fn nullable(value: Value) -> Value {
    match value.get("type") {
        // It allows nothing else, or null already.
        Some(Value::String(kind)) if kind == "null" => value,
        Some(Value::Array(_)) => value,
        Some(Value::String(kind)) => {
            let mut nullable = value.clone();
            nullable["type"] = json!([kind, "null"]);
            nullable
        }
        // It allows everything.
        None if !["$ref", "anyOf", "oneOf", "allOf"].iter().any(|keyword| value.get(keyword).is_some()) => value,
        _ => json!({ "anyOf": [value, { "type": "null" }] }),
    }
}

fn described(mut value: Value, doc: &str) -> Value {
    if !doc.is_empty() {
        value["description"] = json!(doc);
    }
    value
}

/// Adds a remark about the wire.
fn commented(mut value: Value, comment: &str) -> Value {
    let before = value["$comment"].as_str().map(|before| format!("{before}; ")).unwrap_or_default();
    value["$comment"] = json!(format!("{before}{comment}"));
    value
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::fmt;

    use serde::Deserialize;
    use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

    use super::*;
    use crate::codec::tests::to_bytes;
    use crate::{SchemaType, event_type};

    /// A payload as JSON, in the form that the schemas describe.
    struct Json(Value);

    impl<'de> Deserialize<'de> for Json {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_any(Any).map(Self)
        }
    }

    struct Any;

    impl<'de> Visitor<'de> for Any {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value")
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(json!(value))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(json!(value))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(json!(value))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
            // JSON has no infinity.
            Ok(json!(value.clamp(f64::MIN, f64::MAX)))
        }

        fn visit_str<E>(self, value: &str) -> Result<Value, E> {
            Ok(json!(value))
        }

        fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
            // Text of the length that base64 would have.
            Ok(json!("A".repeat(value.len().div_ceil(3) * 4)))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
            let mut list = Vec::new();
            while let Some(Json(item)) = items.next_element()? {
                list.push(item);
            }
            Ok(Value::Array(list))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
            let mut map = Map::new();
            while let Some((Json(key), Json(value))) = pairs.next_entry()? {
                map.insert(key.as_str().map_or_else(|| key.to_string(), str::to_owned), value);
            }
            Ok(Value::Object(map))
        }
    }

    /// Checks that a payload is what the JSON Schema of its shape describes.
    #[track_caller]
    pub(crate) fn describes(schema: &'static Schema, layout: Layout, payload: &[u8]) {
        let Json(value) = rmp_serde::from_slice(payload).unwrap();
        if let Err(problem) = judged(&json_schema(schema, layout), &value) {
            panic!("{value} is not what {:#} describes: {problem}", json_schema(schema, layout));
        }
    }

    fn judged(schema: &Value, value: &Value) -> Result<(), String> {
        let validator = jsonschema::draft202012::new(schema).unwrap();
        jsonschema::draft202012::meta::validate(schema).map_err(|error| error.to_string())?;
        validator.validate(value).map_err(|error| error.to_string())
    }

    /// The schema of a type, which must take each of the first values and none of the second.
    #[track_caller]
    fn check<T: SchemaType>(takes: &[Value], refuses: &[Value]) -> Value {
        let schema = json_schema(T::SCHEMA, Layout::Map);
        for value in takes {
            assert_eq!(judged(&schema, value), Ok(()), "{value} by {schema:#}");
        }
        for value in refuses {
            assert!(judged(&schema, value).is_err(), "{value} by {schema:#}");
        }
        schema
    }

    #[test]
    fn integers_have_the_exact_bounds_of_their_type() {
        check::<u64>(&[json!(0), json!(u64::MAX)], &[json!(-1), json!(1.5), json!(18446744073709551616.0)]);
        check::<i64>(&[json!(i64::MIN), json!(i64::MAX)], &[json!(1_u64 << 63), json!("1")]);
        check::<u8>(&[json!(255)], &[json!(256)]);
        check::<i8>(&[json!(-128)], &[json!(-129), json!(128)]);
        let schema = check::<u64>(&[], &[]);
        assert_eq!(schema["maximum"].to_string(), "18446744073709551615");
        assert_eq!(check::<i64>(&[], &[])["minimum"].to_string(), "-9223372036854775808");
    }

    #[test]
    fn lists_and_maps_hold_their_items_to_their_form() {
        check::<Vec<u16>>(&[json!([]), json!([1, 2])], &[json!([-1]), json!({})]);
        check::<[u16; 2]>(&[json!([1, 2])], &[json!([1]), json!([1, 2, 3])]);
        check::<(u8, String)>(&[json!([1, "a"])], &[json!(["a", 1]), json!([1]), json!([1, "a", 2])]);
        check::<BTreeMap<String, u8>>(&[json!({ "a": 1 })], &[json!({ "a": "1" })]);
        check::<BTreeMap<i8, bool>>(&[json!({ "-1": true })], &[json!({ "a": true })]);
        check::<BTreeMap<Plain, bool>>(&[json!({ "buy": true })], &[json!({ "hold": true })]);
        check::<Vec<u8>>(&[json!("AAEC"), json!([0, 255])], &[json!([256]), json!({})]);
        check::<[u8; 4]>(&[json!("AAECAw=="), json!([0, 1, 2, 3])], &[json!("AAEC"), json!([0])]);
        check::<char>(&[json!("é")], &[json!("ab"), json!("")]);
    }

    /// Which side of the book.
    #[event_type]
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    #[serde(rename_all = "lowercase")]
    enum Plain {
        Buy,
        Sell,
    }

    /// An order.
    ///
    /// It may rest.
    #[event_type]
    #[serde(deny_unknown_fields)]
    struct Order {
        /// Whose it is.
        owner: String,
        side: Plain,
        /// The other side.
        against: Option<Plain>,
        limit: Option<u32>,
        #[serde(default)]
        flags: Vec<bool>,
        #[serde(alias = "size")]
        quantity: u64,
    }

    #[test]
    fn a_field_that_consumers_can_do_without_is_not_required() {
        let least = json!({ "owner": "me", "side": "buy", "quantity": 1 });
        let with = |name: &str, value: Value| {
            let mut order = least.clone();
            order[name] = value;
            order
        };
        let takes =
            [least.clone(), with("limit", json!(null)), with("against", json!(null)), with("flags", json!([true]))];
        let refuses = [
            json!({ "owner": "me", "side": "buy" }),
            with("side", json!("hold")),
            with("against", json!("hold")),
            with("limit", json!("1")),
            with("more", json!(1)),
        ];
        let schema = check::<Order>(&takes, &refuses);
        assert_eq!(schema["required"], json!(["owner", "side", "quantity"]));
        assert_eq!(schema["properties"]["quantity"]["$comment"], "consumers also read it as size");
    }

    #[test]
    fn doc_comments_are_descriptions_and_no_part_of_the_shape() {
        let schema = check::<Order>(&[], &[]);
        assert_eq!(schema["description"], "An order.\n\nIt may rest.");
        assert_eq!(schema["properties"]["owner"]["description"], "Whose it is.");
        assert_eq!(schema["properties"]["side"], json!({ "$ref": "#/$defs/Plain" }));
        assert_eq!(schema["properties"]["against"]["description"], "The other side.");
        assert_eq!(schema["$defs"]["Plain"]["description"], "Which side of the book.");
        mod bare {
            #[crate::event_type]
            pub(super) enum Commented {
                /// The first.
                A,
                B(u8),
            }
            #[crate::event_type]
            pub(super) enum Silent {
                A,
                B(u8),
            }
        }
        let (commented, silent) = (bare::Commented::SCHEMA, bare::Silent::SCHEMA);
        assert_eq!(super::super::fingerprint(commented), super::super::fingerprint(silent));
        assert_eq!(json_schema(commented, Layout::Map)["oneOf"][0]["description"], "The first.");
    }

    #[event_type]
    #[serde(tag = "kind")]
    enum Tagged {
        Point,
        Circle { radius: u8 },
        Named(Order),
    }

    #[event_type]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        A,
        B(u8),
    }

    #[event_type]
    enum Loose {
        Known(u8),
        #[serde(other)]
        Other,
    }

    #[test]
    fn variants_are_told_apart_by_their_names() {
        let order = json!({ "kind": "Named", "owner": "me", "side": "buy", "quantity": 1 });
        check::<Tagged>(
            &[json!({ "kind": "Point" }), json!({ "kind": "Circle", "radius": 1 }), order],
            &[json!({ "kind": "Circle" }), json!({ "kind": "Square" }), json!({}), json!({ "kind": "Named" })],
        );
        check::<Adjacent>(
            &[json!({ "t": "A" }), json!({ "t": "B", "c": 1 })],
            &[json!({ "t": "B" }), json!({ "t": "B", "c": "1" }), json!({ "t": "C" })],
        );
        check::<Loose>(&[json!({ "Known": 1 }), json!("Other")], &[json!("Known"), json!({ "Known": 1, "More": 1 })]);
    }

    #[event_type]
    struct Tree {
        value: u8,
        children: Vec<Tree>,
        leaf: Option<Leaf>,
    }

    #[event_type]
    struct Leaf {
        #[event(recursive)]
        under: Option<Box<Tree>>,
    }

    #[test]
    fn a_type_inside_itself_refers_to_itself() {
        let tree = |value: Value| json!({ "value": value, "children": [] });
        let nested = |inner: Value| json!({ "value": 1, "children": [inner], "leaf": { "under": tree(json!(2)) } });
        check::<Tree>(&[tree(json!(1)), nested(tree(json!(3)))], &[nested(tree(json!("3"))), nested(json!({}))]);
        let bad_leaf = json!({ "value": 1, "children": [], "leaf": { "under": { "value": "2", "children": [] } } });
        // A list of trees, in which the type is not the root.
        check::<Vec<Tree>>(&[json!([nested(tree(json!(3)))])], &[json!([nested(tree(json!("3")))]), json!([bad_leaf])]);
    }

    #[test]
    fn types_of_one_name_and_two_shapes_have_two_names() {
        mod other {
            #[crate::event_type]
            pub(super) struct Leaf {
                pub(super) green: bool,
            }
        }
        let mut definitions = Definitions::new("#/components/schemas/");
        let plain = definitions.add("a:b.Leaf.v1", <(other::Leaf, Tree)>::SCHEMA, Layout::Map);
        definitions.add("c", <Vec<other::Leaf>>::SCHEMA, Layout::Map);
        definitions.add("d", <Vec<other::Leaf>>::SCHEMA, Layout::Array);
        assert_eq!(plain, json!({ "$ref": "#/components/schemas/a_b.Leaf.v1" }));
        let names: Vec<_> = definitions.finish().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Leaf", "Leaf-2", "Leaf-3", "Tree", "a_b.Leaf.v1", "c", "d"]);
    }

    #[test]
    fn the_array_layout_has_a_place_for_each_field() {
        let schema = json_schema(Order::SCHEMA, Layout::Array);
        let order = json!(["me", "buy", null, 7, [], 1]);
        assert_eq!(judged(&schema, &order), Ok(()));
        for bad in [json!(["me", "buy", null, 7, []]), json!(["me", 1, null, 7, [], 1]), json!({ "owner": "me" })] {
            assert!(judged(&schema, &bad).is_err(), "{bad}");
        }
        assert_eq!(schema["prefixItems"][0]["title"], "owner");
        let schema = json_schema(Tagged::SCHEMA, Layout::Array);
        for (value, is_one) in [(json!(["Circle", 1]), true), (json!(["Circle"]), false), (json!(["Point"]), true)] {
            assert_eq!(judged(&schema, &value).is_ok(), is_one, "{value}");
        }
    }

    #[cfg(feature = "uuid")]
    #[test]
    fn a_uuid_is_sixteen_bytes() {
        describes(uuid::Uuid::SCHEMA, Layout::Map, &to_bytes(&uuid::Uuid::nil()));
        check::<uuid::Uuid>(&[], &[json!("00000000-0000-0000-0000-000000000000")]);
    }

    #[cfg(feature = "chrono")]
    #[test]
    fn a_time_of_chrono_is_text() {
        assert_eq!(check::<chrono::DateTime<chrono::Utc>>(&[], &[])["format"], "date-time");
    }

    #[test]
    fn a_shape_that_leads_nowhere_allows_everything() {
        let damaged = json_schema(&Schema::Seq(&Schema::Ref("Gone")), Layout::Map);
        assert_eq!(damaged["items"], json!({}));
        assert_eq!(to_bytes(&1_u8), [1]);
    }
}
