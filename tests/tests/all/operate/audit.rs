//! Each act of an `Admin` leaves its line before it is done, whoever acts, and a second one where it fails.

use std::sync::Arc;

use streams_core::broker::{BrokerErrorKind, Groups, Log, Members};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{Entry, EntryId, Start};
use streams_runtime::Admin;
use streams_runtime::broker::Embedded;
use streams_tests::{Fault, Faulty, Gate, Op};

fn coins() -> StreamKey {
    StreamKey::new(None, "coins", 2)
}

/// A group on a stream of two partitions, and the connection of an operator.
async fn site() -> (Faulty, Admin) {
    let broker = Faulty::over(Arc::new(Embedded::new()));
    broker.declare(&coins()).await.unwrap();
    for index in 0..2 {
        broker.append(&coins().partition(index), vec![vec![(b"a".to_vec(), b"b".to_vec())]], None).await.unwrap();
        broker.create(&coins().partition(index).group("count"), Start::Earliest).await.unwrap();
    }
    let admin = Admin::on(Arc::new(broker.clone()), None).unwrap();
    (broker, admin)
}

/// The lines: who, act, stream and group, detail.
async fn lines(broker: &Faulty) -> Vec<[String; 4]> {
    let lines = broker.read(&PartitionKey::audit(None), EntryId::ZERO, 100).await.unwrap();
    let text = |line: &Entry, name| String::from_utf8(line.field(name).unwrap().to_vec()).unwrap();
    let line = |line: &Arc<Entry>| {
        let place = format!("{} {}", text(line, "stream"), text(line, "group"));
        [text(line, "by"), text(line, "act"), place, text(line, "detail")]
    };
    lines.iter().map(line).collect()
}

async fn is_paused(broker: &Faulty) -> bool {
    let asked = [(coins(), "count".to_owned())];
    broker.pauses(&asked).await.unwrap().remove(0).unwrap().is_some()
}

#[tokio::test]
async fn a_program_that_acts_leaves_a_line_for_each_act() {
    let (broker, admin) = site().await;
    admin.pause("coins", "count", "ada", "a look").await.unwrap();
    admin.resume("coins", "count").await.unwrap();
    admin.reset("coins.1", "count", Start::Latest).await.unwrap();
    admin.clone().by("bob (console)").pause("coins", "count", "bob", "").await.unwrap();
    admin.by("bob").remove("coins", "count", true).await.unwrap();
    let lines = lines(&broker).await;
    let [paused, resumed, reset, again, removed] = &lines[..] else { panic!("{lines:?}") };
    let place = "coins count";
    assert_eq!(*paused, ["ada", "pause", place, "a look"]);
    assert_eq!((&resumed[1][..], &resumed[2][..]), ("resume", place));
    assert!(resumed[3].starts_with("was paused since ") && resumed[3].ends_with(" by ada: a look"), "{resumed:?}");
    // The program and its machine, where nobody said a name.
    assert!(resumed[0].starts_with("all-") && resumed[0] == reset[0], "{resumed:?}");
    assert_eq!(reset[1..], ["reset", "coins.1 count", "to latest; was at 1/0-0"]);
    assert_eq!(*again, ["bob (console)", "pause", place, ""]);
    assert_eq!(*removed, ["bob", "remove", place, "2 partitions and 0 dead letters, by force"]);
}

#[tokio::test]
async fn no_act_is_done_before_its_line_is_there() {
    let (broker, admin) = site().await;
    let gate = Gate::default();
    broker.once(Op::Append, Fault::Hold(gate.clone()));
    let act = tokio::spawn({
        let admin = admin.clone();
        async move { admin.pause("coins", "count", "ada", "").await }
    });
    gate.arrived(1).await;
    assert!(!is_paused(&broker).await);
    gate.open();
    act.await.unwrap().unwrap();
    assert!(is_paused(&broker).await);
    assert_eq!(lines(&broker).await.len(), 1);
}

#[tokio::test]
async fn an_act_without_the_right_to_leave_a_line_is_refused_and_one_on_a_full_server_is_not() {
    let (broker, admin) = site().await;
    broker.once(Op::Append, Fault::Fail(BrokerErrorKind::Refused));
    admin.pause("coins", "count", "ada", "").await.unwrap_err();
    assert!(!is_paused(&broker).await);
    broker.once(Op::Append, Fault::Fail(BrokerErrorKind::Full));
    admin.pause("coins", "count", "ada", "").await.unwrap();
    assert!(is_paused(&broker).await);
    assert!(lines(&broker).await.is_empty());
}

#[tokio::test]
async fn an_act_that_fails_has_a_second_line_that_says_so() {
    let (broker, admin) = site().await;
    broker.once(Op::Attend, Fault::Fail(BrokerErrorKind::Unavailable));
    let error = admin.remove("coins", "count", false).await.unwrap_err();
    let lines = lines(&broker).await;
    let details: Vec<_> = lines.iter().map(|line| format!("{}: {}", line[1], line[3])).collect();
    assert_eq!(details, ["remove: 2 partitions and 0 dead letters".to_owned(), format!("remove: failed: {error}")]);
}
