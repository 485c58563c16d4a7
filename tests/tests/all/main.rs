//! Every integration test of the workspace, in one program: it links once.

mod contract;
mod readme;
mod redis;
mod ui;
mod wire;
