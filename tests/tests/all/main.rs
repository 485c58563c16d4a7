//! Every integration test of the workspace, in one program: it links once.

mod acl;
mod adopt;
mod app;
mod batches;
mod catchup;
#[macro_use]
mod contract;
mod contract_shared;
mod examples;
mod frozen;
mod guides;
mod lanes;
mod letters;
mod letters_tool;
mod loss;
mod meeting;
mod members;
mod ordered;
mod outages;
mod poison;
mod process;
mod publishing;
mod readme;
mod redis;
mod reference;
mod rolling;
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
