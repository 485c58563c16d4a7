//! `#[consumer(..)]`: a function that handles an event. The function stays as it is, and a type of its name has the
//! rest.

use std::time::Duration;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, Ident, Index, ItemFn, LitStr, Meta, Path, ReturnType, Type, parse_quote};

use crate::args::{Args, NameKind, Value, duration, duration_tokens, missing};
use crate::errors::{Errors, called};
use crate::shape::doc;
use crate::source;

pub(crate) fn expand(args: TokenStream, item: &TokenStream, root: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let options = Options::parse(args, root, &mut errors);
    let mut function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return not_a_function(item, error, errors),
    };
    let handler = Handler::from_syn(&function, &mut errors);
    let has_place = check_place(&mut function, &mut errors);
    match (errors.finish(), handler, &options.group) {
        (None, Some(handler), Some(group)) => {
            let consumer = emit(&options, group, &function, &handler);
            quote!(#function #consumer)
        }
        (errors, ..) => {
            let fallback = has_place.then(|| fallback(&options.root, &function));
            quote!(#errors #function #fallback)
        }
    }
}

/// Checks that a type can stand beside the function, and that it has the attribute once. It removes a second one, which
/// would report all mistakes again. Answers whether the type has a place.
fn check_place(function: &mut ItemFn, errors: &mut Errors) -> bool {
    let is_ours = |attribute: &Attribute| {
        attribute.path().segments.last().is_some_and(|segment| segment.ident == "consumer")
            && matches!(attribute.meta, Meta::List(_))
    };
    if let Some(second) = function.attrs.iter().find(|attribute| is_ours(attribute)) {
        errors.push(
            second,
            format!(
                "a function has one `#[consumer]`; for a second group list it again, `consumers![{0}].map(|it| it.in_group(\"..\"))`, or write a second function that calls `{0}`",
                function.sig.ident
            ),
        );
        function.attrs.retain(|attribute| !is_ours(attribute));
    }
    let name = &function.sig.ident;
    if matches!(function.sig.inputs.first(), Some(FnArg::Receiver(_))) {
        return false;
    }
    let Some(source) = source::around() else { return true };
    if let (Some(FnArg::Typed(first)), true) = (function.sig.inputs.first(), function.sig.inputs.len() > 1)
        && matches!(&*first.ty, Type::Path(path) if path.path.is_ident("Context"))
        && source.knows_context(name)
    {
        errors.push(&first.ty, "the first argument of a consumer is the event; put the `Context` behind it");
    }
    if source.is_associated(name) {
        errors
            .push(name, "a consumer is a free function; move it out of the `impl`, and take shared data as `State<T>`");
        return false;
    }
    if let Some(namesake) = source.namesake(name) {
        errors.push(
            name,
            format!(
                "a consumer is also a type of its name, which `{namesake}` in this module has already; give one of them another name"
            ),
        );
        return false;
    }
    true
}

/// The type of a function with a mistake, so that it can be listed without another error.
fn fallback(root: &TokenStream, function: &ItemFn) -> TokenStream {
    let (name, visibility) = (&function.sig.ident, &function.vis);
    let mut type_name = name.clone();
    type_name.set_span(at(name));
    let type_visibility = ours(visibility.to_token_stream());
    quote! {
        #[doc(hidden)]
        #[non_exhaustive]
        #type_visibility struct #type_name {}
        const _: () = {
            impl #root::Consumer for #name {
                const REGISTRATION: #root::Registration = #root::__private::broken();
            }
        };
    }
}

/// The arguments of the attribute.
struct Options {
    root: TokenStream,
    group: Option<Group>,
    /// The setters of `ConsumerOptions` to call.
    setters: Vec<TokenStream>,
    /// The demands on the types of the signature, each with its place in the attribute.
    demands: Vec<(Demand, Span)>,
}

/// The group that the attribute names.
enum Group {
    /// A name, which is checked.
    Name(LitStr),
    /// A constant, which the compiler checks.
    Constant(Path),
}

impl ToTokens for Group {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Name(name) => name.to_tokens(tokens),
            Self::Constant(path) => path.to_tokens(tokens),
        }
    }
}

fn is_constant(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident.to_string().contains(char::is_uppercase))
}

/// A demand of an option on the types of the signature. Only the compiler can check it.
enum Demand {
    /// An option that only a batch can have.
    Batch(&'static str),
    /// A work queue hands out single events.
    SingleInQueue,
    /// In lanes keys are apart, and a batch mixes them.
    SingleInLanes,
    /// Lanes go by the key.
    Key,
}

impl Demand {
    /// The condition on a handler, and the mistake where it does not hold.
    fn check(&self, root: &TokenStream, handler: &Ident) -> (TokenStream, String) {
        let takes_batches = quote!(#root::__private::takes_batches::<#handler>());
        match self {
            Self::Batch(option) => (
                takes_batches,
                format!(
                    "`{option}` is for a consumer that takes several events at once; take `Batch<Event>` as the first argument, or remove `{option}`"
                ),
            ),
            Self::SingleInQueue => (
                quote!(!#takes_batches),
                "a work queue hands out event by event, so its consumers take no `Batch`; take single events, or remove `delivery`".to_owned(),
            ),
            Self::SingleInLanes => (
                quote!(!#takes_batches),
                "a batch is a stretch of the stream, in which the keys are mixed, so it cannot be handled in lanes; take single events, or remove `concurrency`".to_owned(),
            ),
            Self::Key => (
                quote!(#takes_batches || #root::__private::has_key::<#handler>()),
                "the event has no key, so nothing says which events have to stay in order; write `key = field` in its `#[stream_event(..)]`, add `delivery = \"queue\"` where no order matters, or remove `concurrency`".to_owned(),
            ),
        }
    }
}

impl Options {
    const KNOWN: &[&str] = &[
        "group",
        "max_attempts",
        "max_crashes",
        "backoff",
        "timeout",
        "batch",
        "batch_wait",
        "start",
        "checkpoint",
        "on_data_loss",
        "delivery",
        "on_failure",
        "dedupe",
        "concurrency",
        "ignore",
        "adopt",
        "crate",
    ];

    fn parse(tokens: TokenStream, root: &TokenStream, errors: &mut Errors) -> Self {
        let mut args = Args::parse(tokens, Self::KNOWN, errors);
        let root = args.root(root, errors);
        let group = match args.take("group") {
            Some(value) => match syn::parse2(value.tokens.clone()) {
                // A name in small letters only lacks its quotes.
                Ok(path) if is_constant(&path) => Some(Group::Constant(path)),
                _ => value.redis_name(NameKind::Group, errors).map(Group::Name),
            },
            None => {
                // An unknown option is most likely this one, misspelled.
                if errors.is_empty() {
                    missing("group", "#[consumer(group = \"risk\")]", errors);
                }
                None
            }
        };
        let mut setters = Vec::new();
        if let Some(value) = args.take("max_attempts")
            && let Some(attempts) = value.integer(1..=1000, "a whole number from 1 to 1000, such as `5`", errors)
        {
            let attempts = attempts as u32;
            setters.push(quote!(with_max_attempts(#attempts)));
        }
        if let Some(value) = args.take("max_crashes")
            && let Some(crashes) = value.integer(1..=MAX_CRASHES, "a whole number from 1 to 1000, such as `3`", errors)
        {
            let crashes = crashes as u32;
            setters.push(quote!(with_max_crashes(#crashes)));
        }
        if let Some(value) = args.take("backoff") {
            match value.text().and_then(|text| backoff(&text.value())) {
                Some((first, max)) => {
                    let (first, max) = (duration_tokens(first), duration_tokens(max));
                    setters.push(quote!(with_backoff(#first, #max)));
                }
                None => value.invalid(
                    "a duration from 1ms to 1 day such as \"100ms\", or a range such as \"100ms..30s\"",
                    errors,
                ),
            }
        }
        if let Some(value) = args.take("timeout")
            && let Some(timeout) = value.duration(MS..=DAY, "a duration from 1ms to 1 day, such as \"30s\"", errors)
        {
            let timeout = duration_tokens(timeout);
            setters.push(quote!(with_timeout(#timeout)));
        }
        let mut demands = Vec::new();
        if let Some(value) = args.take("batch") {
            demands.push((Demand::Batch("batch"), at(&value.tokens)));
            let expected = "a number of events from 1 to 10000, such as `500`";
            if let Some(events) = value.integer(1..=MAX_BATCH, expected, errors) {
                let events = events as u32;
                setters.push(quote!(with_batch(#events)));
            }
        }
        if let Some(value) = args.take("batch_wait") {
            demands.push((Demand::Batch("batch_wait"), at(&value.tokens)));
            let expected = "a duration up to a minute such as \"200ms\", or \"0s\" to wait for nothing";
            if let Some(wait) = value.duration(Duration::ZERO..=MAX_BATCH_WAIT, expected, errors) {
                let wait = duration_tokens(wait);
                setters.push(quote!(with_batch_wait(#wait)));
            }
        }
        if let Some(value) = args.take("start") {
            match value.text().and_then(|text| start(&text.value(), &root)) {
                Some(start) => setters.push(quote!(with_start(#start))),
                None => value.invalid(
                    "\"earliest\", \"latest\", an entry id such as \"1610064000278-0\", a time in UTC such as \"2026-01-02T03:04:05Z\", or an age such as \"1h ago\"",
                    errors,
                ),
            }
        }
        let checkpoint_place = args.take("checkpoint").map(|value| {
            match checkpoint(&value) {
                Some(setter) => setters.push(setter),
                None => value.invalid(
                    "\"each\", a time up to a minute such as \"100ms\", or a number of events up to 100000 such as `500`",
                    errors,
                ),
            }
            value.tokens
        });
        if let Some(value) = args.take("on_data_loss") {
            match value.text().map(|text| text.value()).as_deref() {
                Some("halt") => setters.push(quote!(with_on_data_loss(#root::OnDataLoss::Halt))),
                Some("continue") => setters.push(quote!(with_on_data_loss(#root::OnDataLoss::Continue))),
                _ => value.invalid("\"halt\" or \"continue\"", errors),
            }
        }
        let (mut is_queue, mut has_lanes) = (false, true);
        if let Some(value) = args.take("delivery") {
            match value.text().map(|text| text.value()).as_deref() {
                Some("ordered") => setters.push(quote!(with_delivery(#root::Delivery::Ordered))),
                Some("queue") => {
                    (is_queue, has_lanes) = (true, false);
                    demands.push((Demand::SingleInQueue, at(&value.tokens)));
                    setters.push(quote!(with_delivery(#root::Delivery::Queue)));
                }
                Some("broadcast") => {
                    has_lanes = false;
                    setters.push(quote!(with_delivery(#root::Delivery::Broadcast)));
                }
                _ => value.invalid("\"ordered\", \"queue\" or \"broadcast\"", errors),
            }
        }
        if let Some(value) = args.take("on_failure") {
            match value.text().map(|text| text.value()).as_deref() {
                Some("skip") => setters.push(quote!(with_on_failure(#root::OnFailure::Skip))),
                Some("stop") => setters.push(quote!(with_on_failure(#root::OnFailure::Stop))),
                _ => value.invalid("\"skip\" or \"stop\"", errors),
            }
        }
        if let Some(value) = args.take("dedupe")
            && let Some(within) =
                value.duration(SECOND..=MONTH, "a duration from 1s to 30 days, such as \"24h\"", errors)
        {
            let within = duration_tokens(within);
            setters.push(quote!(with_dedupe(#within)));
        }
        if let Some(value) = args.take("concurrency") {
            let expected = "a number of events from 1 to 1000, such as `8`";
            if let Some(events) = value.integer(1..=MAX_CONCURRENCY, expected, errors) {
                let events = events as u32;
                setters.push(quote!(with_concurrency(#events)));
                if events > 1 && has_lanes {
                    demands.push((Demand::SingleInLanes, at(&value.tokens)));
                    demands.push((Demand::Key, at(&value.tokens)));
                }
            }
        }
        if let (Some(place), true) = (checkpoint_place, is_queue) {
            errors.push(
                place,
                "a work queue settles each event by itself, so it has no checkpoint to commit; remove `checkpoint`, or `delivery`",
            );
        }
        if let Some(value) = args.take("ignore") {
            let names = value.names(NameKind::Event, errors);
            setters.push(quote!(with_ignore(&[#(#names),*])));
        }
        if let Some(value) = args.take("adopt") {
            match value.boolean() {
                Some(adopt) => setters.push(quote!(with_adopt(#adopt))),
                None => value.invalid("`true` or `false`", errors),
            }
        }
        Self { root, group, setters, demands }
    }
}

/// The bounds of `streams_core::ConsumerOptions`; a test below compares the two.
const MAX_CRASHES: u64 = 1_000;
const MAX_BATCH: u64 = 10_000;
const MAX_BATCH_WAIT: Duration = Duration::from_secs(60);
const MAX_CONCURRENCY: u64 = 1_000;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `100ms` or `100ms..30s`. A lone first wait doubles up to half a minute, or stays if it is longer.
fn backoff(text: &str) -> Option<(Duration, Duration)> {
    let (first, max) = match text.split_once("..") {
        Some((first, max)) => (duration(first)?, duration(max)?),
        None => {
            let first = duration(text)?;
            (first, first.max(Duration::from_secs(30)))
        }
    };
    (MS <= first && first <= max && max <= DAY).then_some((first, max))
}

fn start(text: &str, root: &TokenStream) -> Option<TokenStream> {
    match text {
        "earliest" => return Some(quote!(#root::Start::Earliest)),
        "latest" => return Some(quote!(#root::Start::Latest)),
        _ => {}
    }
    if let Some(age) = text.strip_suffix(" ago") {
        let age = duration_tokens(duration(age)?);
        return Some(quote!(#root::Start::Ago(#age)));
    }
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok())?;
    let (ms, seq) = match text.split_once('-') {
        // An id without its second number could be any number.
        Some((ms, seq)) if digits(ms).is_some() && digits(seq).is_some() => (digits(ms)?, digits(seq)?),
        _ => {
            let time = humantime::parse_rfc3339(text).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            (u64::try_from(since.as_millis()).ok()?, 0)
        }
    };
    Some(quote!(#root::Start::At(#root::EntryId::new(#ms, #seq))))
}

fn checkpoint(value: &Value) -> Option<TokenStream> {
    let Some(text) = value.text() else {
        let events = value.number_in(1..=100_000)? as u32;
        return Some(quote!(with_checkpoint_events(#events)));
    };
    if text.value() == "each" {
        return Some(quote!(with_checkpoint_events(1).with_checkpoint_interval(::core::time::Duration::ZERO)));
    }
    let interval = duration(&text.value()).filter(|interval| (MS..=Duration::from_secs(60)).contains(interval))?;
    let interval = duration_tokens(interval);
    Some(quote!(with_checkpoint_interval(#interval)))
}

/// As many as `streams_core::Arguments` is implemented for.
const MAX_ARGUMENTS: usize = 8;

/// The signature of the function.
struct Handler {
    event: Type,
    /// Whether the function borrows the event.
    by_reference: bool,
    /// The types of the other arguments.
    rest: Vec<Type>,
    out: Type,
}

impl Handler {
    /// Reports what no consumer may have in its signature; `None` without an event.
    fn from_syn(function: &ItemFn, errors: &mut Errors) -> Option<Self> {
        let signature = &function.sig;
        if signature.asyncness.is_none() {
            errors.push_at(
                signature.fn_token.span,
                format!(
                    "a consumer must be async; write `async fn {}`, and use `tokio::task::spawn_blocking` inside it for work that blocks",
                    signature.ident
                ),
            );
        }
        if let syn::Safety::Unsafe(keyword) = &signature.safety {
            errors.push(keyword, "a consumer cannot be unsafe: the runtime cannot know what it asks for");
        }
        if let Some(abi) = &signature.abi {
            errors.push(abi, "a consumer is called from Rust; remove the ABI");
        }
        if !signature.generics.params.is_empty() {
            errors.push(
                &signature.generics,
                "a consumer cannot be generic: the runtime must know the one event type that it decodes",
            );
        }
        if let Some(variadic) = &signature.variadic {
            errors.push(variadic, "a consumer cannot be variadic");
        }
        if signature.inputs.is_empty() {
            errors.push_at(
                signature.paren_token.span.join(),
                "a consumer takes the event as its first argument, e.g. `trade: Trade`",
            );
        }
        let mut event = None;
        let mut rest = Vec::new();
        for (index, input) in signature.inputs.iter().enumerate() {
            let argument = match input {
                FnArg::Typed(argument) => argument,
                FnArg::Receiver(receiver) => {
                    errors.push(receiver, "a consumer is a free function; to reach shared data take `State<T>`");
                    return None;
                }
            };
            if let Some(attribute) = argument.attrs.iter().find(|attribute| attribute.path().is_ident("cfg")) {
                errors.push(
                    attribute,
                    "an argument of a consumer cannot be conditional; put the condition on the function",
                );
            }
            match &*argument.ty {
                Type::Reference(reference) if index == 0 => {
                    if let Some(keyword) = &reference.mutability {
                        errors.push(keyword, "take the event by value to change it, or by `&` to read it");
                    }
                    if let Some(lifetime) = &reference.lifetime {
                        errors.push(lifetime, "the event is lent for the call; remove the lifetime");
                    }
                    event = Some(((*reference.elem).clone(), true));
                }
                Type::Reference(reference) => {
                    errors.push(
                        reference,
                        "only the event may be taken by reference; take this argument by value (a cheap clone)",
                    );
                }
                Type::ImplTrait(bounds) => errors.push(bounds, "an argument of a consumer needs a concrete type"),
                ty if index == 0 => event = Some((ty.clone(), false)),
                ty => {
                    if index == MAX_ARGUMENTS + 1 {
                        errors.push(
                            argument,
                            "a consumer takes at most eight arguments after the event; put some into a struct that implements `FromContext`",
                        );
                    }
                    rest.push(ty.clone());
                }
            }
        }
        let out = match &signature.output {
            ReturnType::Default => parse_quote!(()),
            ReturnType::Type(_, ty) => (**ty).clone(),
        };
        if let Type::ImplTrait(bounds) = &out {
            errors.push(
                bounds,
                "a consumer needs a concrete return type; return `()`, `Outcome`, or a `Result` of one of them",
            );
        }
        let (event, by_reference) = event?;
        Some(Self { event, by_reference, rest, out })
    }
}

fn emit(options: &Options, group: &Group, function: &ItemFn, handler: &Handler) -> TokenStream {
    let Options { root, setters, demands, .. } = options;
    let Handler { event, by_reference, rest, out } = handler;
    // A lone argument is reported at its type; several are reported at all of them.
    let rest_span = match rest.as_slice() {
        [only] => at(only),
        _ => function.sig.paren_token.span.join().resolved_at(Span::call_site()),
    };
    let (name, visibility) = (&function.sig.ident, &function.vis);
    let name_text = name.unraw().to_string();
    // The expansion calls the function by its name, so none of its locals may have that name.
    let [payload, args] = ["payload", "args"].map(|name| Ident::new(name, Span::mixed_site()));
    let payload_type = quote_spanned!(at(event)=> type Payload = #event;);
    let out_type = quote_spanned!(at(out)=> type Out = #out;);
    let args_type = quote_spanned!(rest_span=> type Args = (#(#rest,)*););
    let shown = rest
        .iter()
        .map(|ty| ty.to_token_stream().to_string().replace(" :: ", "::").replace(" < ", "<").replace(" >", ">"));
    let lend = by_reference.then(|| quote!(&));
    let indices = (0..rest.len()).map(Index::from);
    // With the span of the function's name, so that rustc reports there a future that is not `Send`.
    let unpacked = if rest.is_empty() { quote!(_) } else { args.to_token_stream() };
    let invoke = quote_spanned! {at(name)=>
        fn invoke(
            #payload: Self::Payload,
            #unpacked: Self::Args,
        ) -> impl ::core::future::Future<Output = Self::Out> + ::core::marker::Send {
            async move { #name(#lend #payload #(, #args.#indices)*).await }
        }
    };
    // Not the type of the function's name: that has its visibility, and the types of arguments may be more private.
    let hidden = Ident::new("__StreamsHandler", Span::call_site());
    let check = called(event, &quote!(#root::__private::check_newest::<#hidden>), quote!());
    let group_check = match group {
        Group::Constant(path) => {
            let check = called(path, &quote!(#root::__private::check_group), quote!(#path));
            Some(quote!(const _: () = #check;))
        }
        Group::Name(_) => None,
    };
    let demands = demands.iter().map(|(demand, place)| {
        let (holds, message) = demand.check(root, &hidden);
        quote_spanned!(*place=> const _: () = ::core::assert!(#holds, #message);)
    });
    // The type has the name of the function, so that an import brings both. Its tokens count as the macro's, so that
    // lints skip it: an `allow` would be refused where the user's crate forbids a lint.
    let mut type_name = name.clone();
    type_name.set_span(at(name));
    let type_visibility = ours(visibility.to_token_stream());
    let doc = doc(&function.attrs);
    // A condition on the function applies to the whole expansion. Attribute macros below this one see only the
    // function.
    let conditions: Vec<_> = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect();
    quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[non_exhaustive]
        #type_visibility struct #type_name {}
        #(#conditions)*
        const _: () = {
            enum #hidden {}
            #[automatically_derived]
            impl #root::__private::Handler for #hidden {
                #payload_type
                #args_type
                #out_type

                const INFO: &'static #root::ConsumerInfo = &#root::ConsumerInfo {
                    group: #group,
                    name: #name_text,
                    module: ::core::module_path!(),
                    file: ::core::file!(),
                    line: ::core::line!(),
                    event: #root::__private::event_of::<Self>(),
                    doc: #doc,
                    options: #root::ConsumerOptions::DEFAULT #(.#setters)*,
                };

                const ARGUMENTS: &'static [&'static str] = &[#(#shown),*];

                #invoke
            }
            #[automatically_derived]
            impl #root::Consumer for #name {
                const REGISTRATION: #root::Registration = #root::Registration::handled_by::<#hidden>();
            }
            const _: () = #check;
            #group_check
            #(#demands)*
            #root::__private::inventory::submit! { #root::Registration::handled_by::<#hidden>() }
        };
    }
}

/// The span of the user's tokens, for the macro's tokens.
fn at(tokens: &impl Spanned) -> Span {
    tokens.span().resolved_at(Span::call_site())
}

/// The user's tokens, as if the macro had written them.
fn ours(tokens: TokenStream) -> TokenStream {
    let ours = tokens.into_iter().map(|mut token| {
        if let TokenTree::Group(group) = &token {
            let mut inside = proc_macro2::Group::new(group.delimiter(), ours(group.stream()));
            inside.set_span(at(&group.span()));
            return TokenTree::Group(inside);
        }
        token.set_span(at(&token.span()));
        token
    });
    ours.collect()
}

/// The attribute is on another item, or on a function whose signature has a mistake that Rust itself reports.
fn not_a_function(item: &TokenStream, error: syn::Error, mut errors: Errors) -> TokenStream {
    match syn::parse2::<syn::Item>(item.clone()) {
        Ok(other) => errors.push(other, "`#[consumer]` goes on an `async fn`"),
        Err(_) => errors.add(error),
    }
    let errors = errors.finish();
    quote!(#errors #item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::ConsumerOptions;

    #[test]
    fn the_bounds_of_options_are_those_of_core() {
        assert_eq!(MAX_CRASHES, u64::from(ConsumerOptions::MAX_CRASHES));
        assert_eq!(MAX_BATCH, u64::from(ConsumerOptions::MAX_BATCH));
        assert_eq!(MAX_BATCH_WAIT, ConsumerOptions::MAX_BATCH_WAIT);
        assert_eq!(MAX_CONCURRENCY, u64::from(ConsumerOptions::MAX_CONCURRENCY));
    }
}
