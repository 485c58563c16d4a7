//! Every integration test of the workspace, in one program: it links once.

mod app;
mod contract;
mod guides;
mod loss;
mod ordered;
mod process;
mod publishing;
mod readme;
mod redis;
mod soak;
mod ui;
mod wire;
mod writing;
