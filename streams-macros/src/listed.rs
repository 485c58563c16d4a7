//! `consumers![..]`: a list of consumers, each reported at its place where it is none.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Path, Token};

use crate::errors::Errors;

/// `$crate; check_limits, audit::count`: the crate of the runtime, then the list.
pub(crate) fn expand(tokens: TokenStream) -> TokenStream {
    match (|input: ParseStream<'_>| Listed::parse(input)).parse2(tokens) {
        Ok(Listed { root, elements }) => emit(&root, elements),
        Err(error) => error.to_compile_error(),
    }
}

struct Listed {
    root: Path,
    elements: Punctuated<syn::Expr, Token![,]>,
}

impl Parse for Listed {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let root = input.parse()?;
        input.parse::<Token![;]>()?;
        Ok(Self { root, elements: Punctuated::parse_terminated(input)? })
    }
}

fn emit(root: &Path, elements: Punctuated<syn::Expr, Token![,]>) -> TokenStream {
    let mut errors = Errors::default();
    let mut registrations = Vec::new();
    for element in elements {
        match element {
            syn::Expr::Path(syn::ExprPath { qself: None, mut path, .. })
                if path.segments.iter().all(|segment| segment.arguments.is_none()) =>
            {
                // A plain function has no type of its name. Then that of the first line is left, which is no consumer.
                let listed = quote_spanned!(path.span().resolved_at(Span::call_site())=> PlainFunction);
                // An import finds no local variable of that name then, and could not take it.
                if let Some(first) = path.segments.first_mut() {
                    first.ident.set_span(Span::mixed_site().located_at(first.ident.span()));
                }
                registrations.push(quote! {{
                    use #root::__private::plain::*;
                    use #path as PlainFunction;
                    <#listed as #root::Consumer>::REGISTRATION
                }});
            }
            other => errors.push(other, "expected the name of a consumer, such as `check` or `audit::count`"),
        }
    }
    match errors.finish() {
        None => quote!([#(#registrations),*]),
        // An array of any length and type, so that this is the only error.
        Some(errors) => quote!({ #errors [#(#registrations),*] }),
    }
}
