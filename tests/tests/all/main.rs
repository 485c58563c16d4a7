//! Every integration test of the workspace, in one program: it links once.

mod acl;
mod app;
mod batches;
mod catchup;
mod contract;
mod frozen;
mod guides;
mod loss;
mod meeting;
mod ordered;
mod outages;
mod process;
mod publishing;
mod readme;
mod redis;
mod reference;
mod secrets;
mod soak;
mod telemetry;
mod schema_evolution;
mod schemas;
mod tls;
mod ui;
mod versions;
mod wire;
mod writing;
