//! Reads the lock of an event's stream and writes the comparison of the two; `streams_core::schema::lock` has the
//! rules.
//!
//! The lock is beside the manifest of the crate that declares the event, `schemas/<stream>.lock.json`, so that it is
//! published and reviewed with that crate.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use serde_json::{Map, Value};
use syn::{Ident, LitStr};

use crate::args::option_tokens;
use crate::errors::{Errors, called, called_at};
use crate::shape::Part;

/// The form of the locks that this version reads.
const FORMAT: u64 = 1;

/// The parts of an event that concern its lock.
pub(crate) struct Event<'a> {
    pub(crate) root: &'a TokenStream,
    pub(crate) ident: &'a Ident,
    pub(crate) stream: &'a LitStr,
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    /// The variant of `Compat`.
    pub(crate) compat: &'a Ident,
    /// The parts at which the compiler can point.
    pub(crate) parts: Vec<Part>,
}

/// The expansion for an event and its lock.
#[derive(Default)]
pub(crate) struct Emitted {
    /// The comparison of the two, and the test that keeps the lock.
    pub(crate) comparison: TokenStream,
    /// The newest version that is locked.
    pub(crate) newest: Option<u32>,
}

/// The comparison with the lock, and the test that maintains the lock. Nothing for events that only a test sees.
pub(crate) fn emit(event: &Event<'_>, errors: &mut Errors) -> Emitted {
    // cargo sets it only for integration tests and benchmarks, whose events never leave them.
    if env::var_os("CARGO_TARGET_TMPDIR").is_some() {
        return Emitted::default();
    }
    let (file, path) = place(&event.stream.value());
    let (entry, newest) = match read(&path, event) {
        Ok(read) => read,
        Err(problem) => {
            errors.push(event.stream, format!("{file} {problem}"));
            return Emitted::default();
        }
    };
    let Event { root, ident, compat, .. } = *event;
    let build = quote! {
        #root::__private::Build {
            event: <#ident as #root::StreamEvent>::INFO,
            compat: #root::schema::Compat::#compat,
            file: #file,
            module: ::core::module_path!(),
            test: ::core::cfg!(test),
            lock: ::core::option_env!("STREAMS_LOCK"),
            bless: ::core::option_env!("STREAMS_BLESS"),
        }
    };
    let comparison = match &entry {
        Found::NoFile => unlocked(event, &build),
        Found::NoEntry => with_tracking(&path, unlocked(event, &build)),
        Found::Entry(entry) => with_tracking(&path, comparison(event, &build, entry)),
    };
    let test = test(event, &build, &manifest_dir());
    Emitted { comparison: quote!(#comparison #test), newest }
}

/// The path of a stream's lock: from the manifest of the crate being compiled, and as an absolute path.
pub(crate) fn place(stream: &str) -> (String, PathBuf) {
    // Not every system allows a colon in the name of a file, and no stream has a plus in its name.
    let file = format!("schemas/{}.lock.json", stream.replace(':', "+"));
    let path = Path::new(&manifest_dir()).join(&file);
    (file, path)
}

/// Build systems other than cargo may not set it. Then there is no lock, and `STREAMS_LOCK=required` refuses that.
fn manifest_dir() -> String {
    env::var("CARGO_MANIFEST_DIR").unwrap_or_default()
}

enum Found {
    NoFile,
    NoEntry,
    Entry(Entry),
}

struct Entry {
    schema: TokenStream,
    is_array: bool,
    published: bool,
}

/// The lock at this path; `None` if there is none.
pub(crate) fn load(path: &Path) -> Result<Option<Value>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let lock: Value = serde_json::from_str(&text)
        .map_err(|error| format!("is not JSON: {error}; restore it from version control, or finish the merge"))?;
    if lock["format"] != FORMAT {
        let format = &lock["format"];
        return Err(format!(
            "has format {format}, and this version reads format {FORMAT}; use the version that wrote it"
        ));
    }
    Ok(Some(lock))
}

/// The event's entry, and the newest version of the event in the lock.
fn read(path: &Path, event: &Event<'_>) -> Result<(Found, Option<u32>), String> {
    let Some(lock) = load(path)? else { return Ok((Found::NoFile, None)) };
    let versions = lock["events"].get(event.name).and_then(Value::as_object);
    let newest = versions.and_then(|versions| versions.keys().filter_map(|version| version.parse().ok()).max());
    let Some(entry) = versions.and_then(|versions| versions.get(&event.version.to_string())) else {
        return Ok((Found::NoEntry, newest));
    };
    let invalid = |problem| {
        let Event { name, version, .. } = event;
        format!("cannot be read at `{name}@{version}`: {problem}; restore it from version control")
    };
    let is_array = match entry["layout"].as_str() {
        Some("map") => false,
        Some("array") => true,
        _ => return Err(invalid("its `layout` is neither \"map\" nor \"array\"".to_owned())),
    };
    let schema = schema(&entry["schema"]).map_err(invalid)?;
    Ok((Found::Entry(Entry { schema, is_array, published: entry["published"] == true }), newest))
}

/// Makes cargo compile the crate again when its lock changes.
pub(crate) fn with_tracking(path: &Path, tokens: TokenStream) -> TokenStream {
    match path.to_str() {
        Some(path) => quote!(const _: &[u8] = ::core::include_bytes!(#path); #tokens),
        None => tokens,
    }
}

fn unlocked(event: &Event<'_>, build: &TokenStream) -> TokenStream {
    let call = called(event.ident, &quote!(build.unlocked), quote!());
    quote! {
        const _: () = {
            let build = #build;
            #call
        };
    }
}

fn comparison(event: &Event<'_>, build: &TokenStream, entry: &Entry) -> TokenStream {
    let root = event.root;
    let Entry { schema, is_array, published } = entry;
    let layout = if *is_array { quote!(Array) } else { quote!(Map) };
    let places = event.parts.iter().map(|part| {
        let name = &part.wire;
        called_at(part.begin, part.end, &quote!(build.at), quote!(&locked, &report, #name))
    });
    let whole = called(event.ident, &quote!(build.stop), quote!(&locked, &report));
    // One constant per event, whose usual path is short: a constant per field would cost more than serde's derives.
    quote! {
        const _: () = {
            static LOCKED: #root::schema::Schema = {
                // Imported in here, where no type of the user's is named.
                use #root::schema::{EnumSchema, Field, Schema, StructSchema, Tagging, Variant};
                #schema
            };
            let build = #build;
            let locked = #root::__private::Locked {
                schema: &LOCKED,
                layout: #root::schema::Layout::#layout,
                published: #published,
            };
            if build.breaks(&locked) {
                let report = build.report(&locked);
                #(#places;)*
                #whole
            }
        };
    }
}

/// The test that writes the lock. Inside a function it cannot run, and reports nothing.
fn test(event: &Event<'_>, build: &TokenStream, directory: &str) -> TokenStream {
    let Event { root, ident, version, .. } = event;
    let name = format_ident!("lock_of_{}_{}", snake(&syn::ext::IdentExt::unraw(*ident).to_string()), version);
    let bin = option_tokens(env::var("CARGO_BIN_NAME").ok());
    quote! {
        #[cfg(test)]
        const _: () = {
            #root::__private::inventory::submit! {
                #root::__private::Site { build: #build, manifest_dir: #directory, bin: #bin }
            }
        };
        #[cfg(test)]
        #[test]
        fn #name() {
            #root::__private::check_lock::<#ident>(#directory)
        }
    }
}

/// The name of a type in the case of functions. A name that cannot be restored from it gets a number, so that no two
/// types clash.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        if letter != '_' || !snake.ends_with('_') {
            snake.extend(letter.to_lowercase());
        }
    }
    let words = snake.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    });
    if words.collect::<String>() != name {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        snake = format!("{}_{:x}", snake.trim_matches('_'), hasher.finish());
    }
    snake
}

/// A schema of the lock, as an expression. The names of its types must be in scope.
pub(crate) fn schema(value: &Value) -> Result<TokenStream, String> {
    let unknown = || format!("`{value}` is no schema");
    let object = match value {
        Value::String(word) => {
            return Ok(match word.as_str() {
                "unit" => quote!(Schema::Unit),
                "bool" => quote!(Schema::Bool),
                "char" => quote!(Schema::Char),
                "string" => quote!(Schema::Str),
                "bytes" => quote!(Schema::Bytes),
                "f32" => quote!(Schema::F32),
                "f64" => quote!(Schema::F64),
                "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => {
                    let signed = word.starts_with('i');
                    let bits: u8 = word[1..].parse().map_err(|_| unknown())?;
                    quote!(Schema::Int { bits: #bits, signed: #signed })
                }
                _ => return Err(unknown()),
            });
        }
        Value::Object(object) => object,
        _ => return Err(unknown()),
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let of = |name: &str| schema(object.get(name).unwrap_or(&Value::Null));
    Ok(if object.contains_key("option") {
        let some = of("option")?;
        quote!(Schema::Option(&#some))
    } else if object.contains_key("list") {
        let item = of("list")?;
        quote!(Schema::Seq(&#item))
    } else if object.contains_key("array") {
        let item = of("array")?;
        let length = object.get("length").and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(unknown)?;
        quote!(Schema::Array(&#item, #length))
    } else if object.contains_key("map") && object.contains_key("key") {
        let (key, value) = (of("key")?, of("map")?);
        quote!(Schema::Map(&#key, &#value))
    } else if let Some(members) = object.get("tuple").and_then(Value::as_array) {
        let members = members.iter().map(schema).collect::<Result<Vec<_>, _>>()?;
        quote!(Schema::Tuple(&[#(&#members),*]))
    } else if let Some(name) = text("struct") {
        let deny_unknown = object.contains_key("deny_unknown");
        let fields = list(object, "fields")?.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        quote!(Schema::Struct(&const { StructSchema::new(#name, #deny_unknown, &[#(#fields),*]) }))
    } else if let Some(name) = text("enum") {
        let tagging = match (text("tag"), text("content")) {
            (Some(tag), Some(content)) => quote!(Adjacent(#tag, #content)),
            (Some(tag), None) => quote!(Internal(#tag)),
            (None, _) => quote!(External),
        };
        let variants = list(object, "variants")?.iter().map(variant).collect::<Result<Vec<_>, _>>()?;
        quote!(Schema::Enum(&const { EnumSchema::new(#name, Tagging::#tagging, &[#(#variants),*]) }))
    } else if let Some(name) = text("logical") {
        let wire = of("wire")?;
        quote!(Schema::Logical { name: #name, wire: &#wire })
    } else if let Some(tag) = text("opaque") {
        quote!(Schema::Opaque(#tag))
    } else if let Some(name) = text("recursive") {
        quote!(Schema::Ref(#name))
    } else {
        return Err(unknown());
    })
}

fn field(value: &Value) -> Result<TokenStream, String> {
    let name = value["name"].as_str().ok_or_else(|| format!("the field `{value}` has no name"))?;
    let schema = schema(&value["type"])?;
    let aliases = aliases(value);
    // A removed field or variant may be missing, because nobody needs it.
    let removed = value.get("removed").is_some();
    let optional = removed || value.get("optional").is_some();
    let may_be_absent = removed || value.get("may_be_absent").is_some();
    Ok(quote! {
        Field {
            name: #name,
            aliases: &[#(#aliases),*],
            schema: &#schema,
            optional: #optional,
            may_be_absent: #may_be_absent,
            doc: "",
        }
    })
}

fn variant(value: &Value) -> Result<TokenStream, String> {
    let name = value["name"].as_str().ok_or_else(|| format!("the variant `{value}` has no name"))?;
    let body = value.get("type").map_or_else(|| Ok(quote!(Schema::Unit)), schema)?;
    let aliases = aliases(value);
    let other = value.get("other").is_some();
    Ok(quote!(Variant { name: #name, aliases: &[#(#aliases),*], body: &#body, catch_all: #other, doc: "" }))
}

fn aliases(value: &Value) -> Vec<&str> {
    value["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Vec<Value>, String> {
    object.get(name).and_then(Value::as_array).ok_or_else(|| format!("a type has no list of `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_locks_are_called_as_functions_are_and_each_by_its_own_name() {
        let plain = [("Trade", "trade"), ("TradeV2", "trade_v2"), ("HTTPCall", "h_t_t_p_call"), ("Größe", "größe")];
        plain.iter().for_each(|(name, expected)| assert_eq!(snake(name), *expected));
        let others =
            ["Trade_V2", "trade", "trade_v2", "Trade__V2", "_Trade", "TRADE_V2", "Trade_", "ẞ", "_"].map(snake);
        for (at, other) in others.iter().enumerate() {
            let is_snake = !other.contains("__") && !other.contains(char::is_uppercase);
            assert!(
                is_snake && !others[..at].contains(other) && plain.iter().all(|(_, plain)| plain != other),
                "{other}"
            );
        }
    }
}
