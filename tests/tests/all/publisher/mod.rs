//! Promises of publishing.

mod publishing;
mod raw;
mod runtimes;
mod writing;
