//! How the groups of a process share what it reads, and what large events cost it.

mod catchup;
mod far;
mod read;
mod sizes;
