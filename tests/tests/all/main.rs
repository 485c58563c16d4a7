//! Every integration test of the workspace, in one program: it links once.

mod contract;
mod loss;
mod ordered;
mod readme;
mod redis;
mod ui;
mod wire;
