//! A test of `compat` against serde: over every pair of many types, serde must read what `compat` calls readable.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use super::compat::compare_builds;
use super::sample::Sample;
use super::{Compat, Layout, Schema, SchemaType, compare};
use crate::codec::tests::to_bytes;
use crate::event_type;

/// A type, as far as it reads bytes.
struct Reader {
    name: &'static str,
    schema: &'static Schema,
    read: fn(&[u8]) -> Result<(), String>,
}

fn reader<T: SchemaType + DeserializeOwned>(name: &'static str) -> Reader {
    let read = |bytes: &[u8]| rmp_serde::from_slice::<T>(bytes).map(drop).map_err(|error| error.to_string());
    Reader { name, schema: T::SCHEMA, read }
}

macro_rules! readers {
    ($($name:ident { $($item:item)* })*) => {
        $(
            mod $name {
                use super::*;
                $($item)*
            }
        )*
        fn readers() -> Vec<Reader> {
            vec![$(reader::<$name::It>(stringify!($name))),*]
        }
    };
}

readers! {
    base { #[event_type] pub(super) struct It { a: u32, b: String } }
    reordered { #[event_type] pub(super) struct It { b: String, a: u32 } }
    narrower { #[event_type] pub(super) struct It { a: u16, b: String } }
    wider { #[event_type] pub(super) struct It { a: u64, b: String } }
    signed { #[event_type] pub(super) struct It { a: i64, b: String } }
    signed_narrow { #[event_type] pub(super) struct It { a: i32, b: String } }
    float { #[event_type] pub(super) struct It { a: f64, b: String } }
    optional_a { #[event_type] pub(super) struct It { a: Option<u32>, b: String } }
    defaulted_a { #[event_type] pub(super) struct It { #[serde(default)] a: u32, b: String } }
    left_out_b { #[event_type] pub(super) struct It { a: u32, #[serde(default, skip_serializing_if = "String::is_empty")] b: String } }
    only_a { #[event_type] pub(super) struct It { a: u32 } }
    only_a_denying { #[event_type] #[serde(deny_unknown_fields)] pub(super) struct It { a: u32 } }
    longer { #[event_type] pub(super) struct It { a: u32, b: String, c: u8 } }
    longer_optional { #[event_type] pub(super) struct It { a: u32, b: String, c: Option<u8> } }
    longer_default { #[event_type] pub(super) struct It { a: u32, b: String, #[serde(default)] c: Vec<u8> } }
    aliased { #[event_type] pub(super) struct It { #[serde(alias = "a")] x: u32, b: String } }
    alias_of { #[event_type] pub(super) struct It { #[serde(alias = "x")] a: u32, b: String } }
    two_names { #[event_type] pub(super) struct It { a: u32, b: String, c: Option<u8>, d: Option<u8> } }
    two_names_as_one { #[event_type] pub(super) struct It { a: u32, b: String, #[serde(alias = "c")] d: Option<u8> } }
    left_out_x { #[event_type] pub(super) struct It { #[serde(default, skip_serializing_if = "is_zero")] x: u32, b: String } }
    renamed { #[event_type] pub(super) struct It { x: u32, b: String } }
    optional_a_denying { #[event_type] #[serde(deny_unknown_fields)] pub(super) struct It { a: Option<u32>, b: String } }
    aliased_optional { #[event_type] pub(super) struct It { #[serde(alias = "a")] x: Option<u32>, b: String } }
    lists { #[event_type] pub(super) struct It { a: Vec<u32>, b: String } }
    fixed { #[event_type] pub(super) struct It { a: [u32; 2], b: String } }
    pairs { #[event_type] pub(super) struct It { a: (u32, u32), b: String } }
    maps { #[event_type] pub(super) struct It { a: BTreeMap<String, u32>, b: String } }
    sets { #[event_type] pub(super) struct It { a: BTreeSet<u32>, b: String } }
    bytes { #[event_type] pub(super) struct It { a: Vec<u8>, b: String } }
    nested { #[event_type] pub(super) struct It { a: base::It, b: String } }
    nested_longer { #[event_type] pub(super) struct It { a: longer_optional::It, b: String } }
    nested_narrower { #[event_type] pub(super) struct It { a: narrower::It, b: String } }
    two { #[event_type] pub(super) enum It { A, B } }
    two_reordered { #[event_type] pub(super) enum It { B, A } }
    three { #[event_type] pub(super) enum It { A, B, C } }
    three_with_data { #[event_type] pub(super) enum It { A, B, C(u8) } }
    two_or_other { #[event_type] pub(super) enum It { A, B, #[serde(other)] Other } }
    two_aliased { #[event_type] pub(super) enum It { A, #[serde(alias = "B")] Z } }
    data { #[event_type] pub(super) enum It { A(u32), B { x: u8 } } }
    data_wider { #[event_type] pub(super) enum It { A(u64), B { x: u8, y: Option<u8> } } }
    tagged { #[event_type] #[serde(tag = "t")] pub(super) enum It { A, B { x: u8 } } }
    tagged_three { #[event_type] #[serde(tag = "t")] pub(super) enum It { A, B { x: u8 }, C { y: String } } }
    tagged_or_other { #[event_type] #[serde(tag = "t")] pub(super) enum It { A, B { x: u8 }, #[serde(other)] Other } }
    adjacent { #[event_type] #[serde(tag = "t", content = "c")] pub(super) enum It { A, B(u8) } }
    adjacent_or_other { #[event_type] #[serde(tag = "t", content = "c")] pub(super) enum It { A, B(u8), #[serde(other)] Other } }
    adjacent_three { #[event_type] #[serde(tag = "t", content = "c")] pub(super) enum It { A, B(u8), C { y: u8 } } }
    tree { #[event_type] pub(super) struct It { a: u32, b: String, inside: Vec<It> } }
    tree_optional { #[event_type] pub(super) struct It { a: u32, b: String, #[serde(default)] inside: Vec<It> } }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Whether a reader accepts every sample of a writer; otherwise the first sample that it refuses.
fn reads(writer: &Reader, reader: &Reader, writes_other: bool) -> Result<(), String> {
    (0..24).try_for_each(|pick| {
        let bytes = to_bytes(&Sample { schema: writer.schema, pick, writes_other });
        (reader.read)(&bytes).map_err(|error| format!("{bytes:02x?}: {error}"))
    })
}

#[test]
fn what_is_said_to_be_readable_is_read() {
    let readers = readers();
    let (mut pairs, mut stricter) = (0, Vec::new());
    for old in &readers {
        for new in &readers {
            pairs += 1;
            let allows = |compat| compare(old.schema, new.schema, Layout::Map, compat).breaks() == 0;
            let (backward, full) = (allows(Compat::Backward), allows(Compat::Full));
            let (old_events, new_events) = (reads(old, new, true), reads(new, old, false));
            if backward && let Err(problem) = &old_events {
                panic!("`{}` is said to read what `{}` wrote, and does not read {problem}", new.name, old.name);
            }
            if full && let Err(problem) = &new_events {
                panic!("`{}` is said to read what `{}` writes, and does not read {problem}", old.name, new.name);
            }
            assert!(backward || !full, "full is stricter than backward: {} to {}", old.name, new.name);
            // Each of two builds writes its present form only.
            let builds = compare_builds((old.schema, Layout::Map), (new.schema, Layout::Map)).reads();
            for (said, writer, reader) in [(builds.0, old, new), (builds.1, new, old)] {
                if said && let Err(problem) = reads(writer, reader, false) {
                    panic!(
                        "the build `{}` is said to read `{}`, and does not read {problem}",
                        reader.name, writer.name
                    );
                }
            }
            let turned = compare_builds((new.schema, Layout::Map), (old.schema, Layout::Map)).reads();
            assert_eq!(builds, (turned.1, turned.0), "either build says the same: {} and {}", old.name, new.name);
            assert!(!full || builds == (true, true), "builds are held to less than a lock: {} {}", old.name, new.name);
            if !backward && old_events.is_ok() {
                stricter.push(format!("{} to {}", old.name, new.name));
            }
        }
    }
    assert!(pairs >= 2300, "{pairs}");
    // Some are read by luck, or as something else: an integer as a float, or a list as a pair.
    assert!(
        stricter.len() * 20 < pairs,
        "{} of {pairs} pairs are refused although they are read: {stricter:#?}",
        stricter.len()
    );
}

#[test]
fn a_type_reads_itself_in_any_order() {
    for reader in readers() {
        assert_eq!(compare(reader.schema, reader.schema, Layout::Map, Compat::Exact).breaks(), 0, "{}", reader.name);
        reads(&reader, &reader, true).unwrap();
    }
    let of = |name: &str| readers().into_iter().find(|reader| reader.name == name).unwrap().schema;
    for (a, b) in [("base", "reordered"), ("two", "two_reordered")] {
        assert_eq!(compare(of(a), of(b), Layout::Map, Compat::Exact).breaks(), 0, "{a} {b}");
    }
    let report = compare(of("base"), of("reordered"), Layout::Array, Compat::Exact);
    assert!(report.text().contains("the order of the fields changed"), "{}", report.text());
}
