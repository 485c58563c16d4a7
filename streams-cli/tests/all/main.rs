//! The tool as a process against private servers.

mod tool;

mod dead;
mod events;
mod getting_started;
mod groups;
mod guide;
mod refusals;
mod schemas;
mod server;
mod top;
