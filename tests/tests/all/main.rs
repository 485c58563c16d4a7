//! Every integration test of the workspace, in one program: it links once.

mod contract;
mod ordered;
mod readme;
mod redis;
mod ui;
mod wire;
mod writing;
