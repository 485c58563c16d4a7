//! The attributes of `streams-core` and `streams-runtime`; each crate re-exports its own set under the plain names.

use proc_macro::TokenStream;

/// Placeholder.
#[proc_macro_attribute]
pub fn stream_event_core(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
/// Placeholder.
#[proc_macro_attribute]
pub fn event_type_core(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
/// Placeholder.
#[proc_macro_attribute]
pub fn consumer_core(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
