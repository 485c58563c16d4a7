//! The engine end to end on the embedded broker, in virtual time: a part of `all` that links soon, for `cargo xtask test --quick`.

mod membership;
mod ordered;
mod queue;
