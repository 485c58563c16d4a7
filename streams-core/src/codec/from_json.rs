//! JSON as the MessagePack of an event, by its recorded shape: 64-bit integers exact, bytes from hexadecimal digits.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{MAX_DEPTH, scan};
use crate::schema::lock::note;

/// How many letters of a name may be wrong, missing or exchanged: with more of them it is another name.
const TYPING_ERRORS: usize = 2;

/// The first value that a recorded shape does not allow, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    path: String,
    words: String,
}

impl std::error::Error for Misfit {}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.words) } else { write!(f, "`{}`: {}", self.path, self.words) }
    }
}

/// The payload of an event in JSON, by the shape in the note of a program ([`note::entry`]). Not public API: tools use it.
///
/// # Errors
/// The first value that the shape does not allow.
#[doc(hidden)]
pub fn from_json(lock: &Value, value: &Value) -> Result<Vec<u8>, Misfit> {
    let mut walk = Walk { arrays: lock["layout"] == "array", around: Vec::new(), path: Vec::new() };
    let packed = walk.value(&lock["schema"], value)?;
    let fault = |words: String| Misfit { path: String::new(), words };
    let payload = rmp_serde::to_vec(&packed).map_err(|error| fault(error.to_string()))?;
    // The rules of the programs have the last word.
    note::check_payload(lock, &payload).map_err(fault)?;
    Ok(payload)
}

/// The payload of an event in JSON whose shape nobody has recorded, made in the manner of the payload that it replaces:
/// bytes stay bytes, and numbers and keys keep their type. Not public API: tools use it.
///
/// # Errors
/// The payload of before is no MessagePack, or holds an extension, which JSON cannot say.
#[doc(hidden)]
pub fn from_json_like(before: &[u8], value: &Value) -> Result<Vec<u8>, Misfit> {
    let fault = |words: String| Misfit { path: String::new(), words };
    scan(before).map_err(|error| fault(format!("the payload of before is no MessagePack: {error}")))?;
    let before: Pack = rmp_serde::from_slice(before).map_err(|error| fault(error.to_string()))?;
    rmp_serde::to_vec(&like(Some(&before), value)).map_err(|error| fault(error.to_string()))
}

/// A value in the manner of the one that it replaces.
fn like(before: Option<&Pack>, value: &Value) -> Pack {
    match (before, value) {
        (Some(Pack::Bytes(_)), Value::String(digits)) => from_hex(digits).map_or_else(|| as_it_is(value), Pack::Bytes),
        (Some(Pack::Single(_)), _) => {
            float(value).map_or_else(|| as_it_is(value), |number| Pack::Single(number as f32))
        }
        (Some(Pack::Double(_)), _) => float(value).map_or_else(|| as_it_is(value), Pack::Double),
        (Some(Pack::Array(before)), Value::Array(items)) => {
            // An item more is like the last one.
            let items = items.iter().enumerate();
            Pack::Array(items.map(|(index, item)| like(before.get(index).or(before.last()), item)).collect())
        }
        (Some(Pack::Map(before)), Value::Object(fields)) => {
            let field = |(name, value): (&String, &Value)| {
                let there = before.iter().find(|(key, _)| key.is_named(name));
                let key = there.map_or_else(|| name.as_str().into(), |(key, _)| key.clone());
                (key, like(there.map(|(_, before)| before), value))
            };
            Pack::Map(fields.iter().map(field).collect())
        }
        _ => as_it_is(value),
    }
}

/// A value of MessagePack.
#[derive(Debug, Clone)]
enum Pack {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Pack>),
    Map(Vec<(Pack, Pack)>),
}

impl From<bool> for Pack {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Pack {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Serialize for Pack {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Unsigned(number) => to.serialize_u64(*number),
            Self::Signed(number) => to.serialize_i64(*number),
            Self::Single(number) => to.serialize_f32(*number),
            Self::Double(number) => to.serialize_f64(*number),
            Self::Text(text) => to.serialize_str(text),
            Self::Bytes(bytes) => to.serialize_bytes(bytes),
            Self::Array(items) => to.collect_seq(items),
            Self::Map(fields) => to.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

impl Pack {
    /// Whether JSON shows this key under the name.
    fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Text(text) => text == name,
            Self::Bool(value) => value.to_string() == name,
            Self::Unsigned(number) => number.to_string() == name,
            Self::Signed(number) => number.to_string() == name,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Pack {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

/// Reads a value of any type except for an extension.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Pack;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can say")
    }

    fn visit_unit<E>(self) -> Result<Pack, E> {
        Ok(Pack::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Pack, E> {
        Ok(Pack::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Pack, E> {
        Ok(Pack::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Pack, E> {
        Ok(u64::try_from(number).map_or(Pack::Signed(number), Pack::Unsigned))
    }

    fn visit_f32<E>(self, number: f32) -> Result<Pack, E> {
        Ok(Pack::Single(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Pack, E> {
        Ok(Pack::Double(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Pack, E> {
        Ok(text.into())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Pack, E> {
        Ok(Pack::Bytes(bytes.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Pack, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Pack::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Pack, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Pack::Map(map))
    }
}

/// A walk along a shape and a value of it.
struct Walk<'a> {
    /// Whether structs are arrays.
    arrays: bool,
    /// The types around the value, for shapes that contain themselves.
    around: Vec<&'a Value>,
    path: Vec<String>,
}

impl<'a> Walk<'a> {
    fn fault<T>(&self, words: impl Into<String>) -> Result<T, Misfit> {
        Err(Misfit { path: self.path.join("."), words: words.into() })
    }

    fn expected<T>(&self, shape: &str, value: &Value) -> Result<T, Misfit> {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(_) => "a string".to_owned(),
            Value::Array(items) => format!("an array of {}", items.len()),
            Value::Object(_) => "an object".to_owned(),
        };
        self.fault(format!("expected {shape}, found {found}"))
    }

    fn inside(&mut self, step: &str, shape: &'a Value, value: &Value) -> Result<Pack, Misfit> {
        self.path.push(step.to_owned());
        let packed = self.value(shape, value)?;
        self.path.pop();
        Ok(packed)
    }

    fn value(&mut self, shape: &'a Value, value: &Value) -> Result<Pack, Misfit> {
        if self.around.len() + self.path.len() > 2 * MAX_DEPTH {
            return self.fault("the value is nested too deeply");
        }
        match shape {
            Value::String(word) => self.plain(word, value),
            Value::Object(shape_of) => self.compound(shape, shape_of, value),
            _ => self.fault("the recorded shape cannot be read"),
        }
    }

    fn plain(&self, word: &str, value: &Value) -> Result<Pack, Misfit> {
        match (word, value) {
            ("unit", Value::Null) => Ok(Pack::Nil),
            ("bool", Value::Bool(value)) => Ok((*value).into()),
            ("string", Value::String(text)) => Ok(text.as_str().into()),
            ("char", Value::String(text)) if text.chars().count() == 1 => Ok(text.as_str().into()),
            ("bytes", Value::String(digits)) => match from_hex(digits) {
                Some(bytes) => Ok(Pack::Bytes(bytes)),
                None => self.fault("expected bytes as hexadecimal digits, two per byte"),
            },
            ("f32", _) => match float(value) {
                Some(number) => Ok(Pack::Single(number as f32)),
                None => self.expected(word, value),
            },
            ("f64", _) => match float(value) {
                Some(number) => Ok(Pack::Double(number)),
                None => self.expected(word, value),
            },
            ("u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64", _) => self.integer(word, value),
            _ => self.expected(word, value),
        }
    }

    fn integer(&self, word: &str, value: &Value) -> Result<Pack, Misfit> {
        let number: Option<i128> = match value {
            Value::Number(number) => number.to_string().parse().ok(),
            // For programs whose numbers are floats.
            Value::String(digits) => digits.parse().ok(),
            _ => None,
        };
        let bits: u32 = word[1..].parse().unwrap_or(64);
        let (least, most) = match word.starts_with('i') {
            true => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
            false => (0, (1_i128 << bits) - 1),
        };
        match number.filter(|number| (least..=most).contains(number)) {
            None => self.expected(word, value),
            Some(number) => Ok(u64::try_from(number).map_or(Pack::Signed(number as i64), Pack::Unsigned)),
        }
    }

    fn compound(&mut self, shape: &'a Value, object: &'a Map<String, Value>, value: &Value) -> Result<Pack, Misfit> {
        if let Some(some) = object.get("option") {
            return if value.is_null() { Ok(Pack::Nil) } else { self.value(some, value) };
        }
        if let Some(item) = object.get("list") {
            return self.items(item, None, value);
        }
        if let Some(item) = object.get("array") {
            return self.items(item, object.get("length").and_then(Value::as_u64), value);
        }
        if let (Some(key), Some(of)) = (object.get("key"), object.get("map")) {
            return self.map(key, of, value);
        }
        if let Some(members) = object.get("tuple").and_then(Value::as_array) {
            let Some(values) = value.as_array().filter(|values| values.len() == members.len()) else {
                return self.expected(&format!("an array of {}", members.len()), value);
            };
            let packed = members.iter().zip(values).enumerate();
            return packed
                .map(|(index, (shape, value))| self.inside(&index.to_string(), shape, value))
                .collect::<Result<_, _>>()
                .map(Pack::Array);
        }
        if object.contains_key("fields") {
            self.around.push(shape);
            let packed = self.fields(None, object, value);
            self.around.pop();
            return packed;
        }
        if object.contains_key("variants") {
            self.around.push(shape);
            let packed = self.variant(object, value);
            self.around.pop();
            return packed;
        }
        if let Some(wire) = object.get("wire") {
            return self.value(wire, value);
        }
        if let Some(name) = object.get("recursive").and_then(Value::as_str) {
            let is_it = |shape: &&&Value| name == "Self" || shape["struct"] == name || shape["enum"] == name;
            return match self.around.iter().rev().find(is_it).copied() {
                Some(shape) => self.value(shape, value),
                None => self.fault("the recorded shape cannot be read"),
            };
        }
        if object.contains_key("opaque") {
            return Ok(as_it_is(value));
        }
        self.fault("the recorded shape cannot be read")
    }

    fn items(&mut self, item: &'a Value, length: Option<u64>, value: &Value) -> Result<Pack, Misfit> {
        if let (Some("u8"), Value::String(digits)) = (item.as_str(), value) {
            return self.plain("bytes", &Value::String(digits.clone()));
        }
        let Some(values) = value.as_array() else { return self.expected("an array", value) };
        if let Some(length) = length.filter(|length| *length != values.len() as u64) {
            return self.expected(&format!("an array of {length}"), value);
        }
        let packed = values.iter().enumerate().map(|(index, value)| self.inside(&index.to_string(), item, value));
        packed.collect::<Result<_, _>>().map(Pack::Array)
    }

    fn map(&mut self, key: &'a Value, of: &'a Value, value: &Value) -> Result<Pack, Misfit> {
        let Some(fields) = value.as_object() else { return self.expected("an object", value) };
        let mut packed = Vec::new();
        for (name, value) in fields {
            // Names in JSON are text: a key of another type is read from it.
            let text = Value::String(name.clone());
            let named = match self.value(key, &text) {
                Ok(named) => named,
                Err(fault) => match serde_json::from_str(name) {
                    Ok(parsed) => self.value(key, &parsed)?,
                    Err(_) => return Err(fault),
                },
            };
            packed.push((named, self.inside(name, of, value)?));
        }
        Ok(Pack::Map(packed))
    }

    /// A struct, or the content of a variant with named fields; with the tag that stands among the fields.
    fn fields(
        &mut self,
        tag: Option<(&str, &str)>,
        shape: &'a Map<String, Value>,
        value: &Value,
    ) -> Result<Pack, Misfit> {
        let Some(values) = value.as_object() else { return self.expected("an object", value) };
        let fields = shape.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let name_of = |field: &'a Value| field["name"].as_str().unwrap_or_default();
        let is_known = |name: &str| {
            tag.is_some_and(|(tag, _)| tag == name)
                || fields.iter().any(|field| {
                    name_of(field) == name
                        || field["aliases"].as_array().into_iter().flatten().any(|alias| alias == name)
                })
        };
        if let Some(unknown) = values.keys().find(|name| !is_known(name)) {
            let near = perhaps(unknown, fields.iter().map(name_of));
            return self.fault(format!("there is no field `{unknown}`{near}"));
        }
        let mut packed: Vec<(Pack, Pack)> = tag.map(|(tag, name)| (tag.into(), name.into())).into_iter().collect();
        for field in fields {
            let name = name_of(field);
            let aliases = field["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let given = std::iter::once(name).chain(aliases).find_map(|name| values.get(name));
            match given {
                Some(value) => packed.push((name.into(), self.inside(name, &field["type"], value)?)),
                // A field that a writer always writes, and that may be nil, is nil.
                None if field["type"].get("option").is_some() && field.get("may_be_absent").is_none() => {
                    packed.push((name.into(), Pack::Nil));
                }
                None if field.get("may_be_absent").is_some() && !self.arrays => {}
                None => return self.fault(format!("the field `{name}` is missing")),
            }
        }
        Ok(match self.arrays {
            true => Pack::Array(packed.into_iter().map(|(_, value)| value).collect()),
            false => Pack::Map(packed),
        })
    }

    fn variant(&mut self, shape: &'a Map<String, Value>, value: &Value) -> Result<Pack, Misfit> {
        let text = |name: &str| shape.get(name).and_then(Value::as_str);
        let (tag, content) = (text("tag"), text("content"));
        let (name, body) = match (tag, value) {
            (None, Value::String(name)) => (name.as_str(), None),
            (None, Value::Object(one)) if one.len() == 1 => match one.iter().next() {
                Some((name, body)) => (name.as_str(), Some(body)),
                None => return self.expected("a variant", value),
            },
            (Some(tag), Value::Object(fields)) => match (fields.get(tag).and_then(Value::as_str), content) {
                (Some(name), Some(content)) => (name, fields.get(content)),
                (Some(name), None) => (name, Some(value)),
                (None, _) => return self.fault(format!("the field `{tag}` with the variant's name is missing")),
            },
            _ => return self.expected("a variant", value),
        };
        let variants = shape.get("variants").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let name_of = |variant: &'a Value| variant["name"].as_str().unwrap_or_default();
        let Some(variant) = variants.iter().find(|variant| name_of(variant) == name) else {
            let near = perhaps(name, variants.iter().map(name_of));
            return self.fault(format!("there is no variant `{name}`{near}"));
        };
        let body_shape = variant.get("type");
        match (tag, content) {
            (None, _) => match (body_shape, body) {
                (None, None | Some(Value::Null)) => Ok(name.into()),
                (None, Some(_)) => self.fault(format!("the variant `{name}` has no content")),
                (Some(shape), body) => {
                    let packed = self.inside(name, shape, body.unwrap_or(&Value::Null))?;
                    Ok(Pack::Map(vec![(name.into(), packed)]))
                }
            },
            (Some(tag), None) => match body_shape.and_then(Value::as_object) {
                None => Ok(self.tagged(vec![(tag.into(), name.into())])),
                Some(fields) if fields.contains_key("fields") => self.fields(Some((tag, name)), fields, value),
                Some(_) => self.fault("a variant of this form cannot be written from JSON"),
            },
            (Some(tag), Some(content)) => {
                let mut packed = vec![(tag.into(), name.into())];
                if let Some(shape) = body_shape {
                    packed.push((content.into(), self.inside(name, shape, body.unwrap_or(&Value::Null))?));
                }
                Ok(self.tagged(packed))
            }
        }
    }

    fn tagged(&self, fields: Vec<(Pack, Pack)>) -> Pack {
        match self.arrays {
            true => Pack::Array(fields.into_iter().map(|(_, value)| value).collect()),
            false => Pack::Map(fields),
        }
    }
}

/// The name that was perhaps meant; where none is near, those that there are.
fn perhaps<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let distances = known.iter().map(|known| (strsim::osa_distance(name, known), *known));
    let near =
        distances.filter(|(distance, known)| *distance <= TYPING_ERRORS && *distance < known.chars().count()).min();
    match near {
        Some((_, near)) => format!(", perhaps `{near}` is meant"),
        None if known.is_empty() => String::new(),
        None => format!("; there are: {}", known.iter().take(20).copied().collect::<Vec<_>>().join(", ")),
    }
}

/// The bytes that hexadecimal digits stand for.
fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// JSON has no words for what is not finite, so `tail` shows it as text.
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if matches!(text.as_str(), "NaN" | "inf" | "-inf") => text.parse().ok(),
        _ => None,
    }
}

/// A value whose shape the user vouches for.
fn as_it_is(value: &Value) -> Pack {
    match value {
        Value::Null => Pack::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => Pack::Unsigned(number),
            (_, Some(number), _) => Pack::Signed(number),
            (.., number) => Pack::Double(number.unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Pack::Array(items.iter().map(as_it_is).collect()),
        Value::Object(fields) => {
            Pack::Map(fields.iter().map(|(name, value)| (name.as_str().into(), as_it_is(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lock(layout: &str, schema: &Value) -> Value {
        json!({ "format": 1, "layout": layout, "schema": schema })
    }

    fn of(fields: &Value) -> Value {
        json!({ "struct": "It", "fields": fields })
    }

    /// The value that a consumer would see.
    fn round(layout: &str, schema: &Value, value: &Value) -> Result<Value, String> {
        let payload = from_json(&lock(layout, schema), value).map_err(|fault| fault.to_string())?;
        let json = super::super::json(&payload).expect("it is MessagePack");
        Ok(serde_json::from_str(&json).expect("it is JSON"))
    }

    fn shape() -> Value {
        of(&json!([
            { "name": "big", "type": "u64" },
            { "name": "raw", "type": "bytes" },
            { "name": "small", "type": "i8" },
            { "name": "some", "type": { "option": "string" }, "optional": true },
            { "name": "absent", "type": "u8", "optional": true, "may_be_absent": true },
            { "name": "of", "type": { "list": of(&json!([{ "name": "x", "type": "f64" }])) } },
            { "name": "by", "type": { "key": "u16", "map": "bool" } },
            { "name": "pair", "type": { "tuple": ["char", "f32"] } },
            { "name": "when", "type": { "logical": "time", "wire": "i64" } },
        ]))
    }

    fn value() -> Value {
        json!({
            "big": u64::MAX, "raw": "c1ff", "small": -5, "some": null, "of": [{ "x": 1.0 }], "by": { "300": true },
            "pair": ["ä", 0.5], "when": i64::MIN,
        })
    }

    #[test]
    fn a_value_of_the_shape_is_written_exactly() {
        assert_eq!(round("map", &shape(), &value()), Ok(value()));
        let mut less = value();
        less.as_object_mut().unwrap().remove("some");
        assert_eq!(round("map", &shape(), &less), Ok(value()), "an option that is not given is nil");
    }

    #[test]
    fn an_array_has_its_fields_in_order() {
        let shape = of(&json!([{ "name": "b", "type": "u8" }, { "name": "a", "type": "string" }]));
        assert_eq!(round("array", &shape, &json!({ "a": "x", "b": 1 })), Ok(json!([1, "x"])));
    }

    #[test]
    fn every_fault_names_its_place() {
        for (name, bad, says) in [
            ("big", json!(-1), "`big`: expected u64, found the number -1"),
            ("big", json!(1.5), "`big`: expected u64, found the number 1.5"),
            ("raw", json!("c1f"), "`raw`: expected bytes as hexadecimal digits"),
            ("small", json!(128), "`small`: expected i8, found the number 128"),
            ("of", json!([{ "x": 1 }, { "x": "1" }]), "`of.1.x`: expected f64, found a string"),
            ("of", json!([{}]), "`of.0`: the field `x` is missing"),
            ("by", json!({ "x": true }), "`by`: expected u16, found a string"),
            ("smal", json!(1), "there is no field `smal`, perhaps `small` is meant"),
            ("pair", json!(["ab", 1]), "`pair.0`: expected char"),
        ] {
            let mut value = value();
            value[name] = bad;
            let refused = round("map", &shape(), &value).unwrap_err();
            assert!(refused.starts_with(says), "{refused}");
        }
        assert_eq!(round("map", &shape(), &json!([])).unwrap_err(), "expected an object, found an array of 0");
    }

    #[test]
    fn variants_are_written_in_every_tagging() {
        let variants = json!([
            { "name": "Plain" },
            { "name": "With", "type": { "struct": "With", "fields": [{ "name": "n", "type": "u8" }] } },
        ]);
        let external = json!({ "enum": "E", "variants": variants });
        let internal = json!({ "enum": "E", "variants": variants, "tag": "t" });
        let adjacent = json!({ "enum": "E", "variants": variants, "tag": "t", "content": "c" });
        for (shape, value) in [
            (&external, json!("Plain")),
            (&external, json!({ "With": { "n": 7 } })),
            (&internal, json!({ "t": "Plain" })),
            (&internal, json!({ "t": "With", "n": 7 })),
            (&adjacent, json!({ "t": "Plain" })),
            (&adjacent, json!({ "t": "With", "c": { "n": 7 } })),
        ] {
            assert_eq!(round("map", shape, &value), Ok(value));
        }
        assert!(round("map", &external, &json!("Plin")).unwrap_err().contains("perhaps `Plain` is meant"));
        assert!(round("map", &internal, &json!({ "n": 1 })).unwrap_err().contains("the field `t`"));
    }

    #[test]
    fn a_value_of_an_unknown_shape_is_written_in_the_manner_of_the_one_before() {
        let before = Pack::Map(vec![
            (Pack::Unsigned(7), Pack::Array(vec![Pack::Bytes(vec![1])])),
            ("big".into(), Pack::Unsigned(u64::MAX)),
            ("low".into(), Pack::Signed(i64::MIN)),
            ("off".into(), Pack::Double(f64::NAN)),
            ("raw".into(), Pack::Bytes(vec![0xc1])),
            ("single".into(), Pack::Single(0.1)),
            ("whole".into(), Pack::Double(1.0)),
        ]);
        let bytes = |pack: &Pack| rmp_serde::to_vec(pack).unwrap();
        let shown: Value = serde_json::from_str(&super::super::json(&bytes(&before)).unwrap()).unwrap();
        assert_eq!(from_json_like(&bytes(&before), &shown).unwrap(), bytes(&before), "{shown}");
        let edited = json!({ "whole": 2, "7": ["02", "03"], "new": "c1", "raw": "text" });
        let expected = Pack::Map(vec![
            (Pack::Unsigned(7), Pack::Array(vec![Pack::Bytes(vec![2]), Pack::Bytes(vec![3])])),
            ("new".into(), "c1".into()),
            ("raw".into(), "text".into()),
            ("whole".into(), Pack::Double(2.0)),
        ]);
        assert_eq!(from_json_like(&bytes(&before), &edited).unwrap(), bytes(&expected));
        for (wrong, says) in [(&[0xc1_u8][..], "no MessagePack"), (&[0xd4, 5, 1][..], "that JSON can say")] {
            assert!(from_json_like(wrong, &edited).unwrap_err().to_string().contains(says));
        }
    }

    #[test]
    fn a_shape_may_contain_itself() {
        let tree = of(&json!([{ "name": "of", "type": { "list": { "recursive": "Self" } } }]));
        let value = json!({ "of": [{ "of": [] }, { "of": [{ "of": [] }] }] });
        assert_eq!(round("map", &tree, &value), Ok(value));
    }
}
