//! Bare loops over the `redis` crate, as one writes them by hand: the floor of cost, with few promises or none.

use std::time::Instant;

use redis::Value;
use tokio::task::JoinHandle;

use crate::replies::{connect, entries};
use crate::work::{Form, SEEN, Trade, Work};

/// How many XADDs a pipeline holds.
const PIPELINE: u64 = 256;

/// `XREAD; decode; repeat` for each group. Nothing is remembered: a restart begins anew or loses. With `ahead` the next reads are
/// on their way while the entries of one are handled.
pub(crate) async fn xread(work: &Work, ahead: bool) {
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in work.groups() {
        let (mut connection, count) = (connect(&work.url).await, work.count);
        let (send, mut replies) = tokio::sync::mpsc::channel::<Vec<_>>(2);
        if ahead {
            tasks.push(tokio::spawn(async move {
                while let Some(found) = replies.recv().await {
                    handle(&found);
                }
            }));
        }
        tasks.push(tokio::spawn(async move {
            let mut position = b"0-0".to_vec();
            loop {
                let mut read = redis::cmd("XREAD");
                read.arg("COUNT").arg(count).arg("BLOCK").arg(5_000);
                read.arg("STREAMS").arg(Form::Ours.key()).arg(&position);
                let found = entries(read.query_async::<Value>(&mut connection).await.expect("a reply"));
                if let Some((last, _)) = found.last() {
                    position.clone_from(last);
                }
                if !ahead {
                    handle(&found);
                } else if send.send(found).await.is_err() {
                    return;
                }
            }
        }));
    }
    finish(work, began, tasks).await;
}

/// `XREADGROUP; decode; XACK; repeat` for each consumer of each group, on a connection of its own: at least once, but nobody
/// tries an event again or finds what a dead consumer has read. With `poll` it asks at intervals and does not block.
pub(crate) async fn xreadgroup(work: &Work, poll: bool) {
    let began = Instant::now();
    let key = Form::Ours.key();
    let shared = connect(&work.url).await;
    let mut tasks = Vec::new();
    for group in work.groups() {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(key).arg(&group).arg("0").arg("MKSTREAM");
        let _: () = create.query_async(&mut shared.clone()).await.expect("a group");
        for consumer in 0..work.consumers {
            // Who never blocks can share one.
            let mut connection = if poll { shared.clone() } else { connect(&work.url).await };
            let (group, count, interval) = (group.clone(), work.count, work.poll);
            tasks.push(tokio::spawn(async move {
                loop {
                    let mut read = redis::cmd("XREADGROUP");
                    read.arg("GROUP").arg(&group).arg(consumer).arg("COUNT").arg(count);
                    if !poll {
                        read.arg("BLOCK").arg(5_000);
                    }
                    read.arg("STREAMS").arg(key).arg(">");
                    let found = entries(read.query_async::<Value>(&mut connection).await.expect("a reply"));
                    if !found.is_empty() {
                        handle(&found);
                        let mut acknowledge = redis::cmd("XACK");
                        acknowledge.arg(key).arg(&group);
                        found.iter().for_each(|(id, _)| {
                            acknowledge.arg(id);
                        });
                        let _: u64 = acknowledge.query_async(&mut connection).await.expect("an acknowledgement");
                    }
                    if poll {
                        tokio::time::sleep(interval).await;
                    }
                }
            }));
        }
    }
    finish(work, began, tasks).await;
}

fn handle(found: &[(Vec<u8>, Vec<u8>)]) {
    for (_, payload) in found {
        let trade = Trade::decode(payload);
        SEEN.count(trade.quantity, trade.sent_ns);
    }
}

async fn finish(work: &Work, began: Instant, tasks: Vec<JoinHandle<()>>) {
    work.report(began).await;
    stop(tasks).await;
    work.verify();
}

/// Ends loops that have no end.
pub(crate) async fn stop(tasks: Vec<JoinHandle<()>>) {
    tasks.iter().for_each(JoinHandle::abort);
    for task in tasks {
        assert!(!task.await.is_err_and(|error| error.is_panic()), "a loop failed");
    }
}

/// XADDs of the fields that our publisher writes, in pipelines, with its trimming.
pub(crate) async fn publish(url: &str, events: u64, size: usize) {
    let mut connection = connect(url).await;
    for first in (0..events).step_by(PIPELINE as usize) {
        let mut pipe = redis::pipe();
        for number in first..(first + PIPELINE).min(events) {
            let command = pipe.cmd("XADD").arg(Form::Ours.key()).arg("MINID").arg("~").arg("1-0").arg("*");
            command.arg("event").arg("Trade@1").arg("id").arg(format!("0190a5b0-0000-7000-8000-{number:012}"));
            command.arg("payload").arg(Trade::new(number, 0, size).encode());
        }
        let _: Vec<String> = pipe.query_async(&mut connection).await.expect("ids");
    }
}
