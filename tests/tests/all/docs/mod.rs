//! The guides, the README, the examples and the wire format, each held to code that runs.

mod readme;
mod guides;
mod schema_evolution;
mod reference;
mod deploy;
mod wire;
mod asyncapi;
mod examples;
mod recipes;
mod coming_from;
mod template;
mod links;
