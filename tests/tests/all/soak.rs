//! A short soak and a short chaos: `cargo xtask soak` and `cargo xtask chaos` are the long ones.

use std::time::Duration;

use streams_tests::soak::chaos::{self, chaos};
use streams_tests::soak::{Plan, soak};

#[test]
fn a_worker_that_is_killed_again_and_again_keeps_every_promise() {
    let worker = env!("CARGO_BIN_EXE_soak").into();
    let report = soak(&Plan { kills: 10, events: 6_000, seed: 16, worker });
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn a_server_that_goes_wrong_in_every_way_costs_no_event_and_no_order() {
    let worker = env!("CARGO_BIN_EXE_soak").into();
    let report = chaos(&chaos::Plan { time: Duration::ZERO, seed: 16, worker });
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}
