//! `#[stream_event(..)]`: an event of a stream; `shape` reads its shape.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields, Ident, LitStr};

use crate::args::{Args, NameKind, bytes, check_name, duration_tokens, missing, option_tokens};
use crate::errors::{Errors, called};
use crate::lock;
use crate::shape::{Shape, is_skipped};
use crate::versions::Versions;

pub(crate) fn expand(args: TokenStream, item: &TokenStream, root: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let options = Options::parse(args, root, &mut errors);
    let input: DeriveInput = match syn::parse2(item.clone()) {
        Ok(input) => input,
        Err(error) => return crate::not_a_type(item, "#[stream_event]", &error, errors),
    };
    check(&input, &mut errors);
    options.check_own_name(&input, &mut errors);
    let shape = Shape::new(&input, &options.root, &mut errors);
    let implementation = shape.implementation(&mut errors);
    let key = options.key.as_ref().map(|key| key_tokens(key, &input, &options.root, &mut errors));
    let lock = match &options.stream {
        Some(stream) if options.lock && errors.is_empty() => {
            let event = lock::Event {
                root: &options.root,
                ident: &input.ident,
                stream,
                name: &options.name(&input),
                version: options.versions.version,
                compat: &options.compat,
                parts: shape.parts(),
            };
            lock::emit(&event, &mut errors)
        }
        _ => lock::Emitted::default(),
    };
    match (errors.finish(), &options.stream) {
        (None, Some(stream)) => {
            let item = shape.item();
            let event = emit(&options, stream, &input, key, lock.newest);
            let comparison = lock.comparison;
            quote!(#implementation #item #event #comparison)
        }
        (errors, _) => {
            let fallback = shape.fallback();
            let event = fallback_event(&input, &options.root);
            quote!(#errors #fallback #event)
        }
    }
}

/// The arguments of the attribute, one field each: the expansion writes them into one `EventInfo`.
struct Options {
    root: TokenStream,
    stream: Option<LitStr>,
    name: Option<LitStr>,
    /// Whether the event's name is that of its type.
    is_unnamed: bool,
    versions: Versions,
    key: Option<Ident>,
    partitions: Option<u32>,
    retention: Option<Retention>,
    durability: Option<Durability>,
    max_payload: Option<usize>,
    /// The variant of `Layout`.
    layout: Ident,
    /// The variant of `Compat`.
    compat: Ident,
    lock: bool,
}

impl Options {
    const KNOWN: &[&str] = &[
        "stream",
        "version",
        "upcast_from",
        "oldest",
        "name",
        "key",
        "partitions",
        "retention",
        "durability",
        "max_payload",
        "layout",
        "compat",
        "lock",
        "crate",
    ];

    fn parse(tokens: TokenStream, root: &TokenStream, errors: &mut Errors) -> Self {
        let mut args = Args::parse(tokens, Self::KNOWN, errors);
        let root = args.root(root, errors);
        let stream = match args.take("stream") {
            Some(value) => value.redis_name(NameKind::Stream, errors),
            None => {
                // An unknown option is most likely this one, misspelled.
                if errors.is_empty() {
                    missing("stream", "#[stream_event(stream = \"orders\")]", errors);
                }
                None
            }
        };
        let name = args.take("name");
        let is_unnamed = name.is_none();
        let name = name.and_then(|value| value.redis_name(NameKind::Event, errors));
        let versions = Versions::parse(&mut args, errors);
        let key = args.take("key").and_then(|value| {
            let key = syn::parse2::<Ident>(value.tokens.clone());
            if key.is_err() {
                value.invalid("the name of a field without quotes, such as `symbol`", errors);
            }
            key.ok()
        });
        let partitions = args
            .take("partitions")
            .and_then(|value| value.integer(1..=1024, "a whole number from 1 to 1024, such as `8`", errors))
            .map(|partitions| partitions as u32);
        let retention = args.take("retention").and_then(|value| {
            if value.text().is_some_and(|text| text.value() == "consumed") {
                return Some(Retention::Consumed);
            }
            let range = Duration::from_secs(60)..=Duration::from_secs(u32::MAX.into());
            const EXPECTED: &str = "a duration of at least a minute, such as \"24h\", or \"consumed\"";
            value.duration(range, EXPECTED, errors).map(Retention::Age)
        });
        let durability = args.take("durability").and_then(|value| {
            let durability = value.text().and_then(|text| Durability::read(&text.value()));
            if durability.is_none() {
                const EXPECTED: &str =
                    "\"fsync\", \"replicas(n)\" with n from 1 to 100, or both: \"fsync, replicas(1)\"";
                value.invalid(EXPECTED, errors);
            }
            durability
        });
        let max_payload = args.take("max_payload").and_then(|value| {
            const EXPECTED: &str = "a size from 1 B to 16 MiB, such as \"256KiB\" or a number of bytes";
            const RANGE: std::ops::RangeInclusive<u64> = 1..=16 * 1024 * 1024;
            let Some(text) = value.text() else { return value.integer(RANGE, EXPECTED, errors) };
            let size = bytes(&text.value()).filter(|size| RANGE.contains(size));
            if size.is_none() {
                value.invalid(EXPECTED, errors);
            }
            size
        });
        let max_payload = max_payload.map(|size| size as usize);
        let layout = args.take("layout");
        let is_array = layout.as_ref().and_then(|value| match value.text().map(|text| text.value()).as_deref() {
            Some("map") => Some(false),
            Some("array") => Some(true),
            _ => {
                value.invalid("\"map\" or \"array\"", errors);
                None
            }
        });
        let is_array = is_array.unwrap_or_default();
        let compat = args.take("compat").and_then(|value| {
            const WORDS: [(&str, &str); 4] =
                [("full", "Full"), ("backward", "Backward"), ("exact", "Exact"), ("none", "None")];
            let word = value.text().map(|text| text.value());
            let known = WORDS.iter().find(|(known, _)| Some(*known) == word.as_deref());
            match known {
                None => value.invalid("\"full\", \"backward\", \"exact\" or \"none\"", errors),
                Some((_, "Full" | "Backward" | "None")) if is_array => errors.push(
                    &value.tokens,
                    "`layout = \"array\"` goes by the order of the fields, so that no change can be read; remove `compat`",
                ),
                Some(_) => {}
            }
            known.map(|(_, variant)| *variant)
        });
        let compat = compat.unwrap_or(if is_array { "Exact" } else { "Full" });
        let lock = args.take("lock").is_none_or(|value| {
            if value.tokens.to_string() != "false" {
                value.invalid("`false`, for an event that only a test needs", errors);
            }
            false
        });
        let layout = format_ident!("{}", if is_array { "Array" } else { "Map" });
        let compat = format_ident!("{compat}");
        Self {
            root,
            stream,
            name,
            is_unnamed,
            versions,
            key,
            partitions,
            retention,
            durability,
            max_payload,
            layout,
            compat,
            lock,
        }
    }

    /// Checks the name of the type by the rules of names on the wire, if it is one.
    fn check_own_name(&self, input: &DeriveInput, errors: &mut Errors) {
        let name = self.name(input);
        if let (true, Err(reason)) = (self.is_unnamed, check_name(NameKind::Event, &name)) {
            let reason = if name.is_ascii() { reason } else { "of letters it may have those from a to z alone" };
            errors.push(
                &input.ident,
                format!(
                    "`{name}` cannot be the name of the event on the wire: {reason}; give it one with `name = \"..\"`"
                ),
            );
        }
    }

    /// The name on the wire.
    fn name(&self, input: &DeriveInput) -> String {
        self.name.as_ref().map_or_else(|| input.ident.unraw().to_string(), LitStr::value)
    }
}

/// How long the stream keeps its entries.
enum Retention {
    Age(Duration),
    Consumed,
}

impl Retention {
    fn tokens(&self, root: &TokenStream) -> TokenStream {
        match self {
            Self::Age(age) => {
                let age = duration_tokens(*age);
                quote!(#root::Retention::Age(#age))
            }
            Self::Consumed => quote!(#root::Retention::Consumed),
        }
    }
}

/// How safe an event must be before its publish succeeds.
#[derive(Debug, PartialEq)]
struct Durability {
    fsync: bool,
    replicas: u32,
}

impl Durability {
    /// Reads `fsync`, `replicas(2)`, or both with a comma between them, in either order.
    fn read(text: &str) -> Option<Self> {
        let mut read = Self { fsync: false, replicas: 0 };
        for part in text.split(',').map(str::trim) {
            match part.strip_prefix("replicas(").and_then(|rest| rest.strip_suffix(')')) {
                Some(count) if read.replicas == 0 => {
                    read.replicas = count.trim().parse().ok().filter(|count| (1..=100).contains(count))?;
                }
                None if part == "fsync" && !read.fsync => read.fsync = true,
                _ => return None,
            }
        }
        Some(read)
    }

    fn tokens(&self, root: &TokenStream) -> TokenStream {
        let Self { fsync, replicas } = self;
        quote!(#root::Durability { fsync: #fsync, replicas: #replicas })
    }
}

/// Checks the rules that hold for events but not for parts of events.
fn check(input: &DeriveInput, errors: &mut Errors) {
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(_) => {}
            Fields::Unnamed(_) => errors.push(
                &input.ident,
                format!("an event needs named fields, so that it can grow; write `struct {} {{ .. }}`", input.ident),
            ),
            Fields::Unit => errors.push(
                &input.ident,
                format!("an event needs named fields, so that it can grow; write `struct {} {{}}`", input.ident),
            ),
        },
        Data::Enum(data) if data.variants.is_empty() => {
            errors.push(&input.ident, "an enum without variants has no values; give it one");
        }
        // `Shape` refuses unions.
        Data::Enum(_) | Data::Union(_) => {}
    }
    // `Shape` refuses lifetimes, with another reason.
    let mut parameters = input.generics.params.iter();
    if let Some(parameter) = parameters.find(|parameter| !matches!(parameter, syn::GenericParam::Lifetime(_))) {
        errors.push(
            parameter,
            "an event has one wire form, so it cannot be generic; make the field types concrete (an `#[event_type]` inside may be generic)",
        );
    }
}

/// The text of the key, in a method with `&self`.
fn key_tokens(key: &Ident, input: &DeriveInput, root: &TokenStream, errors: &mut Errors) -> TokenStream {
    let mut find = |fields: &'_ Fields| -> Option<Field> {
        let found = fields.iter().find(|field| field.ident.as_ref() == Some(key)).cloned();
        if let Some(field) = found.as_ref().filter(|field| is_skipped(&field.attrs)) {
            let _ = field;
            errors.push(key, format!("the key `{key}` is skipped, so it never reaches the wire; take another field"));
        }
        found
    };
    let text = |field: &Field, value: TokenStream| {
        let ty = &field.ty;
        let span = ty.span().resolved_at(Span::mixed_site());
        quote_spanned!(span=> <#ty as #root::EventKey>::text(#value))
    };
    match &input.data {
        Data::Struct(data) => match find(&data.fields) {
            Some(field) => text(&field, quote!(&self.#key)),
            None => {
                let names: Vec<_> =
                    data.fields.iter().filter_map(|field| field.ident.as_ref()).map(Ident::to_string).collect();
                let near =
                    crate::args::nearest(&key.to_string(), &names.iter().map(String::as_str).collect::<Vec<_>>())
                        .map(|near| format!("; did you mean `{near}`?"))
                        .unwrap_or_default();
                errors.push(key, format!("`{}` has no field `{key}`{near}", input.ident));
                quote!()
            }
        },
        Data::Enum(data) => {
            let value = format_ident!("key", span = Span::mixed_site());
            let mut arms = Vec::new();
            let mut without = Vec::new();
            for variant in &data.variants {
                let name = &variant.ident;
                match find(&variant.fields) {
                    Some(field) => {
                        let text = text(&field, quote!(#value));
                        arms.push(quote!(Self::#name { #key: #value, .. } => #text,));
                    }
                    None => without.push(format!("`{name}`")),
                }
            }
            if !without.is_empty() {
                let without = without.join(", ");
                errors.push(
                    key,
                    format!("the key must be a named field of every variant, and `{key}` is missing in {without}"),
                );
            }
            quote!(match self { #(#arms)* })
        }
        Data::Union(_) => quote!(),
    }
}

fn emit(
    options: &Options,
    stream: &LitStr,
    input: &DeriveInput,
    key: Option<TokenStream>,
    newest: Option<u32>,
) -> TokenStream {
    let Options { root, versions, layout, .. } = options;
    let ident = &input.ident;
    let rust_name = ident.unraw().to_string();
    let name = options.name(input);
    let key_name = option_tokens(options.key.as_ref().map(|key| key.unraw().to_string()));
    let partitions = option_tokens(options.partitions);
    let retention = option_tokens(options.retention.as_ref().map(|retention| retention.tokens(root)));
    let durability = option_tokens(options.durability.as_ref().map(|durability| durability.tokens(root)));
    let max_payload = option_tokens(options.max_payload);
    let key = option_tokens(key);
    let (version, decode_version) = (versions.info(newest, root), versions.method(root));
    let version_checks = versions.checks(ident, stream, &name, root);
    let schema = quote!(<#ident as #root::schema::SchemaType>::SCHEMA);
    let check = |path, arguments| called(ident, &path, arguments);
    let recursion = check(quote!(#root::__private::check_recursion), quote!(#schema));
    let layouts = check(quote!(#root::__private::check_layout), quote!(#schema, #root::schema::Layout::#layout));
    let checks = quote! {
        const _: () = {
            #recursion;
            #layouts;
        };
    };
    quote! {
        const _: () = {
            #[automatically_derived]
            impl #root::StreamEvent for #ident {
                const INFO: &'static #root::EventInfo = &#root::EventInfo {
                    stream: #stream,
                    name: #name,
                    #version
                    key: #key_name,
                    partitions: #partitions,
                    retention: #retention,
                    durability: #durability,
                    max_payload: #max_payload,
                    layout: #root::schema::Layout::#layout,
                    fingerprint: #root::schema::layout_fingerprint(
                        <#ident as #root::schema::SchemaType>::SCHEMA,
                        #root::schema::Layout::#layout,
                    ),
                    schema: <#ident as #root::schema::SchemaType>::SCHEMA,
                    type_name: ::core::concat!(::core::module_path!(), "::", #rust_name),
                    file: ::core::file!(),
                    line: ::core::line!(),
                };

                fn key(&self) -> ::core::option::Option<#root::__private::Cow<'_, str>> {
                    #key
                }

                #decode_version
            }
            #version_checks
            #root::__private::inventory::submit! { #root::EventRegistration::of::<#ident>() }
        };
        #checks
    }
}

/// An empty implementation, after a mistake, so that rustc reports nothing about the event's consumers.
pub(crate) fn fallback_event(input: &DeriveInput, root: &TokenStream) -> TokenStream {
    if !input.generics.params.is_empty() || matches!(input.data, Data::Union(_)) {
        return quote!();
    }
    let ident = &input.ident;
    quote! {
        const _: () = {
            impl #root::StreamEvent for #ident {
                const INFO: &'static #root::EventInfo = &#root::EventInfo {
                    stream: "",
                    name: "",
                    version: 1,
                    oldest: 1,
                    newest: 1,
                    upcast_from: ::core::option::Option::None,
                    key: ::core::option::Option::None,
                    partitions: ::core::option::Option::None,
                    retention: ::core::option::Option::None,
                    durability: ::core::option::Option::None,
                    max_payload: ::core::option::Option::None,
                    layout: #root::schema::Layout::Map,
                    schema: &#root::schema::Schema::Unit,
                    fingerprint: 0,
                    type_name: "",
                    file: "",
                    line: 0,
                };

                fn key(&self) -> ::core::option::Option<#root::__private::Cow<'_, str>> {
                    ::core::option::Option::None
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_is_read_in_either_order() {
        let read = |text| Durability::read(text).map(|read| (read.fsync, read.replicas));
        assert_eq!(read("fsync"), Some((true, 0)));
        assert_eq!(read("replicas(2)"), Some((false, 2)));
        assert_eq!(read(" replicas( 1 ) ,fsync"), Some((true, 1)));
        for bad in
            ["", "fsync,", "fsync, fsync", "replicas(0)", "replicas(101)", "replicas", "replicas(1), replicas(2)"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
