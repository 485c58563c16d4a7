//! The program that serves the console, as `app` describes it: its handlers, their options and their calls.

use std::sync::Arc;

use serde::Serialize;

use crate::ops::Calls;

/// The program that serves the console.
#[derive(Clone)]
pub(crate) struct Program {
    /// Its name as a member of its groups.
    pub(crate) name: String,
    pub(crate) handlers: Arc<[Registered]>,
}

/// A handler of the program.
pub(crate) struct Registered {
    pub(crate) stream: &'static str,
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    /// The event that it takes, with its version.
    pub(crate) event: String,
    pub(crate) doc: &'static str,
    /// Its file and line.
    pub(crate) place: String,
    pub(crate) settings: Vec<Setting>,
    pub(crate) calls: Arc<Calls>,
}

/// The value of an option, and where it was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) origin: &'static str,
}
