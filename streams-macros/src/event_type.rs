//! `#[event_type]`: the wire form of a type that events are made of.

use proc_macro2::TokenStream;
use quote::quote;
use syn::DeriveInput;

use crate::args::Args;
use crate::errors::Errors;
use crate::shape::Shape;

pub(crate) fn expand(args: TokenStream, item: &TokenStream, root: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let root = Args::parse(args, &["crate"], &mut errors).root(root, &mut errors);
    let input: DeriveInput = match syn::parse2(item.clone()) {
        Ok(input) => input,
        Err(error) => return crate::not_a_type(item, "#[event_type]", &error, errors),
    };
    let shape = Shape::new(&input, &root, &mut errors);
    let implementation = shape.implementation(&mut errors);
    match errors.finish() {
        None => {
            let item = shape.item();
            quote!(#implementation #item)
        }
        Some(errors) => {
            let fallback = shape.fallback();
            quote!(#errors #fallback)
        }
    }
}
