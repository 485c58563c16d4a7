//! Every integration test of the workspace, in one program: it links once. The rooms are those of the runtime.

mod app;
mod ordered;
mod queue;
mod broadcast;
mod group;
mod membership;
mod reader;
mod publisher;
mod schema;
mod ops;
mod operate;
mod console;
#[macro_use]
mod contract;
mod redis;
mod docs;
mod soak;
mod renamed;
mod ui;
