//! The versions in `#[stream_event(..)]`: which one the type is, and how older ones become it.
//!
//! This module refuses mistakes that the words alone show. The compiler, which knows the older type, finds the others,
//! and reports them in the words of `streams_core::upcast`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, LitStr, Path};

use crate::args::{Args, option_tokens};
use crate::errors::{Errors, called};

/// The options `version`, `upcast_from` and `oldest`.
pub(crate) struct Versions {
    pub(crate) version: u32,
    upcast_from: Option<Path>,
    oldest: Option<Oldest>,
}

struct Oldest {
    version: u32,
    tokens: TokenStream,
}

impl Versions {
    pub(crate) fn parse(args: &mut Args, errors: &mut Errors) -> Self {
        const RANGE: std::ops::RangeInclusive<u64> = 1..=u32::MAX as u64;
        const EXPECTED: &str = "a whole number from 1, such as `2`";
        let given = args.take("version");
        let version = given.as_ref().and_then(|value| value.integer(RANGE, EXPECTED, errors));
        let upcast_from = args.take("upcast_from").and_then(|value| {
            let path = syn::parse2(value.tokens.clone());
            if path.is_err() {
                value.invalid("the type of the version before, such as `TradeV1`", errors);
            }
            path.ok()
        });
        let oldest = args.take("oldest").and_then(|value| {
            let version = value.integer(RANGE, EXPECTED, errors)? as u32;
            Some(Oldest { version, tokens: value.tokens })
        });
        let versions = Self { version: version.map_or(1, |version| version as u32), upcast_from, oldest };
        // A second error would confuse: an unknown option is most likely one of these, misspelled.
        if errors.is_empty() {
            versions.check(given.map(|given| given.tokens), errors);
        }
        versions
    }

    /// Reports the mistakes that show without the older type.
    fn check(&self, given: Option<TokenStream>, errors: &mut Errors) {
        let Self { version, upcast_from, oldest } = self;
        match (upcast_from, oldest) {
            (_, Some(oldest)) if oldest.version > *version => errors.push(
                &oldest.tokens,
                format!("`oldest = {}` is above `version = {version}`, which is what the type itself reads; write `oldest = {version}` or less", oldest.version),
            ),
            (Some(path), _) if *version == 1 => errors.push(
                path,
                "version 1 is the first, so there is nothing to upcast from; raise `version`, or remove `upcast_from`",
            ),
            (Some(path), Some(oldest)) if oldest.version == *version => errors.push(
                path,
                format!("`oldest = {version}` says that nothing older than version {version} is read, so this upcaster would never be used; remove it, or lower `oldest`"),
            ),
            (None, Some(oldest)) if oldest.version < *version => errors.push(
                &oldest.tokens,
                format!(
                    "nothing says how to read {}; {}, or `oldest = {version}` if none of them is left in the stream",
                    versions_text(oldest.version, version - 1),
                    add_upcaster(*version),
                ),
            ),
            (None, None) if *version > 1 => errors.push(
                given,
                format!(
                    "nothing says how to read {}; {}, or `oldest = {version}` if none is left in the stream",
                    versions_text(1, version - 1),
                    add_upcaster(*version),
                ),
            ),
            _ => {}
        }
    }

    /// The fields of `EventInfo`; `newest` is the newest version in the lock.
    pub(crate) fn info(&self, newest: Option<u32>, root: &TokenStream) -> TokenStream {
        let Self { version, upcast_from, oldest } = self;
        let before = upcast_from.as_ref().map(|path| info_of(path, root));
        let oldest = match (oldest, &before) {
            (Some(oldest), _) => oldest.version.into_token_stream(),
            (None, Some(before)) => quote!(#before.oldest),
            (None, None) => version.into_token_stream(),
        };
        let (before, newest) = (option_tokens(before), newest.map_or(*version, |newest| newest.max(*version)));
        quote!(version: #version, oldest: #oldest, newest: #newest, upcast_from: #before,)
    }

    /// The method that reads another version; nothing if no other is read.
    pub(crate) fn method(&self, root: &TokenStream) -> TokenStream {
        let Some(path) = &self.upcast_from else { return quote!() };
        // At the older type, so that rustc reports a missing `From` there.
        let read = quote_spanned!(at(path)=> #root::__private::decode_or_upcast::<Self, #path>);
        let before = quote_spanned!(at(path)=> <#path as #root::StreamEvent>::decode_version);
        quote! {
            fn decode_version(
                version: u32,
                payload: &[u8],
            ) -> ::core::result::Result<Self, #root::__private::DecodeError> {
                #read(version, payload, #before)
            }
        }
    }

    /// The checks that the compiler makes once it knows the older type.
    pub(crate) fn checks(&self, ident: &Ident, stream: &LitStr, name: &str, root: &TokenStream) -> TokenStream {
        let Some(path) = &self.upcast_from else { return quote!() };
        let shown = path.to_token_stream().to_string().replace(' ', "");
        let (version, stream) = (self.version, stream.value());
        let before = version - 1;
        let other_stream = format!(
            "`{shown}` belongs to another stream than `{stream}`; an upcaster reads the events of one stream, so give both types the same `stream`"
        );
        let other_name = format!(
            "`{shown}` has another name on the wire than `{name}`, so it is no older version of it; write `name = \"{name}\"` on `{shown}`"
        );
        let gap = format!(
            "`{shown}` is not version {before} of `{name}`, and the versions between could not be read; upcast from the type of version {before}"
        );
        let (new, old) = (quote!(<#ident as #root::StreamEvent>::INFO), info_of(path, root));
        let check = called(
            path,
            &quote!(#root::__private::check_upcast),
            quote! {
                #new, #old, &#root::__private::Said { other_stream: #other_stream, other_name: #other_name, gap: #gap }
            },
        );
        let oldest = self.oldest.as_ref().map(|Oldest { version: oldest, tokens }| {
            let too_old = format!(
                "`{shown}` does not read version {oldest}; raise `oldest` to what it reads, or let it read more"
            );
            let check = called(tokens, &quote!(#root::__private::check_oldest), quote!(#oldest, #old, #too_old));
            quote!(const _: () = #check;)
        });
        quote!(const _: () = #check; #oldest)
    }
}

fn versions_text(first: u32, last: u32) -> String {
    if first == last { format!("version {first}") } else { format!("versions {first} to {last}") }
}

fn add_upcaster(version: u32) -> String {
    let before = version - 1;
    format!("add `upcast_from = ..` with the type of version {before} and an `impl From` for it")
}

fn info_of(path: &Path, root: &TokenStream) -> TokenStream {
    quote_spanned!(at(path)=> <#path as #root::StreamEvent>::INFO)
}

/// The span of the user's tokens, for the macro's tokens.
fn at(tokens: &impl Spanned) -> Span {
    tokens.span().resolved_at(Span::call_site())
}
