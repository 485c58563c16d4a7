//! The code of `docs/recipes.md`, a file for each recipe. A test holds every block of Rust there to one of them, where it runs.

#![allow(dead_code, unreachable_pub, reason = "each recipe reads as a part of a program of its own")]

mod auth;
mod blocking;
mod dates;
mod events_crate;
mod money;
mod publisher_only;
mod rate_limits;
mod requests;
mod shop_events;
mod sql;
mod state;
mod tenants;
mod web;

const SOURCES: [&str; 13] = [
    include_str!("auth.rs"),
    include_str!("blocking.rs"),
    include_str!("dates.rs"),
    include_str!("events_crate.rs"),
    include_str!("money.rs"),
    include_str!("publisher_only.rs"),
    include_str!("rate_limits.rs"),
    include_str!("requests.rs"),
    include_str!("shop_events.rs"),
    include_str!("sql.rs"),
    include_str!("state.rs"),
    include_str!("tenants.rs"),
    include_str!("web.rs"),
];

#[test]
fn every_block_of_the_recipes_stands_in_a_file_that_is_tested() {
    let blocks: Vec<_> = include_str!("../../../../../docs/recipes.md")
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 12, "{}", blocks.len());
    // The locks are for crates that keep a `schemas/`, which these tests do not.
    let sources = SOURCES.map(|source| source.replace(", lock = false)]", ")]"));
    for block in blocks {
        assert!(sources.iter().any(|source| source.contains(block)), "not in a file of the recipes:\n{block}");
    }
}
