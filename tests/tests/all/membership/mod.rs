//! How processes and builds share the work of a group.

mod sharing;
mod histories;
mod rolling;
