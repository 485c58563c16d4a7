//! The app around its groups: what a service starts, asks and stops, in its own process and as one.

mod basics;
mod process;
mod publish_only;
