//! Collects the mistakes of one use of an attribute, so that the user sees all of them at once.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::Error;

/// The mistakes found so far. Must be finished: forgotten mistakes would compile.
#[derive(Default)]
pub(crate) struct Errors {
    first: Option<Error>,
    finished: bool,
}

impl Errors {
    /// A mistake that shows at the whole of `tokens`.
    pub(crate) fn push(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.add(Error::new_spanned(tokens.into_token_stream(), message));
    }

    /// A mistake that shows at `span`.
    pub(crate) fn push_at(&mut self, span: Span, message: impl std::fmt::Display) {
        self.add(Error::new(span, message));
    }

    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.first {
            Some(first) => first.combine(error),
            None => self.first = Some(error),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// `compile_error!` for each mistake; `None` when there is none.
    pub(crate) fn finish(mut self) -> Option<TokenStream> {
        self.finished = true;
        self.first.take().map(|error| error.to_compile_error())
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            panic!("bug in streams-macros: the mistakes of a use were not reported");
        }
    }
}
