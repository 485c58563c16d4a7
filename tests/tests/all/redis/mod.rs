//! Only a real server can show these: its commands, users, connections and failures.

pub(crate) mod connection;
mod queue;
mod acl;
mod rights;
mod tls;
mod secrets;
mod late;
mod outages;
