//! Promises of a broadcast group, and of the snapshots of what it keeps.

mod delivery;
mod snapshots;
