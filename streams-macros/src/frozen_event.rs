//! `frozen_event!(..)`: writes the type of an older version from its lock, with the types inside it.
//!
//! As every event, the written type is compared with its lock (`lock`), so that the two cannot differ.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use serde_json::Value;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, DeriveInput, Ident, LitStr, Token, Type, Visibility, parse_quote};

use crate::args::{Args, NameKind, missing, nearest};
use crate::errors::{Errors, called};
use crate::lock;
use crate::shape::Shape;
use crate::stream_event::fallback_event;

pub(crate) fn expand(tokens: TokenStream, root: &TokenStream) -> TokenStream {
    let Declaration { attrs, visibility, ident, options } = match syn::parse2(tokens) {
        Ok(declaration) => declaration,
        Err(error) => return error.to_compile_error(),
    };
    let mut errors = Errors::default();
    let options = Options::parse(options, root, &mut errors);
    let entry = options.entry(&mut errors);
    let written = entry.and_then(|entry| {
        let mut writer = Writer::new(&options, &visibility, &ident);
        match writer.event(&attrs, &entry) {
            Ok(written) => Some(written),
            Err(reason) => {
                errors.push(&ident, reason);
                None
            }
        }
    });
    match (errors.finish(), written) {
        (None, Some(written)) => written,
        (errors, _) => {
            let stand_in: DeriveInput = parse_quote!(#visibility struct #ident {});
            let mut none = Errors::default();
            let fallback = Shape::new(&stand_in, &options.root, &mut none).fallback();
            drop(none.finish());
            let event = fallback_event(&stand_in, &options.root);
            quote!(#errors #fallback #event)
        }
    }
}

/// `/// Docs. pub TradeV1, stream = "trades", ..`
struct Declaration {
    attrs: Vec<Attribute>,
    visibility: Visibility,
    ident: Ident,
    options: TokenStream,
}

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        const EXAMPLE: &str = "expected the name of the type and what it was: `pub TradeV1, stream = \"trades\", name = \"Trade\", version = 1`";
        let attrs = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let ident = input.parse().map_err(|error: syn::Error| syn::Error::new(error.span(), EXAMPLE))?;
        if !input.is_empty() && !input.peek(Token![,]) {
            return Err(input.error(EXAMPLE));
        }
        let _: Option<Token![,]> = input.parse()?;
        Ok(Self { attrs, visibility, ident, options: input.parse()? })
    }
}

/// The arguments of the macro.
struct Options {
    root: TokenStream,
    stream: Option<LitStr>,
    name: Option<LitStr>,
    version: Option<(u32, TokenStream)>,
    types: Vec<NamedType>,
    /// The arguments that `#[stream_event(..)]` gets, too, and reads by itself.
    passed_on: TokenStream,
}

/// `"tick@1" => crate::Tick`: the Rust type of a form that the lock does not describe, or of a type inside the event
/// that has not changed since.
struct NamedType {
    form: LitStr,
    ty: Type,
}

impl Parse for NamedType {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let form = input.parse()?;
        input.parse::<Token![=>]>()?;
        Ok(Self { form, ty: input.parse()? })
    }
}

impl Options {
    const PASSED_ON: &[&str] =
        &["upcast_from", "oldest", "key", "partitions", "retention", "durability", "max_payload"];

    fn parse(tokens: TokenStream, root: &TokenStream, errors: &mut Errors) -> Self {
        let known = [["stream", "name", "version", "types", "crate"].as_slice(), Self::PASSED_ON].concat();
        let mut args = Args::parse(tokens, &known, errors);
        let root = args.root(root, errors);
        let complete = errors.is_empty();
        let mut required = |option, errors: &mut Errors| {
            let value = args.take(option);
            if value.is_none() && complete {
                missing(
                    option,
                    "frozen_event!(pub TradeV1, stream = \"trades\", name = \"Trade\", version = 1)",
                    errors,
                );
            }
            value
        };
        let stream = required("stream", errors).and_then(|value| value.redis_name(NameKind::Stream, errors));
        let name = required("name", errors).and_then(|value| value.redis_name(NameKind::Event, errors));
        let version = required("version", errors).and_then(|value| {
            let version = value.integer(1..=u32::MAX.into(), "a whole number from 1, such as `1`", errors)?;
            Some((version as u32, value.tokens))
        });
        let types = args.take("types").map_or_else(Vec::new, |value| {
            let parse = Punctuated::<NamedType, Token![,]>::parse_terminated;
            let braces: Option<Group> = syn::parse2(value.tokens.clone()).ok();
            let types = braces
                .filter(|group| group.delimiter() == Delimiter::Brace)
                .and_then(|group| parse.parse2(group.stream()).ok());
            if types.is_none() {
                value.invalid("forms and their types, such as `{ \"tick@1\" => crate::Tick }`", errors);
            }
            types.into_iter().flatten().collect()
        });
        let mut passed_on = TokenStream::new();
        for option in Self::PASSED_ON {
            if let Some(value) = args.take(option) {
                let (name, value) = (format_ident!("{option}"), value.tokens);
                passed_on.extend(quote!(, #name = #value));
            }
        }
        Self { root, stream, name, version, types, passed_on }
    }

    /// The lock's entry for this version.
    fn entry(&self, errors: &mut Errors) -> Option<Value> {
        let (stream, name, (version, at)) = (self.stream.as_ref()?, self.name.as_ref()?, self.version.as_ref()?);
        let (file, path) = lock::place(&stream.value());
        let lock = match lock::load(&path) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                errors.push(stream, format!("there is no {file} to write the event from; `cargo test` writes it while the event is declared as a type, and only events of this crate are in it"));
                return None;
            }
            Err(problem) => {
                errors.push(stream, format!("{file} {problem}"));
                return None;
            }
        };
        let Some(versions) = lock["events"].get(name.value()).and_then(Value::as_object) else {
            let names: Vec<&str> =
                lock["events"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let near = nearest(&name.value(), &names).map(|near| format!(", perhaps `{near}`")).unwrap_or_default();
            errors.push(name, format!("{file} has no event `{}`{near}; it has: {}", name.value(), names.join(", ")));
            return None;
        };
        let Some(entry) = versions.get(&version.to_string()) else {
            let mut known: Vec<u32> = versions.keys().filter_map(|version| version.parse().ok()).collect();
            known.sort_unstable();
            let known: Vec<_> = known.iter().map(u32::to_string).collect();
            errors.push(
                at,
                format!("{file} has no version {version} of `{}`; it has: {}", name.value(), known.join(", ")),
            );
            return None;
        };
        Some(entry.clone())
    }

    fn type_of(&self, form: &str) -> Option<&Type> {
        self.types.iter().find(|named| named.form.value() == form).map(|named| &named.ty)
    }
}

/// Writes types. A type that it cannot write is an error with the place and the remedy.
struct Writer<'a> {
    options: &'a Options,
    visibility: &'a Visibility,
    ident: &'a Ident,
    /// The types inside the event that are written, or whose writing has begun.
    parts: Vec<Part>,
    /// The types in keys of maps, which must be ordered.
    keys: Vec<Value>,
    /// The shapes of the lock for which the user names a type of today, and what compares the two.
    comparisons: Vec<(Value, TokenStream)>,
}

struct Part {
    ident: Ident,
    schema: Value,
    written: TokenStream,
}

/// The place of a type.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The fields that lead to it, for messages.
    path: &'a str,
    /// The named types around it, from the outermost.
    around: &'a [(&'a str, &'a Ident)],
    /// Whether it is behind a pointer already.
    indirect: bool,
    in_key: bool,
}

/// A type, and its demands on the field that has it.
struct Written {
    ty: TokenStream,
    /// Whether it leads to a type around the innermost one.
    recursive: bool,
}

impl Written {
    fn plain(ty: TokenStream) -> Self {
        Self { ty, recursive: false }
    }

    fn map(self, wrap: impl FnOnce(TokenStream) -> TokenStream) -> Self {
        Self { ty: wrap(self.ty), recursive: self.recursive }
    }
}

impl<'a> Writer<'a> {
    fn new(options: &'a Options, visibility: &'a Visibility, ident: &'a Ident) -> Self {
        Self { options, visibility, ident, parts: Vec::new(), keys: Vec::new(), comparisons: Vec::new() }
    }

    fn event(&mut self, attrs: &[Attribute], entry: &Value) -> Result<TokenStream, String> {
        let Options { root, stream, name, version, passed_on, .. } = self.options;
        let version = version.as_ref().map(|(version, _)| *version).unwrap_or_default();
        let [layout, compat] = ["layout", "compat"].map(|option| {
            let word = entry[option].as_str().filter(|word| !matches!(*word, "map" | "full"));
            let option = format_ident!("{option}");
            word.map(|word| quote!(, #option = #word))
        });
        let schema = &entry["schema"];
        let around = [(type_name(schema).unwrap_or_default(), self.ident)];
        let place = Place { path: "", around: &around, indirect: false, in_key: false };
        // A type may turn out to be a key after it was written. Then everything is written again.
        let item = loop {
            let keys = self.keys.len();
            self.parts.clear();
            self.comparisons.clear();
            let item = self.item(self.ident, schema, place)?;
            if self.keys.len() == keys {
                break item;
            }
        };
        let documented = attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
        let shown = format!(
            "`{}@{version}` of stream `{}`, as its lock has it.",
            name.as_ref().map(LitStr::value).unwrap_or_default(),
            stream.as_ref().map(LitStr::value).unwrap_or_default()
        );
        let doc = (!documented).then(|| quote!(#[doc = #shown]));
        let parts = self.parts.iter().map(|part| &part.written);
        let comparisons = self.comparisons.iter().map(|(_, comparison)| comparison);
        let (_, path) = lock::place(&stream.as_ref().map(LitStr::value).unwrap_or_default());
        Ok(lock::with_tracking(
            &path,
            quote! {
                #(#parts)*
                #(#comparisons)*
                #doc
                #(#attrs)*
                #[#root::stream_event(
                    stream = #stream, name = #name, version = #version #passed_on #layout #compat, crate = #root
                )]
                #item
            },
        ))
    }

    /// A struct, with or without fields, or an enum, without our attribute.
    fn item(&mut self, ident: &Ident, schema: &Value, place: Place<'_>) -> Result<TokenStream, String> {
        let visibility = self.visibility;
        let order = place.in_key.then(|| quote!(, Eq, PartialOrd, Ord));
        let head = quote! {
            #[derive(Debug, Clone, PartialEq #order)]
        };
        if schema.get("tuple").is_some() {
            return Ok(quote!(#head #visibility struct #ident;));
        }
        if let Some(fields) = schema["fields"].as_array() {
            let deny_unknown = deny_unknown(schema.get("deny_unknown").is_some());
            let fields = self.fields(fields, &visibility.to_token_stream(), place)?;
            return Ok(quote!(#head #deny_unknown #visibility struct #ident { #fields }));
        }
        let Some(variants) = schema["variants"].as_array() else {
            return Err(format!("{} is neither a struct nor an enum; write the type by hand", shown(place.path)));
        };
        let denies = variants.iter().any(|variant| variant["type"].get("deny_unknown").is_some());
        let deny_unknown = deny_unknown(denies);
        let [tag, content] = ["tag", "content"]
            .map(|option| schema[option].as_str().map(|value| (format_ident!("{option}"), value)))
            .map(|option| option.map(|(option, value)| quote!(#[serde(#option = #value)])));
        let mut names = Names::default();
        let mut listed = TokenStream::new();
        for variant in present(variants) {
            let wire = name_of(variant)?;
            let path = join(place.path, wire);
            let body = &variant["type"];
            // `Side::Other` is a variant with its own fields, and the lock has its Rust name there.
            let own_fields = type_name(body).and_then(|name| name.split_once("::")).map(|(_, rust)| rust);
            let rust = names.take(&own_fields.map_or_else(|| pascal(wire), str::to_owned));
            let place = Place { path: &path, indirect: false, ..place };
            let body = if own_fields.is_some() {
                let fields = body["fields"].as_array().ok_or_else(|| format!("{} has no fields", shown(&path)))?;
                let fields = self.fields(fields, &TokenStream::new(), place)?;
                quote!({ #fields })
            } else {
                match body {
                    Value::Null => quote!(),
                    Value::Object(object)
                        if object.get("tuple").and_then(Value::as_array).is_some_and(|tuple| tuple.len() > 1) =>
                    {
                        let members = body["tuple"].as_array().into_iter().flatten();
                        let members =
                            members.map(|member| self.attributed(member, place)).collect::<Result<Vec<_>, _>>()?;
                        quote!((#(#members),*))
                    }
                    body => {
                        let member = self.attributed(body, place)?;
                        quote!((#member))
                    }
                }
            };
            let rename = rename(&rust, wire);
            let aliases = aliases(variant);
            let other = variant.get("other").map(|_| quote!(#[serde(other)]));
            let doc = described("Variant", wire);
            listed.extend(quote!(#doc #rename #aliases #other #rust #body,));
        }
        Ok(quote!(#head #deny_unknown #tag #content #visibility enum #ident { #listed }))
    }

    fn fields(&mut self, fields: &[Value], visibility: &TokenStream, place: Place<'_>) -> Result<TokenStream, String> {
        let root = &self.options.root;
        let mut names = Names::default();
        let mut listed = TokenStream::new();
        for field in present(fields) {
            let wire = name_of(field)?;
            let path = join(place.path, wire);
            let schema = &field["type"];
            let place = Place { path: &path, indirect: false, ..place };
            let Written { ty, recursive } = self.ty(schema, place)?;
            let (optional, may_be_absent) = (field.get("optional").is_some(), field.get("may_be_absent").is_some());
            let opaque = schema["opaque"].as_str().map(|tag| quote!(#[event(opaque = #tag)]));
            let absent =
                may_be_absent.then(|| quote!(#[serde(skip_serializing_if = "::core::option::Option::is_none")]));
            let (attributes, ty) = match (schema.get("option").is_some(), optional) {
                (true, true) => (quote!(#absent), ty),
                (true, false) => {
                    return Err(format!(
                        "{} may be nil and may not be missing, for which there is no type; write the type by hand",
                        shown(&path)
                    ));
                }
                (false, false) => (quote!(#opaque), ty),
                // The lock does not know the default that the field had. The author of the upcaster knows it.
                (false, true) => {
                    let form = match &opaque {
                        Some(opaque) => opaque.clone(),
                        None => {
                            let text = ty.to_string();
                            quote!(#[event(wire = #text)])
                        }
                    };
                    let with = quote!(#root::__private::left_out).to_string().replace(' ', "");
                    (quote!(#absent #[serde(default, with = #with)] #form), quote!(::core::option::Option<#ty>))
                }
            };
            let recursive = recursive.then(|| quote!(#[event(recursive)]));
            let rust = names.take(&snake(wire));
            let (rename, aliases) = (rename(&rust, wire), aliases(field));
            let doc = described("Field", wire);
            listed.extend(quote!(#doc #rename #aliases #attributes #recursive #visibility #rust: #ty,));
        }
        Ok(listed)
    }

    /// A field without a name.
    fn attributed(&mut self, schema: &Value, place: Place<'_>) -> Result<TokenStream, String> {
        let Written { ty, recursive } = self.ty(schema, place)?;
        let opaque = schema["opaque"].as_str().map(|tag| quote!(#[event(opaque = #tag)]));
        let recursive = recursive.then(|| quote!(#[event(recursive)]));
        Ok(quote!(#opaque #recursive #ty))
    }

    fn ty(&mut self, schema: &Value, place: Place<'_>) -> Result<Written, String> {
        let root = &self.options.root;
        let behind = Place { indirect: true, ..place };
        let beside = Place { indirect: false, ..place };
        if let Some(word) = schema.as_str() {
            return Ok(Written::plain(match word {
                "unit" => quote!(()),
                "string" => quote!(::std::string::String),
                "f32" | "f64" if place.in_key => {
                    return Err(format!(
                        "{} is a map whose keys are floats, which have no order; write the type by hand",
                        shown(place.path)
                    ));
                }
                "bool" | "char" | "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" | "f32" | "f64" => {
                    let primitive = format_ident!("{word}");
                    quote!(::core::primitive::#primitive)
                }
                form => self.named(form, "a form of its own", place)?,
            }));
        }
        let text = |name: &str| schema[name].as_str();
        let of = |name: &str| schema.get(name);
        if let Some(some) = of("option") {
            if some == "unit" || some.get("option").is_some() {
                return Err(format!(
                    "{} is nil in two ways, which no type tells apart; write the type by hand, with one `Option` and its form in `#[event(wire = \"..\")]`",
                    shown(place.path)
                ));
            }
            return Ok(self.ty(some, beside)?.map(|some| quote!(::core::option::Option<#some>)));
        }
        if let Some(item) = of("list") {
            return Ok(self.ty(item, behind)?.map(|item| quote!(::std::vec::Vec<#item>)));
        }
        if let (Some(item), Some(length)) = (of("array"), schema["length"].as_u64()) {
            let length = proc_macro2::Literal::u64_unsuffixed(length);
            return Ok(self.ty(item, beside)?.map(|item| quote!([#item; #length])));
        }
        if let (Some(key), Some(value)) = (of("key"), of("map")) {
            let key = self.ty(key, Place { in_key: true, ..behind })?;
            let value = self.ty(value, behind)?;
            let (recursive, key, value) = (key.recursive || value.recursive, key.ty, value.ty);
            return Ok(Written { ty: quote!(::std::collections::BTreeMap<#key, #value>), recursive });
        }
        if let Some(members) = schema["tuple"].as_array() {
            if members.is_empty() {
                return Ok(Written::plain(self.part("Empty", schema, place)?));
            }
            let members = members.iter().map(|member| self.ty(member, beside)).collect::<Result<Vec<_>, _>>()?;
            let recursive = members.iter().any(|member| member.recursive);
            let members = members.iter().map(|member| &member.ty);
            return Ok(Written { ty: quote!((#(#members,)*)), recursive });
        }
        if let Some(name) = type_name(schema) {
            return Ok(Written::plain(match self.options.type_of(name) {
                Some(ty) => self.todays(name, ty, schema)?,
                None => self.part(name, schema, place)?,
            }));
        }
        if let Some(name) = text("recursive") {
            let found = match name {
                "Self" => place.around.last(),
                name => place.around.iter().rev().find(|(around, _)| *around == name),
            };
            let (_, ident) = found.ok_or_else(|| {
                format!("{} leads back to `{name}`, which is not around it; write the type by hand", shown(place.path))
            })?;
            let boxed = if place.indirect { quote!(#ident) } else { quote!(::std::boxed::Box<#ident>) };
            return Ok(Written { ty: boxed, recursive: name != "Self" });
        }
        if let Some(name) = text("logical") {
            let known = match name {
                "duration" => Some(quote!(::core::time::Duration)),
                "time" => Some(quote!(::std::time::SystemTime)),
                "nonzero" => {
                    let number = self.ty(&schema["wire"], beside)?.ty;
                    Some(quote!(::core::num::NonZero<#number>))
                }
                "ipv4" => Some(quote!(::core::net::Ipv4Addr)),
                "ipv6" => Some(quote!(::core::net::Ipv6Addr)),
                "socket-v4" => Some(quote!(::core::net::SocketAddrV4)),
                "socket-v6" => Some(quote!(::core::net::SocketAddrV6)),
                name if FORMS.contains(&name) => {
                    let form = format_ident!("{}", pascal(name));
                    Some(quote!(#root::__private::forms::#form))
                }
                _ => None,
            };
            let named = self.options.type_of(name).is_some();
            return Ok(Written::plain(match known {
                Some(known) if !named => known,
                _ => self.named(name, "a form with a meaning of its own", place)?,
            }));
        }
        if let Some(tag) = text("opaque") {
            return Ok(Written::plain(self.named(tag, "opaque", place)?));
        }
        Err(format!(
            "{} has a form that this version does not know: `{schema}`; write the type by hand",
            shown(place.path)
        ))
    }

    /// A type that the user must name, because the lock does not describe it.
    fn named(&self, form: &str, what: &str, place: Place<'_>) -> Result<TokenStream, String> {
        self.options.type_of(form).map(ToTokens::to_token_stream).ok_or_else(|| {
            format!(
                "{} is {what}, `{form}`, which the lock does not describe; name its type with `types = {{ \"{form}\" => crate::Type }}`, or write the event by hand",
                shown(place.path)
            )
        })
    }

    /// A type inside the event that still has its shape; the compiler compares the two.
    fn todays(&mut self, name: &str, ty: &Type, schema: &Value) -> Result<TokenStream, String> {
        let root = &self.options.root;
        let locked = lock::schema(&present_inside(schema))?;
        let check = called(ty, &quote!(#root::__private::check_today::<#ty>), quote!(#name, &LOCKED));
        let comparison = quote! {
            const _: () = {
                static LOCKED: #root::schema::Schema = {
                    use #root::schema::{EnumSchema, Field, Schema, StructSchema, Tagging, Variant};
                    #locked
                };
                #check
            };
        };
        if self.comparisons.iter().all(|(compared, _)| compared != schema) {
            self.comparisons.push((schema.clone(), comparison));
        }
        Ok(ty.to_token_stream())
    }

    /// A type inside the event, written once, however often it occurs.
    fn part(&mut self, name: &str, schema: &Value, place: Place<'_>) -> Result<TokenStream, String> {
        if place.in_key && !self.keys.contains(schema) {
            self.keys.push(schema.clone());
        }
        if let Some(part) = self.parts.iter().find(|part| part.schema == *schema) {
            return Ok(part.ident.to_token_stream());
        }
        let base = format!("{}{}", self.ident.unraw(), pascal(name));
        let mut ident = format_ident!("{base}", span = self.ident.span());
        let mut number = 2;
        while self.parts.iter().any(|part| part.ident == ident) {
            // Two shapes of one name: from a generic type, or from two modules.
            ident = format_ident!("{base}{number}", span = self.ident.span());
            number += 1;
        }
        let index = self.parts.len();
        self.parts.push(Part { ident: ident.clone(), schema: schema.clone(), written: quote!() });
        let around: Vec<_> = place.around.iter().copied().chain([(name, &ident)]).collect();
        let inside = Place { around: &around, indirect: false, in_key: self.keys.contains(schema), ..place };
        let item = self.item(&ident, schema, inside)?;
        let root = &self.options.root;
        let doc = format!("`{name}` as it was in [`{}`].", self.ident);
        self.parts[index].written = quote! {
            #[doc = #doc]
            #[#root::event_type(crate = #root)]
            #item
        };
        Ok(ident.to_token_stream())
    }
}

/// Forms of other crates, each with the type of its name in `streams_core::schema::types::forms`.
const FORMS: &[&str] = &[
    "uuid",
    "decimal",
    "rfc3339",
    "rfc9557",
    "date-time",
    "date",
    "week-date",
    "time-of-day",
    "time-delta",
    "weekday",
    "month",
    "iso8601-duration",
    "iso8601-span",
    "offset-date-time-parts",
    "utc-date-time-parts",
    "date-time-parts",
    "date-parts",
    "time-of-day-parts",
    "offset-parts",
    "signed-duration",
    "weekday-number",
    "month-number",
];

/// A shape without the members that the lock still lists but the type no longer had.
fn present_inside(schema: &Value) -> Value {
    match schema {
        Value::Array(list) => present(list).map(present_inside).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), present_inside(value))).collect(),
        other => other.clone(),
    }
}

/// Leaves out members that the lock still lists but the type no longer had.
fn present(list: &[Value]) -> impl Iterator<Item = &Value> {
    list.iter().filter(|named| named.get("removed").is_none())
}

fn name_of(value: &Value) -> Result<&str, String> {
    value["name"].as_str().ok_or_else(|| format!("`{value}` has no name; restore the lock from version control"))
}

fn type_name(schema: &Value) -> Option<&str> {
    schema["struct"].as_str().or(schema["enum"].as_str())
}

/// Writes docs, because the user's crate may demand them for everything.
fn described(what: &str, wire: &str) -> TokenStream {
    let doc = format!("{what} `{wire}` of the wire.");
    quote!(#[doc = #doc])
}

fn deny_unknown(denies: bool) -> Option<TokenStream> {
    denies.then(|| quote!(#[serde(deny_unknown_fields)]))
}

fn rename(rust: &Ident, wire: &str) -> Option<TokenStream> {
    (rust.unraw() != wire).then(|| quote!(#[serde(rename = #wire)]))
}

fn aliases(value: &Value) -> TokenStream {
    value["aliases"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|alias| quote!(#[serde(alias = #alias)]))
        .collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn shown(path: &str) -> String {
    if path.is_empty() { "the event".to_owned() } else { format!("`{path}`") }
}

/// The identifiers of one type, each used once.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn take(&mut self, name: &str) -> Ident {
        let mut free = name.to_owned();
        let mut number = 2;
        while self.0.contains(&free) {
            free = format!("{name}{number}");
            number += 1;
        }
        self.0.push(free.clone());
        identifier(&free)
    }
}

/// A keyword is written raw; the few keywords that cannot be raw get an underscore.
fn identifier(name: &str) -> Ident {
    if syn::parse_str::<Ident>(name).is_ok() {
        Ident::new(name, Span::call_site())
    } else if matches!(name, "self" | "Self" | "super" | "crate" | "_" | "") {
        format_ident!("{name}_")
    } else {
        Ident::new_raw(name, Span::call_site())
    }
}

/// The words of a name on the wire, whatever its case: `firstName`, `first-name`, `FIRST_NAME`.
fn words(wire: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last: Option<char> = None;
    for letter in wire.chars() {
        // Some characters are alphanumeric but not allowed in an identifier: `²`.
        if !letter.is_alphanumeric() || !unicode_ident::is_xid_continue(letter) {
            last = None;
            continue;
        }
        let begins = match last {
            None => true,
            Some(last) => letter.is_uppercase() && !last.is_uppercase(),
        };
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
        last = Some(letter);
    }
    words
}

fn snake(wire: &str) -> String {
    safe_start(words(wire).join("_"))
}

fn pascal(wire: &str) -> String {
    let capitalized = |word: &String| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    };
    safe_start(words(wire).iter().map(capitalized).collect())
}

/// An identifier must not begin with a digit, and must have a letter.
fn safe_start(name: String) -> String {
    if name.starts_with(unicode_ident::is_xid_start) { name } else { format!("_{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_wire_become_names_in_rust() {
        for (wire, field, variant) in [
            ("price", "price", "Price"),
            ("unitPrice", "unit_price", "UnitPrice"),
            ("unit-price", "unit_price", "UnitPrice"),
            ("UNIT_PRICE", "unit_price", "UnitPrice"),
            ("orderID", "order_id", "OrderId"),
            ("V2", "v2", "V2"),
            ("2nd", "_2nd", "_2nd"),
            ("--", "_", "_"),
            ("größe", "größe", "Größe"),
            ("m²", "m", "M"),
            ("½", "_", "_"),
            ("٣ⓐ", "_٣", "_٣"),
        ] {
            assert_eq!((snake(wire).as_str(), pascal(wire).as_str()), (field, variant), "{wire}");
        }
    }

    #[test]
    fn names_that_clash_are_numbered_and_keywords_are_raw() {
        let mut names = Names::default();
        let taken = ["type", "unit_price", "unit_price", "self", "_", ""].map(|name| names.take(name));
        let taken = taken.map(|ident| ident.to_string());
        assert_eq!(taken, ["r#type", "unit_price", "unit_price2", "self_", "__", "_"]);
    }
}
