//! Every integration test of the workspace, in one program: it links once.

mod app;
mod batches;
mod contract;
mod frozen;
mod loss;
mod meeting;
mod ordered;
mod process;
mod publishing;
mod readme;
mod redis;
mod soak;
mod schema_evolution;
mod schemas;
mod ui;
mod versions;
mod wire;
mod writing;
