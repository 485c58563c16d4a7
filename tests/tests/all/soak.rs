//! A short soak: `cargo xtask soak` is the long one.

use streams_tests::soak::{Plan, soak};

#[test]
fn a_worker_that_is_killed_again_and_again_keeps_every_promise() {
    let worker = env!("CARGO_BIN_EXE_soak").into();
    let report = soak(&Plan { kills: 10, events: 6_000, seed: 16, worker });
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}
