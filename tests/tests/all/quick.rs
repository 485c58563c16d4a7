//! The engine end to end on the embedded broker, in virtual time. This part of `all` links soon, for `cargo xtask test --quick`.

mod membership;
mod ordered;
mod queue;
