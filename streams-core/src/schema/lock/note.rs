//! The schema of an event as one build shows it to another: the entry of a lock, compared by the same rules.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::super::compat::compare_builds;
use super::super::{Layout, Report, Schema};
use super::{FORMAT, form, read_layout};
use crate::EventInfo;
use crate::codec::{self, conform};

/// The longest entry that is written or read, in bytes of JSON: some fifty fields.
const MAX_ENTRY: usize = 4 * 1024;
/// The most schemas of others that a process reads. Each of them stays in memory, and there are as many as other shapes
/// have been met. They are enough for the event documentation of fifty streams with twenty events each.
const MAX_SCHEMAS: usize = 1_024;

/// The event as its lock has it, with the format of locks; `None` where that is long. Not public API: notes hold it.
#[doc(hidden)]
pub fn entry(event: &EventInfo) -> Option<Value> {
    let schema = form::to_value(event.schema, event.layout);
    let entry = json!({ "format": FORMAT, "layout": event.layout.word(), "schema": schema });
    Some(entry).filter(|entry| entry.to_string().len() <= MAX_ENTRY)
}

/// Compares the event of this build with the [`entry`] of another one. Not public API.
///
/// `None` where the entry is long, of another format, or damaged: it comes from whoever writes to the server.
#[doc(hidden)]
pub fn compare_entry(event: &EventInfo, entry: &Value) -> Option<Report> {
    Some(compare_builds(read_entry(entry)?, (event.schema, event.layout)))
}

/// Compares the [`entry`] of one build with that of another: the first counts as here. Not public API.
///
/// `None` where one of them is long, of another format, or damaged.
#[doc(hidden)]
pub fn compare_entries(here: &Value, there: &Value) -> Option<Report> {
    Some(compare_builds(read_entry(there)?, read_entry(here)?))
}

/// The first value of a payload that no build with this [`entry`] writes, in words. Not public API.
///
/// # Errors
/// When the bytes are no MessagePack, or the entry cannot be read.
#[doc(hidden)]
pub fn check_payload(entry: &Value, payload: &[u8]) -> Result<(), String> {
    holds(read_entry(entry).ok_or("the recorded shape cannot be read")?, payload)
}

fn holds((schema, layout): (&'static Schema, Layout), payload: &[u8]) -> Result<(), String> {
    codec::scan(payload).map_err(|fault| fault.to_string())?;
    conform::not_as_declared(schema, layout, payload).map_or(Ok(()), |mismatch| Err(mismatch.to_string()))
}

/// The shape in the [`entry`] of any build. Not public API.
///
/// `None` where the entry is long, of another format, or damaged, and when very many shapes have been read.
#[doc(hidden)]
pub fn read_entry(entry: &Value) -> Option<(&'static Schema, Layout)> {
    if entry["format"] != FORMAT {
        return None;
    }
    let layout = read_layout(entry).ok()?;
    Some((schema_of(&entry["schema"])?, layout))
}

/// A schema lives as long as the program, so each is read once.
fn schema_of(value: &Value) -> Option<&'static Schema> {
    static READ: Mutex<BTreeMap<String, Option<&'static Schema>>> = Mutex::new(BTreeMap::new());
    let text = value.to_string();
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(schema) = read.get(&text) {
        return *schema;
    }
    if text.len() > MAX_ENTRY || read.len() >= MAX_SCHEMAS {
        return None;
    }
    let schema = form::to_schema(value).ok();
    read.insert(text, schema);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> &'static Schema {
        form::to_schema(value).unwrap()
    }

    /// A struct of these fields.
    fn of(fields: Value) -> Value {
        Value::from_iter([("struct", json!("It")), ("fields", fields)])
    }

    fn field(name: &str, schema: Value) -> Value {
        Value::from_iter([("name", json!(name)), ("type", schema)])
    }

    fn with(mut field: Value, flags: &[&str]) -> Value {
        for flag in flags {
            field[flag] = json!(true);
        }
        field
    }

    /// The report for the build here, with the first schema: whether each build reads the other's events.
    #[track_caller]
    fn check(here: &Value, there: &Value, expected: &[&str], reads: (bool, bool)) {
        let report = compare_builds((read(there), Layout::Map), (read(here), Layout::Map));
        assert_eq!(report.lines().collect::<Vec<_>>(), expected);
        assert_eq!(report.reads(), reads);
        assert_eq!(report.breaks(), expected.len());
    }

    #[test]
    fn an_optional_field_more_is_read_by_both() {
        let old = of(json!([field("price", json!("f64"))]));
        let new = of(json!([field("price", json!("f64")), with(field("venue", json!("string")), &["optional"])]));
        check(&new, &old, &["`venue` (string, optional) is only here"], (true, true));
        check(&old, &new, &["`venue` (string, optional) is only there"], (true, true));
    }

    #[test]
    fn what_one_side_cannot_do_without_is_told_by_side() {
        let field = field("venue", json!("string"));
        let (none, venue) = (of(json!([])), of(json!([field.clone()])));
        check(&venue, &none, &["`venue` (string, required) is only here"], (false, true));
        check(&none, &venue, &["`venue` (string, required) is only there"], (true, false));
        let mut strict = none.clone();
        strict["deny_unknown"] = json!(true);
        let lines = ["`venue` (string, required) is only there", "the event refuses unknown fields here and not there"];
        check(&strict, &venue, &lines, (false, false));
        let absent = of(json!([with(field.clone(), &["optional", "may_be_absent"])]));
        check(&venue, &absent, &["`venue` may be left out there and is required here"], (false, true));
        check(&absent, &venue, &["`venue` may be left out here and is required there"], (true, false));
        let defaulted = of(json!([with(field, &["optional"])]));
        check(&venue, &defaulted, &["`venue` is optional there and required here"], (true, true));
        check(&defaulted, &venue, &["`venue` is optional here and required there"], (true, true));
        check(&absent, &defaulted, &["`venue` may be left out here and not there"], (true, true));
    }

    #[test]
    fn types_differ_by_what_reads_what() {
        for (here, there, text, reads) in [
            (json!("f64"), json!("string"), "`x` is f64 here and string there", (false, false)),
            (json!("u64"), json!("u32"), "`x` is u64 here and u32 there", (true, false)),
            (json!("i32"), json!("u32"), "`x` is i32 here and u32 there", (false, false)),
            (json!("i64"), json!("u32"), "`x` is i64 here and u32 there", (true, false)),
            (json!("f32"), json!("f64"), "`x` is f32 here and f64 there", (false, true)),
            (json!({ "option": "u32" }), json!("u32"), "`x` may be nil here and not there", (true, false)),
            (json!("u32"), json!({ "option": "u32" }), "`x` may be nil there and not here", (false, true)),
            (
                json!({ "list": "string" }),
                json!({ "list": "bool" }),
                "`x[]` is string here and bool there",
                (false, false),
            ),
            (
                json!({ "key": "string", "map": "u8" }),
                json!({ "key": "u8", "map": "u8" }),
                "`x.{key}` is string here and u8 there",
                (false, false),
            ),
        ] {
            check(&of(json!([field("x", here)])), &of(json!([field("x", there)])), &[text], reads);
        }
    }

    #[test]
    fn a_field_that_was_renamed_is_found_by_its_alias() {
        let mut size = field("size", json!("u8"));
        size["aliases"] = json!(["quantity"]);
        let (new, old) = (of(json!([size])), of(json!([field("quantity", json!("u8"))])));
        check(&new, &old, &["`size` is called `quantity` there"], (true, false));
        check(&old, &new, &["`size` is called `quantity` here"], (false, true));
        let (plain, mut aliased) = (field("size", json!("u8")), field("size", json!("u8")));
        aliased["aliases"] = json!(["quantity"]);
        let (plain, aliased) = (of(json!([plain])), of(json!([aliased])));
        // Neither of the two writes it.
        check(&plain, &aliased, &["`size` is read there from `quantity`, too"], (true, true));
        check(&aliased, &plain, &["the event differs in nothing but what either reads besides"], (true, true));
    }

    #[test]
    fn variants_are_read_where_there_is_one_for_all_others() {
        let side = |variants: Value| of(json!([field("side", json!({ "enum": "Side", "variants": variants }))]));
        let (buy, sell) = (json!({ "name": "Buy" }), json!({ "name": "Sell" }));
        let (one, two) = (side(json!([buy])), side(json!([buy, sell])));
        check(&two, &one, &["`side.Sell` (a variant) is only here"], (true, false));
        check(&one, &two, &["`side.Sell` (a variant) is only there"], (false, true));
        let other = side(json!([buy, { "name": "Unknown", "other": true }]));
        let expected = ["`side.Sell` (a variant) is only there", "`side.Unknown` (a variant) is only here"];
        check(&other, &two, &expected, (true, true));
        let expected = ["`side.Unknown` (a variant) is only there", "`side.Sell` (a variant) is only here"];
        check(&two, &other, &expected, (true, true));
    }

    #[test]
    fn an_array_is_another_event_whatever_differs() {
        let (a, b) = (field("a", json!("u8")), with(field("b", json!("u8")), &["optional"]));
        let (one, more) = (of(json!([a])), of(json!([a, b])));
        let turned = of(json!([b, a]));
        for (here, there, layout, text) in [
            (&more, &one, Layout::Array, "`b` (u8, optional) is only here"),
            (&turned, &more, Layout::Array, "the event has its fields in another order there"),
            (&one, &one, Layout::Map, "the event has `layout = \"map\"` here and `layout = \"array\"` there"),
        ] {
            let report = compare_builds((read(there), Layout::Array), (read(here), layout));
            assert!(report.text().contains(text), "{}", report.text());
            assert_eq!(report.reads(), (false, false), "{text}");
        }
    }

    #[test]
    fn a_payload_is_held_to_the_shape_of_its_build() {
        let shape = (read(&of(json!([field("price", json!("u8"))]))), Layout::Map);
        let price = |value: &[u8]| [b"\x81\xa5price", value].concat();
        assert_eq!(holds(shape, &price(&[7])), Ok(()));
        let refused = holds(shape, &price(&[0xcd, 2, 0xbc])).unwrap_err();
        assert!(refused.starts_with("`price`: expected u8, found the integer 700"), "{refused}");
        assert!(holds(shape, &[0x81]).is_err());
        let other = json!({ "format": FORMAT + 1 });
        assert_eq!(check_payload(&other, &[0xc0]).unwrap_err(), "the recorded shape cannot be read");
        assert!(compare_entries(&other, &other).is_none());
    }

    #[test]
    fn what_is_no_schema_is_passed_over() {
        // serde could not read it back, so that no program can have it.
        let bytes = json!({ "enum": "E", "tag": "t", "variants": [{ "name": "A", "type": { "list": "u8" } }] });
        for schema in [json!("decimal"), json!(null), bytes, json!({ "struct": "A" }), json!("u8".repeat(MAX_ENTRY))] {
            assert!(schema_of(&schema).is_none(), "{schema}");
        }
        let first = schema_of(&json!("u8")).unwrap();
        assert!(std::ptr::eq(first, schema_of(&json!("u8")).unwrap()), "read once");
        for n in 0..=MAX_SCHEMAS {
            schema_of(&json!({ "opaque": format!("kind@{n}") }));
        }
        assert!(schema_of(&json!({ "opaque": "kind@last" })).is_none(), "no more than so many stay in memory");
    }
}
