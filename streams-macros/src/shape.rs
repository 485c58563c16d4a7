//! Reads a struct or enum with its serde attributes as serde does, and writes its schema.
//!
//! It refuses, with the reason, every feature of serde that a schema cannot express. Otherwise a consumer would be the
//! first to find bytes that the schema does not describe.

use std::cell::RefCell;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Fields, Ident, Lit, LitStr, Path, Token, Type, Variant, parse_quote,
};

use crate::errors::{Errors, called};
use crate::source;

/// The parts of an item that the schema, the serde derives and the clean item need.
pub(crate) struct Shape<'a> {
    input: &'a DeriveInput,
    root: &'a TokenStream,
    container: Attrs,
    /// Types in the place of those that `#[event(recursive)]` leads back to.
    markers: RefCell<Vec<(Ident, String)>>,
    /// Calls that stop the compiler at an inner type that is not allowed there.
    checks: RefCell<Vec<TokenStream>>,
    /// Calls that hardly ever stop it. They share a constant, which costs the compiler more than its content.
    unlikely: RefCell<Vec<TokenStream>>,
}

/// A field or variant of the type itself, for messages about it.
pub(crate) struct Part {
    /// Its name on the wire.
    pub(crate) wire: String,
    /// Its place: the first and the last token that matter.
    pub(crate) begin: Span,
    pub(crate) end: Span,
}

/// The item that an attribute is on.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Container,
    Variant,
    Field,
}

/// The attributes of one container, variant or field, as far as they change the wire form. They are one value, because serde has
/// one list of attributes, and each place refuses those that are not its own.
#[derive(Default)]
struct Attrs {
    rename: Option<String>,
    rename_all: Option<LitStr>,
    rename_all_fields: Option<LitStr>,
    aliases: Vec<String>,
    default: bool,
    skip: Option<Span>,
    skip_if: Option<Span>,
    transparent: Option<Span>,
    deny_unknown: bool,
    tag: Option<LitStr>,
    content: Option<LitStr>,
    other: bool,
    wire: Option<Type>,
    opaque: Option<LitStr>,
    recursive: Option<Span>,
    /// The span of `with` and its like: with it serde no longer reads a missing `Option` as `None`.
    custom: Option<Span>,
}

impl<'a> Shape<'a> {
    /// Checks the attributes of the container and its derives.
    pub(crate) fn new(input: &'a DeriveInput, root: &'a TokenStream, errors: &mut Errors) -> Self {
        let container = Attrs::parse(&input.attrs, Place::Container, errors);
        refuse_own_derives(&input.attrs, errors);
        for lifetime in input.generics.lifetimes() {
            errors.push(
                lifetime,
                "an event owns its data, so that it can outlive the read: use owned types such as `String`",
            );
        }
        if let (Data::Struct(_), Some(tag)) = (&input.data, &container.tag) {
            errors.push(
                tag,
                "`tag` on a struct adds a field that the schema does not have; remove it: the entry names the event",
            );
        }
        if let Data::Union(union) = &input.data {
            errors.push(union.union_token, "a union has no wire form; use an enum");
        }
        let (markers, checks, unlikely) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { input, root, container, markers, checks, unlikely }
    }

    /// An expression of type `&'static Schema`; it reports mistakes on the way.
    fn schema(&self, errors: &mut Errors) -> TokenStream {
        let root = self.root;
        let name = self.input.ident.unraw().to_string();
        if let Some(declared) = self.declared(&self.container) {
            return declared;
        }
        match &self.input.data {
            Data::Struct(data) => {
                let documented = documented(&self.input.attrs);
                let context = Inside {
                    rename_all: self.container.rename_all.as_ref(),
                    deny_unknown: self.container.deny_unknown,
                    default: self.container.default,
                    tag: None,
                    documented: documented.as_ref(),
                };
                match self.container.transparent {
                    Some(span) => self.transparent(&data.fields, span, errors),
                    // serde writes a unit struct as an empty array.
                    None if matches!(data.fields, Fields::Unit) => quote!(&#root::schema::Schema::Tuple(&[])),
                    None => self.fields(&data.fields, &name, context, errors),
                }
            }
            Data::Enum(data) => self.variants(data, &name, errors),
            Data::Union(_) => quote!(&#root::schema::Schema::Unit),
        }
    }

    /// The form that `wire` or `opaque` declares.
    fn declared(&self, attrs: &Attrs) -> Option<TokenStream> {
        let root = self.root;
        if let Some(tag) = &attrs.opaque {
            return Some(quote!(&#root::schema::Schema::Opaque(#tag)));
        }
        attrs.wire.as_ref().map(|wire| self.of_type(wire, wire.span()))
    }

    fn transparent(&self, fields: &Fields, span: Span, errors: &mut Errors) -> TokenStream {
        let kept: Vec<_> = fields
            .iter()
            .map(|field| (field, Attrs::parse(&field.attrs, Place::Field, errors)))
            .filter(|(_, attrs)| attrs.skip.is_none())
            .collect();
        match kept.as_slice() {
            [(field, attrs)] => self.field_schema(&field.ty, attrs, errors),
            _ => {
                errors.push_at(span, "`transparent` needs exactly one field that is not skipped");
                let root = self.root;
                quote!(&#root::schema::Schema::Unit)
            }
        }
    }

    fn fields(&self, fields: &Fields, name: &str, inside: Inside<'_>, errors: &mut Errors) -> TokenStream {
        let root = self.root;
        match fields {
            Fields::Unit => quote!(&#root::schema::Schema::Unit),
            Fields::Unnamed(fields) => {
                let mut kept = Vec::new();
                for field in &fields.unnamed {
                    let attrs = Attrs::parse(&field.attrs, Place::Field, errors);
                    if let Some(span) = attrs.skip {
                        if fields.unnamed.len() == 1 {
                            errors.push_at(
                                span,
                                "serde does not agree with itself about a newtype without its value; remove the field, or name it",
                            );
                        }
                        continue;
                    }
                    if let Some(span) = attrs.skip_if {
                        errors.push_at(
                            span,
                            "`skip_serializing_if` moves the fields after it to another place; name the fields",
                        );
                    }
                    kept.push(self.field_schema(&field.ty, &attrs, errors));
                }
                match kept.as_slice() {
                    // serde writes a newtype as its content.
                    [only] if fields.unnamed.len() == 1 => only.clone(),
                    _ => quote!(&#root::schema::Schema::Tuple(&[#(#kept),*])),
                }
            }
            Fields::Named(fields) => {
                let mut listed = Vec::new();
                let mut names = WireNames::of("fields");
                for field in &fields.named {
                    let attrs = Attrs::parse(&field.attrs, Place::Field, errors);
                    let Some(ident) = &field.ident else { continue };
                    if attrs.skip.is_some() {
                        continue;
                    }
                    let missing_is_none = is_option(&field.ty) && attrs.custom.is_none();
                    let optional = attrs.default || inside.default || missing_is_none;
                    if let (Some(span), false) = (attrs.skip_if, optional) {
                        errors.push_at(
                            span,
                            format!(
                                "an event written without `{}` could not be read back; add `#[serde(default)]`",
                                ident.unraw()
                            ),
                        );
                    }
                    let schema = self.field_schema(&field.ty, &attrs, errors);
                    let wire = match attrs.rename {
                        Some(rename) => rename,
                        None => cased(inside.rename_all, &ident.unraw().to_string(), Place::Field, errors),
                    };
                    names.add(ident, &wire, &attrs.aliases, errors);
                    if let Some(tag) = inside.tag.filter(|tag| tag.value() == wire) {
                        errors.push(
                            ident,
                            format!(
                                "`{wire}` is also where the name of the variant stands (`tag = \"{}\"`), so nobody could read the event; give one of them another name",
                                tag.value()
                            ),
                        );
                    }
                    let (aliases, absent, doc) = (&attrs.aliases, attrs.skip_if.is_some(), doc(&field.attrs));
                    listed.push(quote! {
                        #root::schema::Field {
                            name: #wire,
                            aliases: &[#(#aliases),*],
                            schema: #schema,
                            optional: #optional,
                            may_be_absent: #absent,
                            doc: #doc,
                        }
                    });
                }
                let Inside { deny_unknown, documented, .. } = inside;
                quote! {
                    &#root::schema::Schema::Struct(
                        &const { #root::schema::StructSchema::new(#name, #deny_unknown, &[#(#listed),*]) #documented }
                    )
                }
            }
        }
    }

    fn variants(&self, data: &DataEnum, name: &str, errors: &mut Errors) -> TokenStream {
        let root = self.root;
        let mut listed = Vec::new();
        let mut names = WireNames::of("variants");
        for variant in &data.variants {
            let attrs = Attrs::parse(&variant.attrs, Place::Variant, errors);
            if attrs.skip.is_some() {
                continue;
            }
            let inside = Inside {
                rename_all: attrs.rename_all.as_ref().or(self.container.rename_all_fields.as_ref()),
                deny_unknown: self.container.deny_unknown,
                default: false,
                tag: self.container.tag.as_ref().filter(|_| self.container.content.is_none()),
                documented: None,
            };
            let body = match self.declared(&attrs) {
                Some(declared) => declared,
                None => self.fields(&variant.fields, &format!("{name}::{}", variant.ident.unraw()), inside, errors),
            };
            self.check_beside_tag(variant, inside.tag, &body, errors);
            let wire = match &attrs.rename {
                Some(rename) => rename.clone(),
                None => cased(
                    self.container.rename_all.as_ref(),
                    &variant.ident.unraw().to_string(),
                    Place::Variant,
                    errors,
                ),
            };
            names.add(&variant.ident, &wire, &attrs.aliases, errors);
            let (aliases, other, doc) = (&attrs.aliases, attrs.other, doc(&variant.attrs));
            listed.push(quote! {
                #root::schema::Variant { name: #wire, aliases: &[#(#aliases),*], body: #body, catch_all: #other, doc: #doc }
            });
        }
        let tagging = match (&self.container.tag, &self.container.content) {
            (Some(tag), Some(content)) => quote!(Adjacent(#tag, #content)),
            (Some(tag), None) => quote!(Internal(#tag)),
            (None, _) => quote!(External),
        };
        // Core reports its objections to the tag at the tag.
        let span = self.container.tag.as_ref().map_or_else(Span::call_site, LitStr::span);
        let span = span.resolved_at(Span::call_site());
        let new = quote!(#root::schema::EnumSchema::new).into_iter().map(|mut token| {
            token.set_span(span);
            token
        });
        let new: TokenStream = new.collect();
        let arguments = quote!(#name, #root::schema::Tagging::#tagging, &[#(#listed),*]);
        let schema = quote_spanned!(span=> #new(#arguments));
        let documented = documented(&self.input.attrs);
        quote!(&#root::schema::Schema::Enum(&const { #schema #documented }))
    }

    /// Checks that the content of a variant can be in the map of the tag.
    fn check_beside_tag(&self, variant: &Variant, tag: Option<&LitStr>, body: &TokenStream, errors: &mut Errors) {
        let (Some(tag), Fields::Unnamed(fields)) = (tag, &variant.fields) else { return };
        let root = self.root;
        let Some(only) = fields.unnamed.first().filter(|_| fields.unnamed.len() == 1) else {
            errors.push(
                fields,
                "a variant is written into the map with its `tag`, where these have no names; name them, or add `content = \"..\"`",
            );
            return;
        };
        let check = called(&only.ty, &quote!(#root::__private::check_beside_tag), quote!(#tag, #body));
        self.checks.borrow_mut().push(check);
    }

    fn field_schema(&self, ty: &Type, attrs: &Attrs, errors: &mut Errors) -> TokenStream {
        if let Some(declared) = self.declared(attrs) {
            return declared;
        }
        refuse_known_misfits(ty, errors);
        self.refuse_undeclared(ty, errors);
        if attrs.recursive.is_some() {
            let mut marked = ty.clone();
            let marker = |ident: &Ident| {
                let marker = format_ident!("__Recursive{}", ident.unraw());
                let name = ident.unraw().to_string();
                self.markers.borrow_mut().push((marker.clone(), name));
                marker.into_token_stream()
            };
            MarkRecursion { marker: &marker, is_recursive: &|ident| !is_plain(ident), anywhere: true }
                .visit_type_mut(&mut marked);
            return self.of_type(&marked, ty.span());
        }
        let schema = self.of_type(ty, ty.span());
        // A type of another name may hide an `Option`.
        if mentions(ty, &|path| last(path).is_some_and(|ident| !is_plain(ident))) {
            let root = self.root;
            let check = called(ty, &quote!(#root::__private::check_nil), quote!(#schema));
            let shown = mentions(ty, &|path| last(path).is_some_and(|ident| ident == "Option"));
            if shown { &self.checks } else { &self.unlikely }.borrow_mut().push(check);
        }
        schema
    }

    /// Reports a type of this file that has no schema. rustc would report it for our trait and for each use of serde's.
    fn refuse_undeclared(&self, ty: &Type, errors: &mut Errors) {
        let Some(source) = source::around() else { return };
        let reported = RefCell::new(errors);
        mentions(ty, &|path| {
            let ident = path.get_ident().filter(|ident| !is_plain(ident));
            if let Some(ident) = ident.filter(|ident| source.is_undeclared(&self.input.ident, ident)) {
                let message = "has no event schema, so it cannot be part of a stream event; put `#[event_type]` on it";
                reported.borrow_mut().push(ident, format!("`{ident}` {message}"));
            }
            false
        });
    }

    /// The schema of a type, reported at `span` if it has none.
    fn of_type(&self, ty: &Type, span: Span) -> TokenStream {
        let root = self.root;
        let mut ty = ty.clone();
        let itself = &self.input.ident;
        let marker = |_: &Ident| quote!(#root::schema::Recursion);
        MarkRecursion { marker: &marker, is_recursive: &|ident| ident == itself || ident == "Self", anywhere: false }
            .visit_type_mut(&mut ty);
        let span = span.resolved_at(Span::call_site());
        quote_spanned!(span=> <#ty as #root::schema::SchemaType>::SCHEMA)
    }

    /// The implementation of `SchemaType`. It goes before the item, so that its errors come before serde's.
    pub(crate) fn implementation(&self, errors: &mut Errors) -> TokenStream {
        let (root, name) = (self.root, &self.input.ident);
        let schema = self.schema(errors);
        let markers = self.marker_items();
        let (checks, unlikely) = (self.checks.borrow(), self.unlikely.borrow());
        let unlikely_constant = (!unlikely.is_empty()).then(|| quote!(const _: () = { #(#unlikely;)* };));
        if self.input.generics.params.is_empty() {
            // A static, because rustc hashes one by its path. It hashes a constant with all that it points to, which
            // takes exponential time when types nest.
            return quote! {
                const _: () = {
                    #markers
                    #(const _: () = #checks;)*
                    #unlikely_constant
                    static SCHEMA: #root::schema::Schema = *#schema;
                    #[automatically_derived]
                    impl #root::schema::SchemaType for #name {
                        const SCHEMA: &'static #root::schema::Schema = &SCHEMA;
                    }
                };
            };
        }
        let mut generics = self.input.generics.clone();
        for parameter in generics.type_params_mut() {
            parameter.bounds.push(parse_quote!(#root::schema::SchemaType));
        }
        let (parameters, arguments, bounds) = generics.split_for_impl();
        quote! {
            const _: () = {
                #markers
                #[automatically_derived]
                impl #parameters #root::schema::SchemaType for #name #arguments #bounds {
                    const SCHEMA: &'static #root::schema::Schema = {
                        #(#checks;)*
                        #(#unlikely;)*
                        #schema
                    };
                }
            };
        }
    }

    /// The types in the place of others, each once.
    fn marker_items(&self) -> TokenStream {
        let root = self.root;
        let mut markers = self.markers.borrow_mut();
        markers.sort();
        markers.dedup();
        let items = markers.iter().map(|(marker, name)| {
            quote! {
                struct #marker;
                impl #root::schema::SchemaType for #marker {
                    const SCHEMA: &'static #root::schema::Schema = &#root::schema::Schema::Ref(#name);
                }
            }
        });
        quote!(#(#items)*)
    }

    /// The fields of a struct, or the variants of an enum, by their names on the wire.
    pub(crate) fn parts(&self) -> Vec<Part> {
        // Their mistakes were reported when the schema was written.
        let mut errors = Errors::default();
        let parts = match &self.input.data {
            Data::Struct(data) => data
                .fields
                .iter()
                .filter_map(|field| {
                    let attrs = Attrs::parse(&field.attrs, Place::Field, &mut errors);
                    let ident = field.ident.as_ref()?;
                    let name = ident.unraw().to_string();
                    let cased = |errors: &mut _| cased(self.container.rename_all.as_ref(), &name, Place::Field, errors);
                    let wire = attrs.rename.unwrap_or_else(|| cased(&mut errors));
                    let end = field.ty.to_token_stream().into_iter().last().map_or(ident.span(), |token| token.span());
                    attrs.skip.is_none().then_some(Part { wire, begin: ident.span(), end })
                })
                .collect(),
            Data::Enum(data) => data
                .variants
                .iter()
                .filter_map(|variant| {
                    let attrs = Attrs::parse(&variant.attrs, Place::Variant, &mut errors);
                    let name = variant.ident.unraw().to_string();
                    let cased =
                        |errors: &mut _| cased(self.container.rename_all.as_ref(), &name, Place::Variant, errors);
                    let wire = attrs.rename.unwrap_or_else(|| cased(&mut errors));
                    let span = variant.ident.span();
                    attrs.skip.is_none().then_some(Part { wire, begin: span, end: span })
                })
                .collect(),
            Data::Union(_) => Vec::new(),
        };
        drop(errors.finish());
        parts
    }

    /// The user's item with the serde derives.
    pub(crate) fn item(&self) -> TokenStream {
        let root = self.root;
        let mut input = self.input.clone();
        Strip { serde: false }.visit_derive_input_mut(&mut input);
        let serde = quote!(#root::__private::serde).to_string().replace(' ', "");
        quote! {
            #[derive(#root::__private::serde::Serialize, #root::__private::serde::Deserialize)]
            #[serde(crate = #serde)]
            #input
        }
    }

    /// The user's item with empty implementations, after a mistake, so that the code around it compiles.
    pub(crate) fn fallback(&self) -> TokenStream {
        let root = self.root;
        let mut input = self.input.clone();
        Strip { serde: true }.visit_derive_input_mut(&mut input);
        if !self.input.generics.params.is_empty() || matches!(self.input.data, Data::Union(_)) {
            return quote!(#input);
        }
        let name = &self.input.ident;
        quote! {
            #input
            const _: () = {
                impl #root::schema::SchemaType for #name {
                    const SCHEMA: &'static #root::schema::Schema = &#root::schema::Schema::Unit;
                }
                impl #root::__private::serde::Serialize for #name {
                    fn serialize<S: #root::__private::serde::Serializer>(
                        &self,
                        _: S,
                    ) -> ::core::result::Result<S::Ok, S::Error> {
                        ::core::unreachable!()
                    }
                }
                impl<'de> #root::__private::serde::Deserialize<'de> for #name {
                    fn deserialize<D: #root::__private::serde::Deserializer<'de>>(
                        _: D,
                    ) -> ::core::result::Result<Self, D::Error> {
                        ::core::unreachable!()
                    }
                }
            };
        }
    }
}

/// The text of the doc comments, without the space that each line begins with. Comments from macros or files are left
/// out.
pub(crate) fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
        let value = &attribute.meta.require_name_value().ok()?.value;
        match value {
            syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        }
    });
    let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n").trim().to_owned()
}

/// The call that adds the doc comments to a schema, where there are any.
fn documented(attrs: &[Attribute]) -> Option<TokenStream> {
    let doc = doc(attrs);
    (!doc.is_empty()).then(|| quote!(.documented(#doc)))
}

/// Whether a field does not reach the wire.
pub(crate) fn is_skipped(attrs: &[Attribute]) -> bool {
    // The mistakes in them were reported when the shape was read.
    let mut errors = Errors::default();
    let attrs = Attrs::parse(attrs, Place::Field, &mut errors);
    drop(errors.finish());
    attrs.skip.is_some()
}

/// The settings of a container or a variant for the fields inside.
#[derive(Clone, Copy)]
struct Inside<'a> {
    rename_all: Option<&'a LitStr>,
    deny_unknown: bool,
    default: bool,
    /// The name of the tag beside the variant's fields.
    tag: Option<&'a LitStr>,
    /// The call that adds the doc comment of a struct; a variant has its own place for one.
    documented: Option<&'a TokenStream>,
}

/// The names of the fields of a type, or of its variants, on the wire.
struct WireNames {
    of: &'static str,
    /// Each with the index of its owner.
    taken: Vec<(String, usize)>,
    count: usize,
}

impl WireNames {
    fn of(of: &'static str) -> Self {
        Self { of, taken: Vec::new(), count: 0 }
    }

    /// Adds the names of one member, and reports those that another one has.
    fn add(&mut self, ident: &Ident, wire: &str, aliases: &[String], errors: &mut Errors) {
        self.count += 1;
        for name in aliases.iter().map(String::as_str).chain([wire]) {
            match self.taken.iter().find(|(taken, _)| taken == name) {
                Some((_, index)) if *index == self.count => {}
                Some(_) => {
                    let of = self.of;
                    errors.push(
                        ident,
                        format!("two {of} are called `{name}` on the wire, so nobody could tell them apart; give one of them another name"),
                    );
                }
                None => self.taken.push((name.to_owned(), self.count)),
            }
        }
    }
}

impl Attrs {
    fn parse(list: &[Attribute], place: Place, errors: &mut Errors) -> Self {
        let mut attrs = Self::default();
        for attribute in list {
            let path = attribute.path();
            if path.is_ident("cfg") && place != Place::Container {
                errors.push(
                    attribute,
                    "the event would have another shape in another build; keep the part always, or declare two events",
                );
            } else if path.is_ident("cfg_attr") && mentions_wire(attribute) {
                errors.push(
                    attribute,
                    "the event would have another wire form in another build; write the attribute without a condition",
                );
            } else if path.is_ident("serde") {
                let parsed = attribute.parse_nested_meta(|meta| attrs.serde(&meta, place, errors));
                parsed.unwrap_or_else(|error| errors.add(error));
            } else if path.is_ident("event") {
                let parsed = attribute.parse_nested_meta(|meta| attrs.event(&meta, place));
                parsed.unwrap_or_else(|error| errors.add(error));
            }
        }
        if let (Some(span), None, None) = (attrs.custom, &attrs.wire, &attrs.opaque) {
            errors.push_at(
                span,
                "this hides the wire form from the schema; name the type that is written with `#[event(wire = \"u64\")]`, or vouch for the form with `#[event(opaque = \"name@1\")]`",
            );
        }
        attrs
    }

    fn serde(&mut self, meta: &ParseNestedMeta<'_>, place: Place, errors: &mut Errors) -> syn::Result<()> {
        let name = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
        let span = meta.path.span();
        let mut refuse = |reason: String| errors.push(&meta.path, reason);
        match name.as_str() {
            "rename" | "rename_all" | "rename_all_fields" if !meta.input.peek(Token![=]) => {
                refuse(format!(
                    "two names would make this program unable to read its own events; write `{name} = \"...\"`, and `alias = \"...\"` for an old name"
                ));
                ignore_value(meta)?;
            }
            "rename" => self.rename = Some(string(meta)?.value()),
            "rename_all" => self.rename_all = Some(string(meta)?),
            "rename_all_fields" => self.rename_all_fields = Some(string(meta)?),
            "alias" => self.aliases.push(string(meta)?.value()),
            "default" => {
                self.default = true;
                ignore_value(meta)?;
            }
            "skip" => self.skip = Some(span),
            "skip_serializing_if" => {
                ignore_value(meta)?;
                self.skip_if = Some(span);
            }
            "skip_serializing" | "skip_deserializing" => refuse(format!(
                "`{name}` makes the two directions differ; use `skip`, or `skip_serializing_if` with `default`"
            )),
            "flatten" => refuse("`flatten` is not supported: the schema would not see which fields are whose; keep the struct as a field, or write its fields here".to_owned()),
            "transparent" => self.transparent = Some(span),
            "deny_unknown_fields" => self.deny_unknown = true,
            "tag" => self.tag = Some(string(meta)?),
            "content" => self.content = Some(string(meta)?),
            "other" => self.other = true,
            "untagged" => refuse(
                "which variant an old event decodes to would depend on trial and error; use `tag = \"...\"`, or no attribute"
                    .to_owned(),
            ),
            "with" | "serialize_with" | "deserialize_with" | "from" | "into" | "try_from" => {
                ignore_value(meta)?;
                self.custom = Some(span);
            }
            "bound" | "expecting" => ignore_value(meta)?,
            "crate" => {
                ignore_value(meta)?;
                refuse("the attribute above sets `crate` already; remove it here".to_owned());
            }
            _ => {
                ignore_value(meta)?;
                let place = match place {
                    Place::Container => "type",
                    Place::Variant => "variant",
                    Place::Field => "field",
                };
                refuse(format!("the serde attribute `{name}` is not supported on the {place} of an event: its wire form would not be known"));
            }
        }
        Ok(())
    }

    fn event(&mut self, meta: &ParseNestedMeta<'_>, place: Place) -> syn::Result<()> {
        if meta.path.is_ident("wire") {
            let text = string(meta)?;
            let wire = text.parse().map_err(|_| {
                let message = format!("invalid `wire` value `{}`; expected a type such as \"u64\"", text.value());
                syn::Error::new_spanned(&text, message)
            })?;
            self.wire = Some(wire);
        } else if meta.path.is_ident("opaque") {
            let text = string(meta)?;
            let value = text.value();
            let valid = value.split_once('@').is_some_and(|(name, version)| {
                !name.is_empty() && version.parse::<u32>().is_ok_and(|version| version > 0)
            });
            if !valid {
                let message =
                    format!("invalid `opaque` value `{value}`; expected a name and a number such as \"tick@1\"");
                return Err(syn::Error::new_spanned(&text, message));
            }
            self.opaque = Some(text);
        } else if meta.path.is_ident("recursive") && place == Place::Field {
            self.recursive = Some(meta.path.span());
        } else {
            let expected = match place {
                Place::Field => "`wire = \"Type\"`, `opaque = \"name@1\"` or `recursive`",
                _ => "`wire = \"Type\"` or `opaque = \"name@1\"`",
            };
            let message = format!("unknown option; expected {expected}");
            return Err(syn::Error::new_spanned(&meta.path, message));
        }
        Ok(())
    }
}

fn string(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    meta.value()?.parse()
}

/// Skips `= literal` or `(..)`, which serde checks.
fn ignore_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<Lit>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let inside;
        syn::parenthesized!(inside in meta.input);
        inside.parse::<TokenStream>()?;
    }
    Ok(())
}

/// Whether a `cfg_attr` sets an attribute that changes the wire form.
fn mentions_wire(attribute: &Attribute) -> bool {
    let Ok(list) = attribute.meta.require_list() else { return false };
    let mut tokens = list.tokens.clone().into_iter();
    tokens.any(|token| matches!(&token, proc_macro2::TokenTree::Ident(ident) if ident == "serde" || ident == "event"))
}

fn is_serde_derive(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "Serialize" || last.ident == "Deserialize")
}

fn strip_serde_derives(attribute: &mut Attribute) {
    if attribute.path().is_ident("derive")
        && let Ok(paths) = attribute.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated)
    {
        let kept = paths.iter().filter(|path| !is_serde_derive(path));
        *attribute = parse_quote!(#[derive(#(#kept),*)]);
    }
}

fn refuse_own_derives(attrs: &[Attribute], errors: &mut Errors) {
    for attribute in attrs.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        // rustc reports an argument that is no list of paths.
        let _ = attribute.parse_nested_meta(|meta| {
            if is_serde_derive(&meta.path) {
                errors.push(&meta.path, "the attribute derives this already; remove it from `#[derive(..)]`");
            }
            Ok(())
        });
    }
}

/// Refuses types that look usable and are not, because their own message helps more than the general one.
fn refuse_known_misfits(ty: &Type, errors: &mut Errors) {
    struct Misfits<'a>(&'a mut Errors);
    impl VisitMut for Misfits<'_> {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Type::Reference(reference) = ty {
                self.0.push(
                    reference,
                    "an event owns its data, so that it can outlive the read; use an owned type such as `String`",
                );
                return;
            }
            visit_mut::visit_type_mut(self, ty);
        }

        fn visit_path_mut(&mut self, path: &mut Path) {
            if let Some(last) = path.segments.last() {
                let instead = match last.ident.to_string().as_str() {
                    "Option" if holds_nil(last) => {
                        self.0.push(
                            &*path,
                            "`Some` of nothing and `None` are both nil on the wire, so one would arrive as the other; use one `Option`, or an enum that names the cases",
                        );
                        return;
                    }
                    "usize" => "its range differs by machine; use `u64`",
                    "isize" => "its range differs by machine; use `i64`",
                    "u128" => "MessagePack has no such integer; use `u64`, a `String`, or `[u8; 16]`",
                    "i128" => "MessagePack has no such integer; use `i64`, a `String`, or `[u8; 16]`",
                    "Instant" => "it means nothing in another process; use `SystemTime`",
                    "Rc" | "Arc" => "sharing does not survive the wire; hold the value itself",
                    _ => return visit_mut::visit_path_mut(self, path),
                };
                self.0.push(&*path, format!("`{}` has no event schema: {instead}", last.ident));
            }
        }
    }
    Misfits(errors).visit_type_mut(&mut ty.clone());
}

/// Whether this is an `Option` of an `Option` or of `()`.
fn holds_nil(option: &syn::PathSegment) -> bool {
    let inner = argument(option);
    inner.is_some_and(|inner| match inner {
        Type::Tuple(tuple) => tuple.elems.is_empty(),
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Option" || last.ident == "Box" && holds_nil(last)),
        _ => false,
    })
}

/// The type in `Option<Type>`.
fn argument(segment: &syn::PathSegment) -> Option<&Type> {
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(Type::Group(group)) => Some(&*group.elem),
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

fn last(path: &Path) -> Option<&Ident> {
    path.segments.last().map(|segment| &segment.ident)
}

/// Whether a type contains a path of this kind.
fn mentions(ty: &Type, kind: &dyn Fn(&Path) -> bool) -> bool {
    struct Paths<'a>(&'a dyn Fn(&Path) -> bool, bool);
    impl VisitMut for Paths<'_> {
        fn visit_path_mut(&mut self, path: &mut Path) {
            self.1 |= (self.0)(path);
            visit_mut::visit_path_mut(self, path);
        }
    }
    let mut paths = Paths(kind, false);
    paths.visit_type_mut(&mut ty.clone());
    paths.1
}

/// Puts a marker in the place of types that lead back to the type itself.
struct MarkRecursion<'a> {
    marker: &'a dyn Fn(&Ident) -> TokenStream,
    is_recursive: &'a dyn Fn(&Ident) -> bool,
    /// Whether the type counts in any module.
    anywhere: bool,
}

impl VisitMut for MarkRecursion<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::Path(path) = ty
            && path.qself.is_none()
            && let Some(last) = path.path.segments.last()
            && (self.is_recursive)(&last.ident)
            // `other::Tree` inside of `Tree` is another type.
            && (self.anywhere || path.path.segments.len() == 1)
        {
            let marker = (self.marker)(&last.ident);
            *ty = parse_quote!(#marker);
            return;
        }
        visit_mut::visit_type_mut(self, ty);
    }
}

/// Whether it is a type that leads to no other, or a container, which leads only to its parameters.
fn is_plain(ident: &Ident) -> bool {
    const PLAIN: &[&str] = &[
        "bool",
        "char",
        "String",
        "u8",
        "u16",
        "u32",
        "u64",
        "i8",
        "i16",
        "i32",
        "i64",
        "f32",
        "f64",
        "Option",
        "Vec",
        "VecDeque",
        "HashSet",
        "BTreeSet",
        "HashMap",
        "BTreeMap",
        "Box",
        "Cow",
        "Duration",
        "SystemTime",
        "Uuid",
        "DateTime",
    ];
    PLAIN.iter().any(|plain| ident == plain)
}

fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Group(group) => is_option(&group.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "Option"),
        _ => false,
    }
}

/// A name by serde's `rename_all` rule: letter by letter what serde_derive does.
fn cased(rule: Option<&LitStr>, name: &str, place: Place, errors: &mut Errors) -> String {
    let Some(rule) = rule else { return name.to_owned() };
    if rule.value() == "camelCase" && name.trim_start_matches('_').starts_with(|first: char| !first.is_ascii()) {
        errors.push(
            rule,
            format!("serde knows no `camelCase` of `{name}`, which begins with none of the letters from a to z; give it `#[serde(rename = \"..\")]`, or remove the rule"),
        );
        return name.to_owned();
    }
    let (pascal, snake) = if place == Place::Variant {
        let mut snake = String::new();
        for (i, letter) in name.char_indices() {
            if i > 0 && letter.is_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        (name.to_owned(), snake)
    } else {
        let capitalized = |word: &str| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        };
        (name.split('_').map(capitalized).collect(), name.to_owned())
    };
    match rule.value().as_str() {
        "lowercase" if place == Place::Variant => name.to_ascii_lowercase(),
        "lowercase" => name.to_owned(),
        "UPPERCASE" => name.to_ascii_uppercase(),
        "PascalCase" => pascal,
        "camelCase" => {
            let mut letters = pascal.chars();
            let first = letters.next().map(|first| first.to_ascii_lowercase());
            first.into_iter().chain(letters).collect()
        }
        "snake_case" => snake,
        "SCREAMING_SNAKE_CASE" => snake.to_ascii_uppercase(),
        "kebab-case" => snake.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => snake.to_ascii_uppercase().replace('_', "-"),
        other => {
            // Reported once, not for each name.
            if errors.is_empty() {
                errors.push(
                    rule,
                    format!("invalid rename rule `{other}`; expected one such as \"camelCase\" or \"snake_case\""),
                );
            }
            name.to_owned()
        }
    }
}

/// Removes the attributes that only these macros understand, and serde's attributes if serde derives nothing.
pub(crate) struct Strip {
    pub(crate) serde: bool,
}

impl Strip {
    fn strip(&self, attrs: &mut Vec<Attribute>) {
        attrs.retain(|attribute| {
            let path = attribute.path();
            !(path.is_ident("event") || self.serde && path.is_ident("serde"))
        });
    }
}

impl VisitMut for Strip {
    fn visit_derive_input_mut(&mut self, input: &mut DeriveInput) {
        self.strip(&mut input.attrs);
        if self.serde {
            input.attrs.iter_mut().for_each(strip_serde_derives);
        }
        visit_mut::visit_derive_input_mut(self, input);
    }

    fn visit_variant_mut(&mut self, variant: &mut Variant) {
        self.strip(&mut variant.attrs);
        visit_mut::visit_variant_mut(self, variant);
    }

    fn visit_field_mut(&mut self, field: &mut syn::Field) {
        self.strip(&mut field.attrs);
    }
}
