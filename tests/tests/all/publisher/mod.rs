//! Promises of publishing.

mod publishing;
mod writing;
