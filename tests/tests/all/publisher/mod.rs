//! What publishing promises.

mod publishing;
mod writing;
