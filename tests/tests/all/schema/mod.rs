//! Events whose schema changes: in the compiler, in a lock file, and between two builds.

mod versions;
mod frozen;
mod changes;
mod meeting;
