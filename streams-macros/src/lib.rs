//! The attributes and macros of `streams-core` and `streams-runtime`; each crate re-exports its own set under the plain
//! names.
//!
//! Each exists once per root crate, as in tokio: the expansion names `::streams_core` or `::streams_runtime`, whichever
//! the user depends on, by the name that it has in the user's manifest.

mod args;
mod consumer;
mod errors;
mod event_type;
mod frozen_event;
mod listed;
mod lock;
mod root;
mod shape;
mod source;
mod stream_event;
mod versions;

use errors::Errors;
use proc_macro::TokenStream;
use quote::quote;

#[doc = include_str!("../docs/stream_event.md")]
#[proc_macro_attribute]
pub fn stream_event_core(args: TokenStream, item: TokenStream) -> TokenStream {
    stream_event::expand(args.into(), &item.into(), &root::of("streams-core")).into()
}

#[doc = include_str!("../docs/stream_event.md")]
#[proc_macro_attribute]
pub fn stream_event_runtime(args: TokenStream, item: TokenStream) -> TokenStream {
    stream_event::expand(args.into(), &item.into(), &root::of("streams-runtime")).into()
}

#[doc = include_str!("../docs/event_type.md")]
#[proc_macro_attribute]
pub fn event_type_core(args: TokenStream, item: TokenStream) -> TokenStream {
    event_type::expand(args.into(), &item.into(), &root::of("streams-core")).into()
}

#[doc = include_str!("../docs/event_type.md")]
#[proc_macro_attribute]
pub fn event_type_runtime(args: TokenStream, item: TokenStream) -> TokenStream {
    event_type::expand(args.into(), &item.into(), &root::of("streams-runtime")).into()
}

#[doc = include_str!("../docs/consumer.md")]
#[proc_macro_attribute]
pub fn consumer_core(args: TokenStream, item: TokenStream) -> TokenStream {
    consumer::expand(args.into(), &item.into(), &root::of("streams-core")).into()
}

#[doc = include_str!("../docs/consumer.md")]
#[proc_macro_attribute]
pub fn consumer_runtime(args: TokenStream, item: TokenStream) -> TokenStream {
    consumer::expand(args.into(), &item.into(), &root::of("streams-runtime")).into()
}

#[doc = include_str!("../docs/frozen_event.md")]
#[proc_macro]
pub fn frozen_event_core(declaration: TokenStream) -> TokenStream {
    frozen_event::expand(declaration.into(), &root::of("streams-core")).into()
}

#[doc = include_str!("../docs/frozen_event.md")]
#[proc_macro]
pub fn frozen_event_runtime(declaration: TokenStream) -> TokenStream {
    frozen_event::expand(declaration.into(), &root::of("streams-runtime")).into()
}

/// Not public API: the elements of `consumers![..]`.
#[doc(hidden)]
#[proc_macro]
pub fn listed(list: TokenStream) -> TokenStream {
    listed::expand(list.into()).into()
}

/// The attribute is on an item that is no type, or on a type that Rust itself refuses.
fn not_a_type(
    item: &proc_macro2::TokenStream,
    attribute: &str,
    error: &syn::Error,
    mut errors: Errors,
) -> proc_macro2::TokenStream {
    match syn::parse2::<syn::Item>(item.clone()) {
        Ok(other) => errors.push(other, format!("`{attribute}` goes on a struct or an enum")),
        Err(_) => errors.add(error.clone()),
    }
    let errors = errors.finish();
    quote!(#errors #item)
}
