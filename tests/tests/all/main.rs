//! Every integration test of the project, in one binary: linking is what takes time.

mod ui;
