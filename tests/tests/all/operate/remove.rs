//! A group is removed whole, not under a process that runs it, and nothing is left that would hold a stream up.

use std::sync::Arc;

use streams_core::broker::{Groups, Inspect};
use streams_runtime::{Admin, BoxError, Context, Inspector, Outcome, Start, State, consumer, consumers, stream_event};
use streams_tests::{Act, Lab, World, secs};

#[stream_event(stream = "coins", key = n, partitions = 3)]
#[derive(Debug, Clone, PartialEq)]
struct Coin {
    n: u64,
}

#[consumer(group = "count")]
async fn count(coin: Coin, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, coin.n).await
}

#[consumer(group = "crew", delivery = "queue")]
async fn crew(coin: Coin, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, coin.n).await
}

#[tokio::test(start_paused = true)]
async fn a_group_that_runs_or_has_dead_letters_is_removed_only_by_force() {
    for (group, consumer) in ["count", "crew"].into_iter().zip(consumers![count, crew]) {
        let world = World::new("coins");
        let store: Arc<dyn streams_core::broker::Broker> = Arc::new(world.store.clone());
        let admin = Admin::on(Arc::clone(&store), None).unwrap();
        let inspector = Inspector::on(store, None).unwrap();
        let app = world.process([consumer]).start().await;
        world.lab.always(group, 1, Act::Permanent);
        app.publish_all((0..9).map(|n| Coin { n })).await;
        app.settled().await;
        let refused = admin.remove("coins", group, false).await.unwrap_err().to_string();
        assert!(refused.contains("is run by 1 process:"), "{group}: {refused}");
        let _ = app.into_running().shutdown().await;
        let refused = admin.remove("coins", group, false).await.unwrap_err().to_string();
        assert!(refused.contains("has 1 dead letter:"), "{group}: {refused}");
        admin.pause("coins", group, "", "").await.unwrap();
        let removed = admin.remove("coins", group, true).await.unwrap();
        assert_eq!((removed.partitions, removed.dead_letters, removed.processes), (3, 1, 0), "{group}");
        let view = inspector.stream("coins").await.unwrap();
        assert_eq!((view.groups.len(), view.length()), (0, 9), "{group}");
        let refused = admin.remove("coins", group, true).await.unwrap_err().to_string();
        assert!(refused.contains("the stream has no group"), "{refused}");
        // A group of the same name begins anew, and is not paused.
        let app = world.process([consumer]).start().await;
        app.settled().await;
        assert_eq!(world.lab.calls(group).len(), 18, "{group}");
        assert!(world.store.streams(None).await.unwrap().len() == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_group_was_removed_by_force_begins_no_work_of_its_own() {
    let world = World::new("coins");
    let admin = Admin::on(Arc::new(world.store.clone()), None).unwrap();
    let app = world.process(consumers![count]).start().await;
    app.publish_all((0..9).map(|n| Coin { n })).await;
    app.settled().await;
    admin.remove("coins", "count", true).await.unwrap();
    app.publish_all((9..12).map(|n| Coin { n })).await;
    app.advance(secs(60)).await;
    let halted = app.running().status().groups.iter().all(app_halted);
    assert!(halted, "{:?}", app.running().status());
    // Its admin makes it anew.
    app.running().admin().reset("coins", "count", Start::Latest).await.unwrap();
    app.advance(secs(10)).await;
    app.publish(&Coin { n: 12 }).await.unwrap();
    app.settled().await;
    assert!(world.store.state(&world.group("none").key).await.unwrap().is_none());
}

fn app_halted(group: &streams_runtime::GroupStatus) -> bool {
    matches!(group.phase, streams_runtime::Phase::Halted(_))
}
