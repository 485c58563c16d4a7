//! Schemas as JSON in a lock: one field per line in a fixed order, so that a diff shows what changed.
//!
//! `streams-macros/src/lock.rs` reads the same form when it compiles an event.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::{EnumSchema, Field, Layout, Schema, StructSchema, Tagging, Variant, holds_bytes};

/// The order of names in a lock; other names follow.
const ORDER: &[&str] = &[
    "format",
    "stream",
    "events",
    "layout",
    "compat",
    "bin",
    "published",
    "retired",
    "schema",
    "name",
    "struct",
    "enum",
    "tag",
    "content",
    "deny_unknown",
    "type",
    "optional",
    "may_be_absent",
    "other",
    "removed",
    "aliases",
    "fields",
    "variants",
    "list",
    "array",
    "length",
    "key",
    "map",
    "logical",
    "wire",
];
/// A value that fits into this many columns takes one line, unless it has fields or variants.
const WIDTH: usize = 110;

/// A schema for the lock. Where order means nothing, fields and variants are sorted by name.
pub(super) fn to_value(schema: &Schema, layout: Layout) -> Value {
    let of = |schema| to_value(schema, layout);
    match schema {
        Schema::Unit => json!("unit"),
        Schema::Bool => json!("bool"),
        Schema::Char => json!("char"),
        Schema::Str => json!("string"),
        Schema::Bytes => json!("bytes"),
        Schema::Int { bits, signed } => json!(format!("{}{bits}", if *signed { "i" } else { "u" })),
        Schema::F32 => json!("f32"),
        Schema::F64 => json!("f64"),
        Schema::Option(some) => json!({ "option": of(some) }),
        Schema::Seq(item) => json!({ "list": of(item) }),
        Schema::Array(item, length) => json!({ "array": of(item), "length": length }),
        Schema::Map(key, value) => json!({ "key": of(key), "map": of(value) }),
        Schema::Tuple(members) => json!({ "tuple": members.iter().map(|member| of(member)).collect::<Vec<_>>() }),
        Schema::Struct(schema) => {
            let mut fields: Vec<_> = schema.fields.iter().map(|field| field_value(field, layout)).collect();
            if layout == Layout::Map {
                sort(&mut fields);
            }
            let mut value = json!({ "struct": schema.name, "fields": fields });
            flag(&mut value, "deny_unknown", schema.deny_unknown);
            value
        }
        Schema::Enum(schema) => {
            let mut variants: Vec<_> = schema.variants.iter().map(|variant| variant_value(variant, layout)).collect();
            sort(&mut variants);
            let mut value = json!({ "enum": schema.name, "variants": variants });
            match schema.tagging {
                Tagging::External => {}
                Tagging::Internal(tag) => value["tag"] = json!(tag),
                Tagging::Adjacent(tag, content) => {
                    value["tag"] = json!(tag);
                    value["content"] = json!(content);
                }
            }
            value
        }
        Schema::Logical { name, wire } => json!({ "logical": name, "wire": of(wire) }),
        Schema::Opaque(tag) => json!({ "opaque": tag }),
        Schema::Ref(name) => json!({ "recursive": name }),
    }
}

fn field_value(field: &Field, layout: Layout) -> Value {
    let mut value = json!({ "name": field.name, "type": to_value(field.schema, layout) });
    flag(&mut value, "optional", field.optional);
    flag(&mut value, "may_be_absent", field.may_be_absent);
    aliases(&mut value, field.aliases);
    value
}

fn variant_value(variant: &Variant, layout: Layout) -> Value {
    let mut value = json!({ "name": variant.name });
    if *variant.body != Schema::Unit {
        value["type"] = to_value(variant.body, layout);
    }
    flag(&mut value, "other", variant.catch_all);
    aliases(&mut value, variant.aliases);
    value
}

fn flag(value: &mut Value, name: &str, set: bool) {
    if set {
        value[name] = json!(true);
    }
}

fn aliases(value: &mut Value, aliases: &[&str]) {
    let mut aliases = aliases.to_vec();
    aliases.sort_unstable();
    if !aliases.is_empty() {
        value["aliases"] = json!(aliases);
    }
}

fn sort(named: &mut [Value]) {
    named.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
}

/// The schema that a lock describes. It lives as long as the program: a schema is `'static`, and only tests read locks.
/// A program reads a bounded number of them, from notes of other builds.
pub(super) fn to_schema(value: &Value) -> Result<&'static Schema, String> {
    let unknown = || format!("`{value}` is no schema");
    Ok(Box::leak(Box::new(match value {
        Value::String(word) => match word.as_str() {
            "unit" => Schema::Unit,
            "bool" => Schema::Bool,
            "char" => Schema::Char,
            "string" => Schema::Str,
            "bytes" => Schema::Bytes,
            "f32" => Schema::F32,
            "f64" => Schema::F64,
            "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => {
                Schema::Int { bits: word[1..].parse().map_err(|_| unknown())?, signed: word.starts_with('i') }
            }
            _ => return Err(unknown()),
        },
        Value::Object(object) => {
            let text = |name: &str| object.get(name).and_then(Value::as_str).map(leak);
            let of = |name: &str| to_schema(object.get(name).unwrap_or(&Value::Null));
            if object.contains_key("option") {
                Schema::Option(of("option")?)
            } else if object.contains_key("list") {
                Schema::Seq(of("list")?)
            } else if object.contains_key("array") {
                let length = object.get("length").and_then(Value::as_u64).ok_or_else(unknown)?;
                Schema::Array(of("array")?, usize::try_from(length).map_err(|_| unknown())?)
            } else if object.contains_key("map") && object.contains_key("key") {
                Schema::Map(of("key")?, of("map")?)
            } else if let Some(members) = object.get("tuple").and_then(Value::as_array) {
                Schema::Tuple(members.iter().map(to_schema).collect::<Result<Vec<_>, _>>()?.leak())
            } else if let Some(name) = text("struct") {
                let fields = list(object, "fields")?.iter().map(to_field).collect::<Result<Vec<_>, _>>()?.leak();
                let deny_unknown = object.contains_key("deny_unknown");
                Schema::Struct(Box::leak(Box::new(StructSchema::new(name, deny_unknown, fields))))
            } else if let Some(name) = text("enum") {
                let variants = list(object, "variants")?.iter().map(to_variant).collect::<Result<Vec<_>, _>>()?.leak();
                let tagging = match (text("tag"), text("content")) {
                    (Some(tag), Some(content)) => Tagging::Adjacent(tag, content),
                    (Some(tag), None) => Tagging::Internal(tag),
                    (None, _) => Tagging::External,
                };
                // The compiler refuses it, too.
                if matches!(tagging, Tagging::Internal(_)) && variants.iter().any(|variant| holds_bytes(variant.body)) {
                    return Err(format!("the enum `{name}` has a `tag` alone, and holds a sequence of `u8`"));
                }
                Schema::Enum(Box::leak(Box::new(EnumSchema::new(name, tagging, variants))))
            } else if let Some(name) = text("logical") {
                Schema::Logical { name, wire: of("wire")? }
            } else if let Some(tag) = text("opaque") {
                Schema::Opaque(tag)
            } else if let Some(name) = text("recursive") {
                Schema::Ref(name)
            } else {
                return Err(unknown());
            }
        }
        _ => return Err(unknown()),
    })))
}

fn to_field(value: &Value) -> Result<Field, String> {
    let object = value.as_object().ok_or_else(|| format!("`{value}` is no field"))?;
    let name = value["name"].as_str().ok_or_else(|| format!("the field `{value}` has no name"))?;
    // A removed field or variant may be missing, because nobody needs it.
    let removed = object.contains_key("removed");
    Ok(Field {
        name: leak(name),
        aliases: to_aliases(value),
        schema: to_schema(&value["type"])?,
        optional: object.contains_key("optional") || removed,
        may_be_absent: object.contains_key("may_be_absent") || removed,
        doc: "",
    })
}

fn to_variant(value: &Value) -> Result<Variant, String> {
    let object = value.as_object().ok_or_else(|| format!("`{value}` is no variant"))?;
    let name = value["name"].as_str().ok_or_else(|| format!("the variant `{value}` has no name"))?;
    Ok(Variant {
        name: leak(name),
        aliases: to_aliases(value),
        body: object.get("type").map_or(Ok(&Schema::Unit), to_schema)?,
        catch_all: object.contains_key("other"),
        doc: "",
    })
}

fn to_aliases(value: &Value) -> &'static [&'static str] {
    let names = value["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(leak).collect::<Vec<_>>().leak()
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Vec<Value>, String> {
    object.get(name).and_then(Value::as_array).ok_or_else(|| format!("a type has no list of `{name}`"))
}

fn leak(text: &str) -> &'static str {
    String::leak(text.to_owned())
}

/// The lock after a change that breaks nobody: the new shape, and every field that ever existed.
///
/// A removed field stays in the lock, because events in the stream still have it. A field that comes back under its
/// name must be able to read them.
pub(super) fn merge(old: &Value, new: &Value) -> Value {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        // An `Option` now surrounds the value.
        return match new.get("option") {
            Some(some) if old.get("option").is_none() => json!({ "option": merge(old, some) }),
            _ => new.clone(),
        };
    };
    let mut merged = new.clone();
    for (name, is_variant) in [("fields", false), ("variants", true)] {
        if let (Some(Value::Array(before)), Some(Value::Array(after))) = (before.get(name), after.get(name)) {
            let in_order = is_variant || is_sorted(after);
            merged[name] = Value::Array(merge_named(before, after, in_order));
        }
    }
    for name in ["option", "list", "array", "key", "map", "wire"] {
        if let (Some(old), Some(new)) = (before.get(name), after.get(name)) {
            merged[name] = merge(old, new);
        }
    }
    if let (Some(Value::Array(old)), Some(Value::Array(new))) = (before.get("tuple"), after.get("tuple"))
        && old.len() == new.len()
    {
        merged["tuple"] = old.iter().zip(new).map(|(old, new)| merge(old, new)).collect();
    }
    if let Some(some) = after.get("option")
        && !before.contains_key("option")
    {
        merged["option"] = merge(old, some);
    }
    merged
}

/// A schema of the lock without the members that were removed.
pub(super) fn present(value: &Value) -> Value {
    match value {
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), present(value))).collect(),
        Value::Array(items) => items.iter().filter(|item| item.get("removed").is_none()).map(present).collect(),
        other => other.clone(),
    }
}

fn merge_named(old: &[Value], new: &[Value], in_order: bool) -> Vec<Value> {
    let find = |list: &[Value], name: &Value| list.iter().find(|named| named["name"] == *name).cloned();
    let mut merged: Vec<_> = new
        .iter()
        .map(|after| {
            let mut value = after.clone();
            let before = find(old, &after["name"]);
            if let (Some(before), Some(after)) =
                (before.as_ref().and_then(|before| before.get("type")), after.get("type"))
            {
                value["type"] = merge(before, after);
            }
            value
        })
        .collect();
    for before in old {
        if find(new, &before["name"]).is_none() {
            let mut gone = before.clone();
            gone["removed"] = json!(true);
            merged.push(gone);
        }
    }
    if in_order {
        sort(&mut merged);
    }
    merged
}

fn is_sorted(named: &[Value]) -> bool {
    named.is_sorted_by(|a, b| a["name"].as_str() <= b["name"].as_str())
}

/// Whether two values describe the same shape, whatever the names of the Rust types.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names_a_type = |name: &str| matches!(name, "struct" | "enum" | "recursive");
            a.len() == b.len()
                && a.iter().all(|(name, value)| {
                    b.get(name).is_some_and(|other| {
                        // Beside `fields` or `variants` it is a name.
                        names_a_type(name) && value.is_string() && other.is_string() || same(value, other)
                    })
                })
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

/// The text of a lock.
pub(super) fn print(lock: &Value) -> String {
    let mut text = String::new();
    print_value(lock, 0, 0, &mut text);
    text.push('\n');
    text
}

fn print_value(value: &Value, indent: usize, column: usize, text: &mut String) {
    if !has_parts(value) {
        let line = one_line(value);
        if column + line.len() <= WIDTH {
            text.push_str(&line);
            return;
        }
    }
    let inner = indent + 2;
    match value {
        Value::Object(object) => {
            text.push_str("{\n");
            for (i, (name, value)) in in_order(object).into_iter().enumerate() {
                let comma = if i == 0 { "" } else { ",\n" };
                let _ = write!(text, "{comma}{:inner$}{}: ", "", Value::from(name.as_str()));
                print_value(value, inner, inner + name.len() + 4, text);
            }
            let _ = write!(text, "\n{:indent$}}}", "");
        }
        Value::Array(items) => {
            text.push_str("[\n");
            for (i, item) in items.iter().enumerate() {
                let comma = if i == 0 { "" } else { ",\n" };
                let _ = write!(text, "{comma}{:inner$}", "");
                print_value(item, inner, inner, text);
            }
            let _ = write!(text, "\n{:indent$}]", "");
        }
        other => text.push_str(&other.to_string()),
    }
}

/// Whether a value takes several lines, however short it is.
fn has_parts(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(name, value)| {
            let is_list = matches!(value, Value::Array(items) if !items.is_empty());
            matches!(name.as_str(), "events" | "schema")
                || is_list && (name == "fields" || name == "variants")
                || has_parts(value)
        }),
        Value::Array(items) => {
            items.iter().any(has_parts) || items.first().is_some_and(|item| item.get("name").is_some())
        }
        _ => false,
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Object(object) if object.is_empty() => "{}".to_owned(),
        Value::Object(object) => {
            let parts = in_order(object)
                .into_iter()
                .map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), one_line(value)));
            format!("{{ {} }}", parts.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The members of an object in the lock's order; serde_json's own order depends on one of its features.
fn in_order(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut members: Vec<_> = object.iter().collect();
    // Versions are numbers.
    members.sort_by_key(|(name, _)| (rank(name), name.parse::<u32>().ok(), *name));
    members
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use serde::Serialize as _;

    use super::super::super::json_schema::tests::describes;
    use super::super::super::sample::Sample;
    use super::super::super::{Compat, compare, fingerprint};
    use super::*;

    fn named(kind: &'static str, parts: &'static str, named: BTreeMap<String, Value>) -> Value {
        let parts_of = named.into_iter().map(|(name, mut value)| {
            value["name"] = json!(name);
            value
        });
        json!({ kind: "T", parts: parts_of.collect::<Vec<_>>() })
    }

    fn any_field(schema: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        (schema, any::<bool>()).prop_map(|(schema, optional)| {
            let mut field = json!({ "type": schema });
            flag(&mut field, "optional", optional);
            field
        })
    }

    fn any_struct(schema: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[a-f]", any_field(schema), 1..5)
            .prop_map(|fields| named("struct", "fields", fields))
    }

    fn any_schema() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just("unit"),
            Just("bool"),
            Just("char"),
            Just("string"),
            Just("u8"),
            Just("u32"),
            Just("i64"),
            Just("f64"),
        ]
        .prop_map(|word| json!(word));
        let leaf = prop_oneof![
            8 => leaf,
            1 => Just(json!({ "logical": "uuid", "wire": "bytes" })),
            1 => Just(json!({ "opaque": "tick@1" })),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            let variant = proptest::option::of(inner.clone()).prop_map(|body| match body {
                Some(body) => json!({ "type": body }),
                None => json!({}),
            });
            prop_oneof![
                inner.clone().prop_map(|inner| json!({ "option": inner })),
                inner.clone().prop_map(|inner| json!({ "list": inner })),
                (inner.clone(), 0..5).prop_map(|(inner, length)| json!({ "array": inner, "length": length })),
                (inner.clone(), inner.clone()).prop_map(|(key, value)| json!({ "key": key, "map": value })),
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|members| json!({ "tuple": members })),
                proptest::collection::btree_map("[A-E]", variant, 1..4)
                    .prop_map(|variants| named("enum", "variants", variants)),
                any_struct(inner),
            ]
        })
    }

    /// A change of a struct somewhere inside, and whether it is allowed.
    #[derive(Debug, Clone, Copy)]
    enum Change {
        AddRequired,
        AddOptional,
        Remove,
        Require,
        Retype,
        RenameType,
        Reorder,
    }

    const CHANGES: [Change; 7] = [
        Change::AddRequired,
        Change::AddOptional,
        Change::Remove,
        Change::Require,
        Change::Retype,
        Change::RenameType,
        Change::Reorder,
    ];

    /// Changes the struct that is `left` structs away. The answer says whether there was one and whether the change
    /// breaks a reader.
    fn change(value: &mut Value, left: &mut usize, change: Change, at: Index) -> Option<bool> {
        if value.get("struct").is_some() {
            if *left == 0 {
                return Some(change_struct(value, change, at));
            }
            *left -= 1;
        }
        match value {
            Value::Object(object) => object.values_mut().find_map(|value| self::change(value, left, change, at)),
            Value::Array(items) => items.iter_mut().find_map(|item| self::change(item, left, change, at)),
            _ => None,
        }
    }

    fn change_struct(value: &mut Value, change: Change, at: Index) -> bool {
        if let Change::RenameType = change {
            value["struct"] = json!("Renamed");
            return false;
        }
        let fields = value["fields"].as_array_mut().unwrap();
        let at = at.index(fields.len());
        let optional = fields[at].get("optional").is_some();
        match change {
            Change::AddRequired => fields.push(json!({ "name": "z", "type": "u8" })),
            Change::AddOptional => fields.push(json!({ "name": "z", "type": "u8", "optional": true })),
            Change::Remove => drop(fields.remove(at)),
            Change::Require => drop(fields[at].as_object_mut().unwrap().remove("optional")),
            Change::Retype => fields[at]["type"] = json!({ "list": { "list": { "opaque": "new@1" } } }),
            Change::Reorder => fields.reverse(),
            Change::RenameType => unreachable!(),
        }
        match change {
            Change::AddRequired | Change::Retype => true,
            Change::Remove => !optional,
            Change::Require => optional,
            Change::AddOptional | Change::Reorder | Change::RenameType => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in any_struct(any_schema())) {
            let schema = to_schema(&value).unwrap();
            let again = to_value(schema, Layout::Map);
            prop_assert_eq!(fingerprint(schema), fingerprint(to_schema(&again).unwrap()));
            let printed = print(&again);
            prop_assert_eq!(&serde_json::from_str::<Value>(&printed).unwrap(), &again);
            prop_assert_eq!(print(&to_value(to_schema(&again).unwrap(), Layout::Map)), printed);
        }

        #[test]
        fn samples_of_any_schema_are_what_its_json_schema_describes(value in any_struct(any_schema())) {
            let schema = to_schema(&value).unwrap();
            for pick in 0..4 {
                let mut payload = Vec::new();
                let mut serializer = rmp_serde::Serializer::new(&mut payload)
                    .with_struct_map()
                    .with_bytes(rmp_serde::config::BytesMode::ForceAll);
                // There is no sample of what the user vouches for.
                if (Sample { schema, pick, writes_other: true }).serialize(&mut serializer).is_ok() {
                    describes(schema, Layout::Map, &payload);
                }
            }
        }

        #[test]
        fn a_change_anywhere_inside_is_judged(
            old in any_struct(any_schema()),
            deep in 0..4_usize,
            what in proptest::sample::select(&CHANGES),
            at: Index,
        ) {
            let mut new = old.clone();
            let mut left = deep;
            let Some(breaks) = change(&mut new, &mut left, what, at) else { return Ok(()) };
            let (old_schema, new_schema) = (to_schema(&old).unwrap(), to_schema(&new).unwrap());
            let report = compare(old_schema, new_schema, Layout::Map, Compat::Full);
            prop_assert_eq!(report.breaks() > 0, breaks, "{:?}: {}", what, report.text());
            let exact = compare(old_schema, new_schema, Layout::Map, Compat::Exact);
            let changes = fingerprint(old_schema) != fingerprint(new_schema);
            prop_assert_eq!(exact.breaks() > 0, changes, "{:?}: {}", what, exact.text());
            if breaks {
                return Ok(());
            }
            // The lock then records both, and compares the next change with both.
            let merged = merge(&to_value(old_schema, Layout::Map), &to_value(new_schema, Layout::Map));
            let both = to_schema(&merged).unwrap();
            for schema in [old_schema, new_schema] {
                let report = compare(both, schema, Layout::Map, Compat::Full);
                let required_again = matches!(what, Change::Remove);
                prop_assert!(report.breaks() == 0 || required_again, "{:?}: {}", what, report.text());
            }
            prop_assert!(same(&merge(&merged, &to_value(new_schema, Layout::Map)), &merged));
        }

        #[test]
        fn what_is_no_lock_is_refused(value in any_schema(), word in "[a-z]{1,3}") {
            let text = value.to_string().replacen("\"u8\"", &format!("\"{word}\""), 1);
            let _ = to_schema(&serde_json::from_str(&text).unwrap());
        }
    }

    #[test]
    fn a_lock_is_made_to_be_read() {
        let entry = |fields: Value| json!({ "layout": "map", "schema": { "struct": "Trade", "fields": fields } });
        let lock = json!({
            "format": 1,
            "stream": "trades",
            "events": { "Trade": {
                "10": entry(json!([])),
                "2": entry(json!([
                    { "name": "legs", "type": { "list": { "struct": "Leg", "fields": [{ "name": "venue", "type": "string" }] } } },
                    { "name": "side", "type": { "enum": "Side", "variants": [{ "name": "Buy" }, { "name": "Sell" }] } },
                    { "name": "venue", "type": { "option": "string" }, "optional": true, "removed": true },
                ])),
            } }
        });
        let expected = r#"{
  "format": 1,
  "stream": "trades",
  "events": {
    "Trade": {
      "2": {
        "layout": "map",
        "schema": {
          "struct": "Trade",
          "fields": [
            {
              "name": "legs",
              "type": {
                "list": {
                  "struct": "Leg",
                  "fields": [
                    { "name": "venue", "type": "string" }
                  ]
                }
              }
            },
            {
              "name": "side",
              "type": {
                "enum": "Side",
                "variants": [
                  { "name": "Buy" },
                  { "name": "Sell" }
                ]
              }
            },
            { "name": "venue", "type": { "option": "string" }, "optional": true, "removed": true }
          ]
        }
      },
      "10": {
        "layout": "map",
        "schema": { "struct": "Trade", "fields": [] }
      }
    }
  }
}
"#;
        assert_eq!(print(&lock), expected);
    }
}
