//! The arguments of an attribute: `key = value` lists and the forms of their values.
//!
//! Expansion checks all values, so that a program parses none when it starts.

use std::time::Duration;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Ident, Lit, LitStr, Path, Token};

use crate::errors::Errors;

/// The options of one attribute, each at most once.
pub(crate) struct Args {
    options: Vec<Opt>,
}

struct Opt {
    name: Ident,
    value: TokenStream,
}

impl Args {
    /// Parses the list. It reports unknown, duplicate and malformed options, and leaves them out.
    pub(crate) fn parse(tokens: TokenStream, known: &[&str], errors: &mut Errors) -> Self {
        let mut options: Vec<Opt> = Vec::new();
        for piece in split_at_commas(tokens) {
            let option: Opt = match syn::parse2(piece) {
                Ok(option) => option,
                Err(error) => {
                    errors.add(error);
                    continue;
                }
            };
            let name = option.name.unraw().to_string();
            if !known.contains(&name.as_str()) {
                let near = nearest(&name, known).map(|near| format!(", perhaps `{near}`")).unwrap_or_default();
                let known = known.join(", ");
                errors.push(&option.name, format!("unknown option `{name}`{near}; expected one of: {known}"));
            } else if options.iter().any(|other| other.name == option.name) {
                errors.push(&option.name, format!("`{name}` specified more than once"));
            } else {
                options.push(option);
            }
        }
        Self { options }
    }

    /// The option of this name, if it was given.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value> {
        let index = self.options.iter().position(|option| option.name == name)?;
        let Opt { value, .. } = self.options.swap_remove(index);
        Some(Value { name, tokens: value })
    }

    /// The crate that the expansion names: `crate = path`, or the crate whose attribute was used.
    pub(crate) fn root(&mut self, default: &TokenStream, errors: &mut Errors) -> TokenStream {
        let Some(value) = self.take("crate") else { return default.clone() };
        let path: Path = match syn::parse2(value.tokens.clone()) {
            Ok(path) => path,
            Err(_) => {
                errors.push(
                    &value.tokens,
                    format!("invalid `crate` value `{}`; expected a path such as `::streams_core`", value.tokens),
                );
                return default.clone();
            }
        };
        let first = path.segments.first().map(|segment| segment.ident.to_string());
        if path.leading_colon.is_none() && first.as_deref() != Some("crate") {
            let shown = quote!(#path).to_string().replace(' ', "");
            errors.push(
                &path,
                format!("the path must be absolute; for a crate write `::{shown}`, for a module of this crate `crate::{shown}`"),
            );
            return default.clone();
        }
        path.into_token_stream()
    }
}

impl Parse for Opt {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let Ok(name) = input.call(Ident::parse_any) else {
            return Err(input.error("expected an option such as `name = value`"));
        };
        if !input.peek(Token![=]) || input.peek(Token![==]) {
            let message = format!("expected a value after `{name}`: `{name} = ...`");
            return Err(syn::Error::new_spanned(&name, message));
        }
        input.parse::<Token![=]>()?;
        let value: TokenStream = input.parse()?;
        if value.is_empty() {
            let message = format!("expected a value after `{name}`: `{name} = ...`");
            return Err(syn::Error::new_spanned(&name, message));
        }
        Ok(Self { name, value })
    }
}

/// The value of an option.
pub(crate) struct Value {
    name: &'static str,
    pub(crate) tokens: TokenStream,
}

impl Value {
    /// Reports that the value does not have the expected form.
    pub(crate) fn invalid(&self, expected: &str, errors: &mut Errors) {
        let name = self.name;
        let shown = &self.tokens;
        errors.push(&self.tokens, format!("invalid `{name}` value `{shown}`; expected {expected}"));
    }

    fn literal(&self) -> Option<Lit> {
        syn::parse2(self.tokens.clone()).ok()
    }

    /// A string literal; `None`, unreported, for anything else.
    pub(crate) fn text(&self) -> Option<LitStr> {
        match self.literal() {
            Some(Lit::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// A truth value; `None`, unreported, for anything else.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.literal() {
            Some(Lit::Bool(truth)) => Some(truth.value),
            _ => None,
        }
    }

    /// A whole number in the range; `None`, unreported, for anything else.
    pub(crate) fn number_in(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        match self.literal() {
            Some(Lit::Int(number)) => number.base10_parse().ok().filter(|number| range.contains(number)),
            _ => None,
        }
    }

    /// A whole number in the range; `expected` says which, with an example.
    pub(crate) fn integer(
        &self,
        range: std::ops::RangeInclusive<u64>,
        expected: &str,
        errors: &mut Errors,
    ) -> Option<u64> {
        let number = self.number_in(range);
        if number.is_none() {
            self.invalid(expected, errors);
        }
        number
    }

    /// A duration in the range; `expected` says which, with an example.
    pub(crate) fn duration(
        &self,
        range: std::ops::RangeInclusive<Duration>,
        expected: &str,
        errors: &mut Errors,
    ) -> Option<Duration> {
        let duration = self.text().and_then(|text| duration(&text.value())).filter(|duration| range.contains(duration));
        if duration.is_none() {
            self.invalid(expected, errors);
        }
        duration
    }

    /// A name that can be part of a Redis key.
    pub(crate) fn redis_name(&self, kind: NameKind, errors: &mut Errors) -> Option<LitStr> {
        let Some(text) = self.text() else {
            self.invalid(&format!("a string such as \"{}\"", kind.example()), errors);
            return None;
        };
        checked_name(text, kind, errors)
    }

    /// A list of such names, each once.
    pub(crate) fn names(&self, kind: NameKind, errors: &mut Errors) -> Vec<LitStr> {
        let expected = format!("a list of {} names such as [\"{}\"]", kind.word(), kind.example());
        let Ok(list) = syn::parse2::<syn::ExprArray>(self.tokens.clone()) else {
            self.invalid(&expected, errors);
            return Vec::new();
        };
        if list.elems.is_empty() {
            let option = self.name;
            errors.push(&list, format!("`{option}` names nothing; expected {expected}, or remove `{option}`"));
        }
        let mut names: Vec<LitStr> = Vec::new();
        let stands = |names: &[LitStr], name: &LitStr| names.iter().any(|other| other.value() == name.value());
        for name in list.elems {
            match name {
                syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(name), .. }) if stands(&names, &name) => {
                    errors.push(&name, format!("`{}` stands here twice", name.value()));
                }
                syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(name), .. }) => {
                    names.extend(checked_name(name, kind, errors));
                }
                other => {
                    let shown = other.to_token_stream();
                    errors.push(&shown, format!("invalid {} name `{shown}`; expected {expected}", kind.word()));
                }
            }
        }
        names
    }
}

fn checked_name(text: LitStr, kind: NameKind, errors: &mut Errors) -> Option<LitStr> {
    match check_name(kind, &text.value()) {
        Ok(()) => Some(text),
        Err(reason) => {
            let (kind, name) = (kind.word(), text.value());
            errors.push(&text, format!("invalid {kind} name `{name}`: {reason}"));
            None
        }
    }
}

/// The kind of thing that a name is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum NameKind {
    Stream,
    Group,
    Event,
}

impl NameKind {
    fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Group => "group",
            Self::Event => "event",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Stream => "trades",
            Self::Group => "risk",
            Self::Event => "Trade",
        }
    }
}

/// The rules of `streams_core::keys`, with the same words.
///
/// They are repeated here because core depends on this crate, and a crate of macros can export nothing else. A test
/// below compares the two.
pub(crate) fn check_name(kind: NameKind, name: &str) -> Result<(), &'static str> {
    let colons = kind == NameKind::Stream;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') || (colons && b == b':');
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > 100 {
        Err("it is longer than 100 bytes")
    } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
        Err("it must start with a letter or a digit")
    } else if !name.bytes().all(allowed) {
        Err(if colons {
            "letters, digits and `.` `_` `:` `-` are allowed"
        } else {
            "letters, digits and `.` `_` `-` are allowed"
        })
    } else if name.eq_ignore_ascii_case("streams") {
        Err("`STREAMS` is a keyword of Redis commands")
    } else if colons
        && name.rsplit_once('.').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()))
    {
        Err("a name that ends in a dot and digits is the name of a partition")
    } else {
        Ok(())
    }
}

/// A duration such as `30s` or `1h 30m`, as humantime reads it.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// A size such as `256KiB`, `1MiB` or `4096 B`, in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit.trim() {
        "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A duration as an expression for a constant.
pub(crate) fn duration_tokens(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

/// `Some(value)` or `None`, by absolute path.
pub(crate) fn option_tokens(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// Reports that a required option was not given.
pub(crate) fn missing(option: &str, example: &str, errors: &mut Errors) {
    // It points at the attribute itself, because the user wrote no token for the option.
    errors.push_at(Span::call_site(), format!("missing `{option}`; write `{example}`"));
}

fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut pieces = vec![TokenStream::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => pieces.push(TokenStream::new()),
            _ => pieces.last_mut().into_iter().for_each(|piece| piece.extend([token.clone()])),
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// The known name that a misspelled one was most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known.iter().map(|known| (distance(name, known), *known)).min()?;
    (distance <= 2 && distance < near.len()).then_some(near)
}

/// The number of letters to add, remove, replace or swap with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_options_are_recognised() {
        let known = ["stream", "version", "name", "key"];
        assert_eq!(nearest("strem", &known), Some("stream"));
        assert_eq!(nearest("verison", &known), Some("version"));
        assert_eq!(nearest("keys", &known), Some("key"));
        assert_eq!(nearest("oldest", &known), None);
    }

    #[test]
    fn names_are_judged_as_in_core() {
        let long = "x".repeat(101);
        let names = [
            "trades",
            "T",
            "9",
            "eu:trades.fx",
            "a.1b",
            "a.1",
            "a.",
            "a-b_c",
            "",
            "{trades}",
            "-a",
            "_a",
            ":a",
            "a b",
            "STREAMS",
            "streams",
            "ä",
            "a*",
            &long,
            &long[1..],
        ];
        for name in names {
            let core = [
                (NameKind::Stream, streams_core::keys::check_stream(name)),
                (NameKind::Group, streams_core::keys::check_group(name)),
                (NameKind::Event, streams_core::keys::check_event(name)),
            ];
            for (kind, core) in core {
                let ours =
                    check_name(kind, name).map_err(|reason| format!("invalid {} name `{name}`: {reason}", kind.word()));
                assert_eq!(ours, core.map_err(|error| error.to_string()));
            }
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("256KiB"), Some(256 * 1024));
        assert_eq!(bytes("1 MiB"), Some(1024 * 1024));
        assert_eq!(bytes("1MB"), Some(1_000_000));
        for bad in ["", "1", "KiB", "-1KiB", "1.5MiB", "1GiB", "99999999999999999999MiB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
