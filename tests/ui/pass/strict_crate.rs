//! The code that the attributes write compiles where the user allows least.
//!
//! Not forbidden is what serde's own derives allow: `non_camel_case_types`, `non_upper_case_globals`, `unused_attributes` and
//! `unused_qualifications`.
#![forbid(
    absolute_paths_not_starting_with_crate,
    ambiguous_negative_literals,
    dead_code,
    deprecated,
    deprecated_in_future,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    impl_trait_redundant_captures,
    keyword_idents_2018,
    keyword_idents_2024,
    let_underscore_drop,
    let_underscore_lock,
    macro_use_extern_crate,
    meta_variable_misuse,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    non_ascii_idents,
    non_local_definitions,
    non_snake_case,
    path_statements,
    private_bounds,
    private_interfaces,
    redundant_imports,
    redundant_lifetimes,
    redundant_semicolons,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    unit_bindings,
    unnameable_test_items,
    unnameable_types,
    unreachable_code,
    unreachable_pub,
    unsafe_code,
    unused_assignments,
    unused_braces,
    unused_comparisons,
    unused_doc_comments,
    unused_extern_crates,
    unused_import_braces,
    unused_imports,
    unused_labels,
    unused_lifetimes,
    unused_macros,
    unused_must_use,
    unused_mut,
    unused_parens,
    unused_results,
    unused_unsafe,
    unused_variables,
    variant_size_differences
)]
#![deny(warnings, nonstandard_style, rust_2018_idioms, unused, keyword_idents, let_underscore, clippy::all, clippy::pedantic)]

use streams_core::{Batch, BoxError, Context, Message, State, consumer, event_type, stream_event};

/// Documented.
#[stream_event(stream = "trades", version = 3, oldest = 3, name = "trade", key = symbol, partitions = 4, retention = "24h",
    max_payload = "256KiB")]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trade {
    /// Documented.
    pub(crate) symbol: String,
    #[serde(default, rename = "px")]
    price: f64,
    side: Side,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Side {
    Buy,
    Sell,
}

#[stream_event(stream = "keyed", key = id)]
enum Keyed {
    Made { id: u64 },
    Gone { id: u64, at: std::time::SystemTime },
}

// A condition above or below; the type it names does not exist.
#[consumer(group = "g")]
#[cfg(any())]
async fn gone(_trade: Nope) {}

#[cfg(any())]
#[consumer(group = "g")]
async fn gone_too(_trade: Nope) {}

#[consumer(group = "g")]
#[cfg(not(any()))]
async fn here(_trade: Trade) {}

/// Patterns, attributes, documentation.
#[consumer(group = "g2", max_attempts = 5, backoff = "100ms..30s", timeout = "30s", start = "1h ago", checkpoint = 500)]
#[allow(clippy::unused_async)]
async fn patterns(
    Message { event: Trade { symbol, price, side }, .. }: Message<Trade>,
    State(limit): State<u32>,
    _: Context,
) -> Result<(), std::io::Error> {
    println!("{symbol} {price} {side:?} {limit}");
    Ok(())
}

#[consumer(group = "g3", start = "1610064000278-0", checkpoint = "each")]
async fn by_reference(_trade: &Trade) -> Result<streams_core::Outcome, BoxError> {
    Ok(streams_core::Outcome::Done)
}

#[consumer(group = "g4", start = "2026-01-02T03:04:05Z", checkpoint = "100ms", backoff = "1s")]
async fn message_by_reference(_message: &Message<Keyed>) {}

#[consumer(group = "g9", batch = 500, batch_wait = "0s", timeout = "1m")]
async fn batch(trades: Batch<Trade>, _: Context) -> Result<(), BoxError> {
    let _ = trades.into_events().map(|trade| trade.price).sum::<f64>();
    Ok(())
}

#[consumer(group = "g9")]
async fn batch_by_reference(batch: &Batch<Keyed>) {
    let _ = batch.len();
}

#[consumer(group = "g10", delivery = "queue", concurrency = 8)]
async fn shared(_trade: Trade) {}

#[consumer(group = "g11", delivery = "ordered")]
async fn ordered(_trade: Trade) {}

// Names that the expansion might have for itself.
#[consumer(group = "g5")]
async fn payload(args: Trade, ctx: Context) {
    drop((args, ctx));
}

#[consumer(group = "g6")]
async fn r#match(needs: Trade, payload: Context) {
    drop((needs, payload));
}

mod inner {
    /// In a module, and public.
    #[streams_core::consumer(group = "g7")]
    pub(crate) async fn on_trade(_trade: super::Trade) {}
}

fn main() {
    #[stream_event(stream = "inner")]
    struct Inside {
        a: u32,
    }
    #[consumer(group = "g8")]
    async fn nested(event: Inside) {
        let _ = event.a;
    }
    let _ = Keyed::Made { id: 1 };
    let _ = Keyed::Gone { id: 1, at: std::time::SystemTime::UNIX_EPOCH };
    let _ = (Side::Buy, Side::Sell);
    let listed = streams_core::consumers![here, inner::on_trade, r#match];
    assert_eq!(listed[2].info.name, "match");
}
