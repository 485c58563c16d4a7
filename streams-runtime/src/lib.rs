//! Runtime.

pub mod broker;
