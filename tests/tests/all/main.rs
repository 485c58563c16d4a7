//! Every integration test of the workspace, in one program: it links once.

mod app;
mod contract;
mod loss;
mod ordered;
mod outages;
mod process;
mod publishing;
mod readme;
mod redis;
mod soak;
mod ui;
mod wire;
mod writing;
