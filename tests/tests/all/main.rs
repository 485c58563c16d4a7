//! Every integration test of the workspace, in one program: it links once.

mod contract;
mod ordered;
mod publishing;
mod readme;
mod redis;
mod ui;
mod wire;
