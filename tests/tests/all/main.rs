//! Every integration test of the workspace, in one program: it links once.

mod acl;
mod app;
mod batches;
mod catchup;
mod contract;
mod guides;
mod loss;
mod meeting;
mod ordered;
mod process;
mod publishing;
mod readme;
mod redis;
mod reference;
mod secrets;
mod soak;
mod tls;
mod ui;
mod wire;
mod writing;
