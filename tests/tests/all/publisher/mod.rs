//! Promises of publishing.

mod publishing;
mod runtimes;
mod writing;
