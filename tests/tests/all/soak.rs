//! Short forms of the long runs: `cargo xtask soak`, `chaos` and `share` are the long ones.

use std::time::Duration;

use streams_tests::soak::chaos::{self, chaos};
use streams_tests::soak::fleet;
use streams_tests::soak::queue::queue;
use streams_tests::soak::share::share;
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

#[test]
fn processes_that_share_a_stream_and_come_and_go_lose_nothing_and_keep_the_order_of_each_key() {
    let worker = env!("CARGO_BIN_EXE_soak").into();
    let time = Duration::from_secs(6);
    let report = share(&fleet::Plan { time, seed: 16, processes: 4, load: 200, timed: false, worker, other: None });
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn processes_that_take_from_one_queue_and_come_and_go_do_every_event_and_count_its_attempts() {
    let worker = env!("CARGO_BIN_EXE_soak").into();
    let time = Duration::from_secs(6);
    let report = queue(&fleet::Plan { time, seed: 16, processes: 4, load: 200, timed: false, worker, other: None });
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}
