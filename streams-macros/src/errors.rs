//! Collects the mistakes in one use of an attribute, so that the user sees all at once, and gives spans to the
//! compiler's errors.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Error;

/// The mistakes found so far. They must be finished, because a program with forgotten mistakes would compile.
#[derive(Default)]
pub(crate) struct Errors {
    first: Option<Error>,
    finished: bool,
}

impl Errors {
    /// Adds a mistake in the whole of `tokens`.
    pub(crate) fn push(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.add(Error::new_spanned(tokens.into_token_stream(), message));
    }

    /// Adds a mistake at `span`.
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

/// A call of a function that may stop the compiler, which then underlines the whole of `tokens`.
pub(crate) fn called(tokens: impl ToTokens, path: &TokenStream, arguments: TokenStream) -> TokenStream {
    let mut spans = tokens.into_token_stream().into_iter().map(|token| token.span());
    let begin = spans.next().unwrap_or_else(Span::call_site);
    called_at(begin, spans.last().unwrap_or(begin), path, arguments)
}

/// A call that the compiler underlines from `begin` to `end`: its path has the one span, its parentheses the other.
pub(crate) fn called_at(begin: Span, end: Span, path: &TokenStream, arguments: TokenStream) -> TokenStream {
    let begin = begin.resolved_at(Span::call_site());
    let mut call: TokenStream = path
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(begin);
            token
        })
        .collect();
    let mut parentheses = Group::new(Delimiter::Parenthesis, arguments);
    parentheses.set_span(end.resolved_at(Span::call_site()));
    call.extend([TokenTree::Group(parentheses)]);
    call
}
