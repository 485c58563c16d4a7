//! Dead letters as operators use them, in virtual time and end to end on a real server. Only its own group sees a replay, in
//! whichever way it goes wrong, and each halt has a way out.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerErrorKind, DeadBounds, Groups};
use streams_core::keys::StreamKey;
use streams_runtime::broker::Redis;
use streams_runtime::{
    Admin, App, Batch, BoxError, Cause, Config, Context, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters,
    EntryId, Outcome, Phase, Running, Start, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Lab, Op, Process, Record, RedisServer, World, logged, secs, until};

#[stream_event(stream = "letters")]
#[derive(Debug, Clone, PartialEq)]
struct Note {
    n: u64,
}

/// Which another build of the group may take.
#[stream_event(stream = "letters")]
#[derive(Debug, Clone, PartialEq)]
struct Sketch {
    n: u64,
}

#[consumer(group = "mine", max_attempts = 3, backoff = "100ms..1s", timeout = "1h")]
async fn mine(note: Note, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, note.n).await
}

#[consumer(group = "other")]
async fn other(note: Note, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, note.n).await
}

#[consumer(group = "mine", max_attempts = 1)]
async fn sketches(sketch: Sketch, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, sketch.n).await
}

#[consumer(group = "batches", max_attempts = 1)]
async fn batches(notes: Batch<Note>, ctx: Context, lab: State<Lab>) -> Result<(), BoxError> {
    for note in notes.events() {
        lab.handle(&ctx, note.n).await?;
    }
    Ok(())
}

/// An event with its id, its tenant, its entry, its attempt and whether it is a replay.
type Told = (u64, String, Option<String>, EntryId, u32, bool);

#[consumer(group = "telling", max_attempts = 1)]
async fn telling(note: Note, ctx: Context, seen: State<Record<Told>>) -> Outcome {
    let tenant = ctx.headers().get("tenant").map(str::to_owned);
    seen.add((note.n, ctx.event_id().to_string(), tenant, ctx.entry_id(), ctx.attempt(), ctx.is_replay()));
    if ctx.is_replay() { Outcome::Done } else { Outcome::dead_letter("not yet") }
}

fn notes(notes: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Note> {
    notes.into_iter().map(|n| Note { n })
}

fn letters(world: &World, group: &str) -> DeadLetters {
    DeadLetters::on_stream(Arc::new(world.store.clone()), &StreamKey::new(None, "letters", 1), group).unwrap()
}

async fn ids(world: &World, group: &str) -> Vec<DeadLetterId> {
    letters(world, group).list(None, 1000).await.unwrap().iter().map(DeadLetter::id).collect()
}

async fn replay_all(world: &World, group: &str) -> u64 {
    letters(world, group).replay_all(&DeadLetterFilter::all()).await.unwrap().moved
}

async fn waiting(world: &World, group: &str) -> usize {
    letters(world, group).replaying(1000).await.unwrap().len()
}

/// A process with one dead letter of event 1 in the group `mine`.
async fn one_letter(world: &World) -> Process {
    world.lab.script("mine", 1, [Act::Permanent]);
    let app = world.process(consumers![mine]).start().await;
    app.publish_all(notes([1])).await;
    app.settled().await;
    world.lab.script("mine", 1, []);
    assert_eq!(ids(world, "mine").await.len(), 1);
    app
}

// Replays.

#[tokio::test]
async fn a_replay_is_seen_by_its_own_group_alone_and_the_stream_has_no_copy() {
    let world = World::new("letters");
    world.lab.script("mine", 2, [Act::Permanent]);
    let app = world.process(consumers![mine, other]).start().await;
    app.publish_all(notes(1..=3)).await;
    app.settled().await;
    world.lab.script("mine", 2, []);
    assert_eq!(replay_all(&world, "mine").await, 1);
    app.advance(secs(10)).await;
    assert_eq!(world.lab.events("mine"), [1, 2, 3, 2]);
    assert_eq!(world.lab.events("other"), [1, 2, 3]);
    assert_eq!(app.published::<Note>().await.unwrap().len(), 3);
    assert!(ids(&world, "mine").await.is_empty());
    assert_eq!(waiting(&world, "mine").await, 0);
}

#[tokio::test]
async fn a_replay_is_the_event_as_it_was() {
    let world = World::new("letters");
    let seen = Record::<Told>::default();
    let app = world.process(consumers![telling]).state(seen.clone()).start().await;
    let receipt = app.publisher().publish(&Note { n: 7 }).header("tenant", "a").id("note-7").await.unwrap();
    app.settled().await;
    assert_eq!(replay_all(&world, "telling").await, 1);
    app.advance(secs(10)).await;
    let expected = |replay| (7, "note-7".to_owned(), Some("a".to_owned()), receipt.entry_id, 1, replay);
    assert_eq!(seen.all(), [expected(false), expected(true)]);
}

/// The MessagePack of a note.
fn note(n: u8) -> [u8; 4] {
    [0x81, 0xa1, b'n', n]
}

#[tokio::test]
async fn an_edited_letter_is_handled_with_its_new_payload_by_its_own_group_alone() {
    let world = World::new("letters");
    let seen = Record::<Told>::default();
    let app = world.process(consumers![telling, other]).state(seen.clone()).start().await;
    let receipt = app.publisher().publish(&Note { n: 7 }).header("tenant", "a").id("note-7").await.unwrap();
    app.settled().await;
    let (letters, id) = (letters(&world, "telling"), ids(&world, "telling").await[0]);
    for wrong in [&[0xc1][..], &[], &[1, 2]] {
        let refused = letters.replay_edited(id, wrong).await.unwrap_err();
        assert!(refused.to_string().contains("expected one value of MessagePack"), "{refused}");
    }
    assert!(!letters.replay_edited(DeadLetterId { partition: 3, ..id }, &note(8)).await.unwrap());
    assert!(letters.replay_edited(id, &note(8)).await.unwrap());
    assert!(!letters.replay_edited(id, &note(9)).await.unwrap(), "it is gone");
    app.advance(secs(10)).await;
    let told = |n, replay| (n, "note-7".to_owned(), Some("a".to_owned()), receipt.entry_id, 1, replay);
    assert_eq!(seen.all(), [told(7, false), told(8, true)]);
    assert_eq!(world.lab.events("other"), [7]);
    assert_eq!(app.published::<Note>().await.unwrap(), [Note { n: 7 }]);
    assert_eq!((ids(&world, "telling").await.len(), waiting(&world, "telling").await), (0, 0));
}

#[tokio::test]
async fn an_edited_letter_that_fails_again_keeps_its_payload_and_says_that_it_was_edited() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    assert!(!letters(&world, "mine").list(None, 1).await.unwrap()[0].is_edited());
    world.lab.always("mine", 5, Act::Permanent);
    for replays in 1..=2 {
        let id = ids(&world, "mine").await[0];
        match replays {
            1 => assert!(letters(&world, "mine").replay_edited(id, &note(5)).await.unwrap()),
            _ => assert_eq!(replay_all(&world, "mine").await, 1),
        }
        app.advance(secs(20)).await;
        let letter = &letters(&world, "mine").list(None, 10).await.unwrap()[0];
        assert_eq!((letter.payload_text(100).as_str(), letter.is_edited()), (r#"{"n": 5}"#, true));
        assert_eq!((letter.replays(), letter.event_name(), letter.cause()), (replays, "Note", "permanent"));
    }
}

#[tokio::test]
async fn an_edit_whose_answer_is_lost_is_done_once() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    let (wire, id) = (world.wire(), ids(&world, "mine").await[0]);
    let stream = StreamKey::new(None, "letters", 1);
    let letters = DeadLetters::on_stream(Arc::new(wire.clone()), &stream, "mine").unwrap();
    wire.once(Op::Letters, Fault::LoseReply);
    letters.replay_edited(id, &note(5)).await.unwrap_err();
    assert!(!letters.replay_edited(id, &note(6)).await.unwrap());
    let waiting = letters.replaying(9).await.unwrap();
    assert_eq!((waiting.len(), waiting[0].payload_text(100)), (1, r#"{"n": 5}"#.to_owned()));
    assert_eq!((waiting[0].id(), ids(&world, "mine").await.len()), (id, 0));
}

#[tokio::test]
async fn the_retries_of_a_replay_wait_between_events_and_do_not_hold_them_up() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    world.lab.script("mine", 1, [Act::Fail, Act::Fail]);
    replay_all(&world, "mine").await;
    app.advance(secs(4)).await;
    assert!(world.lab.calls("mine").contains(&(1, 1)));
    app.publish_all(notes(2..=50)).await;
    app.settled().await;
    app.advance(secs(10)).await;
    let calls = world.lab.calls("mine");
    let replays: Vec<_> = calls[1..].iter().filter(|(n, _)| *n == 1).map(|(_, attempt)| *attempt).collect();
    assert_eq!(replays, [1, 2, 3]);
    assert_eq!(calls.iter().filter(|(n, _)| *n > 1).count(), 49);
    assert!(ids(&world, "mine").await.is_empty());
}

#[tokio::test]
async fn letters_are_handled_again_while_events_keep_coming() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    // A backlog that is read at once, whose events take half a second each.
    (2..=60).for_each(|n| world.lab.script("mine", n, [Act::Sleep(Duration::from_millis(500))]));
    app.publish_all(notes(2..=60)).await;
    replay_all(&world, "mine").await;
    app.settled().await;
    let events = world.lab.events("mine");
    let again = events.iter().rposition(|n| *n == 1).unwrap();
    assert!(again < events.len() - 20, "{events:?}");
}

#[tokio::test]
async fn what_fails_again_is_a_dead_letter_again_with_the_reason_of_now() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    for replays in 1..=2 {
        world.lab.always("mine", 1, Act::Fail);
        replay_all(&world, "mine").await;
        app.advance(secs(20)).await;
        let letter = &letters(&world, "mine").list(None, 10).await.unwrap()[0];
        assert_eq!((letter.cause(), letter.reason(), letter.attempts()), ("handler", "event 1 fails", 3));
        assert_eq!((letter.replays(), letter.consumer(), letter.event_name()), (replays, "mine", "Note"));
        assert_eq!(letter.payload_text(100), r#"{"n": 1}"#);
        assert_eq!(waiting(&world, "mine").await, 0);
    }
    // No storm, as none of it is of the stream.
    assert_eq!(app.halt("mine"), None);
}

#[tokio::test]
async fn full_dead_letters_do_not_lose_what_comes_back() {
    let world = World::new("letters");
    let mut config = Config::new();
    config.dead_letters = DeadBounds { count: 2, age: secs(24 * 3600) };
    (1..=4).for_each(|n| world.lab.always("mine", n, Act::Permanent));
    let app = world.process(consumers![mine]).config(config).start().await;
    app.publish_all(notes(1..=2)).await;
    app.settled().await;
    let all = ids(&world, "mine").await;
    letters(&world, "mine").replay(&all[..1]).await.unwrap();
    // Its place is taken before it comes back.
    app.publish_all(notes([3])).await;
    app.advance(secs(10)).await;
    assert_eq!(ids(&world, "mine").await.len(), 3);
    app.publish_all(notes([4])).await;
    app.advance(secs(10)).await;
    assert!(app.halt("mine").unwrap().contains("are full"));
    // Sending letters makes room as well: the group goes on by itself, and they come back all the same.
    replay_all(&world, "mine").await;
    app.advance(secs(30)).await;
    assert_eq!(app.halt("mine"), None);
    assert_eq!(ids(&world, "mine").await.len(), 4);
}

#[tokio::test]
async fn a_letter_that_no_consumer_takes_any_more_goes_back_and_says_so() {
    let world = World::new("letters");
    world.lab.script("mine", 1, [Act::Permanent]);
    let app = world.process(consumers![mine, sketches]).start().await;
    app.publish(&Sketch { n: 1 }).await.unwrap();
    app.settled().await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    let app = world.process(consumers![mine]).start().await;
    replay_all(&world, "mine").await;
    app.advance(secs(10)).await;
    let letter = &letters(&world, "mine").list(None, 10).await.unwrap()[0];
    let reason = "no consumer of group `mine` takes `Sketch` any more; before that: event 1 never works";
    assert_eq!((letter.cause(), letter.reason(), letter.replays()), ("permanent", reason, 1));
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_replay_loses_nothing_and_is_no_crash() {
    let world = World::new("letters");
    let mut app = one_letter(&world).await;
    world.lab.script("mine", 1, [Act::Hang]);
    replay_all(&world, "mine").await;
    for round in 1..=4 {
        app.advance(secs(10)).await;
        world.lab.called("mine", 1 + round).await;
        let _ = app.into_running().shutdown().await;
        assert_eq!(waiting(&world, "mine").await, 1);
        if round == 4 {
            world.lab.script("mine", 1, []);
        }
        app = world.process(consumers![mine]).start().await;
    }
    app.advance(secs(10)).await;
    assert_eq!(world.lab.calls("mine")[1..], [(1, 1); 5]);
    assert!(ids(&world, "mine").await.is_empty() && waiting(&world, "mine").await == 0);
}

#[tokio::test]
async fn attempts_of_a_replay_survive_a_restart() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    world.lab.always("mine", 1, Act::Fail);
    replay_all(&world, "mine").await;
    world.lab.called("mine", 2).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    let app = world.process(consumers![mine]).start().await;
    app.advance(secs(20)).await;
    assert_eq!(world.lab.calls("mine")[1..], [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(ids(&world, "mine").await.len(), 1);
}

#[tokio::test]
async fn a_letter_that_takes_the_process_down_goes_back_after_three_times() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    world.lab.script("mine", 1, [Act::Hang]);
    replay_all(&world, "mine").await;
    let mut crashing = app;
    for round in 1..=3 {
        world.lab.called("mine", 1 + round).await;
        // As `kill -9`: nothing is given back.
        drop(crashing.into_running());
        crashing = world.process(consumers![mine]).start().await;
    }
    crashing.publish_all(notes(2..=4)).await;
    crashing.settled().await;
    crashing.advance(secs(10)).await;
    assert_eq!(world.lab.events("mine").iter().filter(|n| **n == 1).count(), 4, "{:?}", world.lab.calls("mine"));
    let letter = &letters(&world, "mine").list(None, 10).await.unwrap()[0];
    assert_eq!((letter.cause(), letter.replays()), ("crash", 1));
    assert!(letter.reason().contains("went away 3 times"), "{}", letter.reason());
    assert_eq!(world.lab.ended("mine"), [1, 2, 3, 4]);
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_copy() {
    let world = World::new("letters");
    world.lab.script("mine", 1, [Act::Permanent]);
    let wire = world.wire();
    let app = world.process(consumers![mine]).on(&wire).start().await;
    app.publish_all(notes([1])).await;
    app.settled().await;
    for op in [Op::TakeReplay, Op::EndReplay] {
        wire.once(op, Fault::LoseReply);
        wire.once(op, Fault::Fail(BrokerErrorKind::Unavailable));
    }
    replay_all(&world, "mine").await;
    app.advance(secs(60)).await;
    // Dead again, once; and the lost answer to its end did not have it handled twice.
    assert_eq!(world.lab.calls("mine"), [(1, 1), (1, 1)]);
    assert_eq!((ids(&world, "mine").await.len(), waiting(&world, "mine").await), (1, 0));
}

#[tokio::test]
async fn a_server_that_refuses_replays_does_not_stop_events() {
    let world = World::new("letters");
    let wire = world.wire();
    wire.always(Op::TakeReplay, Fault::Fail(BrokerErrorKind::Refused));
    let log = logged();
    let app = world.process(consumers![mine]).on(&wire).start().await;
    app.publish_all(notes(1..=3)).await;
    app.settled().await;
    assert_eq!(world.lab.events("mine"), [1, 2, 3]);
    assert_eq!(log.count("dead letters cannot be handled again; events go on"), 1, "{}", log.text());
    assert_eq!(app.halt("mine"), None);
}

#[tokio::test]
async fn a_consumer_of_batches_gets_a_replay_alone() {
    let world = World::new("letters");
    world.lab.script("batches", 2, [Act::Permanent, Act::Permanent]);
    let app = world.process(consumers![batches]).start().await;
    app.publish_all(notes(1..=3)).await;
    app.settled().await;
    let before = world.lab.events("batches").len();
    world.lab.script("batches", 2, []);
    assert_eq!(replay_all(&world, "batches").await, 1);
    app.advance(secs(10)).await;
    assert_eq!(world.lab.events("batches")[before..], [2]);
    assert!(ids(&world, "batches").await.is_empty());
}

#[tokio::test]
async fn what_an_owner_left_is_taken_up_by_the_next() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    // While nobody runs the group.
    replay_all(&world, "mine").await;
    let app = world.process(consumers![mine]).start().await;
    app.advance(Duration::from_millis(100)).await;
    assert_eq!(world.lab.events("mine"), [1, 1]);
    assert!(ids(&world, "mine").await.is_empty());
}

// The way out of a halt.

#[tokio::test]
async fn a_storm_goes_on_where_it_is_when_it_is_resumed() {
    let world = World::new("letters");
    let mut config = Config::new();
    config.dead_letter_storm = 3;
    (1..=5).for_each(|n| world.lab.always("mine", n, Act::Permanent));
    let app = world.process(consumers![mine]).config(config).start().await;
    app.publish_all(notes(1..=6)).await;
    app.advance(secs(5)).await;
    assert!(app.halt("mine").unwrap().contains("looks like an outage"));
    assert_eq!(world.lab.events("mine"), [1, 2, 3]);
    let admin = app.running().admin();
    let told = admin.resume("letters", "mine").await.unwrap();
    assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), ["letters"]);
    app.advance(secs(3)).await;
    app.settled().await;
    assert_eq!(world.lab.events("mine"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(app.halt("mine"), None);
    // A resume before a halt does not end that halt.
    admin.resume("letters", "mine").await.unwrap();
    (7..=9).for_each(|n| world.lab.always("mine", n, Act::Permanent));
    app.publish_all(notes(7..=10)).await;
    app.advance(secs(30)).await;
    assert!(app.halt("mine").is_some());
    assert_eq!(*world.lab.events("mine").last().unwrap(), 9);
}

#[tokio::test]
async fn a_resume_keeps_attempts_and_the_checkpoint() {
    let world = World::new("letters");
    let wire = world.wire();
    let app = world.process(consumers![mine]).on(&wire).start().await;
    app.publish_all(notes([1])).await;
    app.settled().await;
    world.lab.script("mine", 2, [Act::Fail]);
    app.publish_all(notes([2])).await;
    world.lab.called("mine", 2).await;
    app.advance(Duration::from_millis(10)).await;
    wire.always(Op::Commit, Fault::Fail(BrokerErrorKind::Unsupported));
    app.advance(secs(5)).await;
    assert!(app.halt("mine").is_some());
    let before = world.group("mine").state().await;
    app.running().admin().resume("letters", "mine").await.unwrap();
    app.advance(secs(5)).await;
    // It tried again, and what is still wrong halts it again.
    assert!(app.halt("mine").is_some());
    let after = world.group("mine").state().await;
    assert_eq!((after.at, after.reset), (before.at, before.reset));
    assert!(after.lease.epoch > before.lease.epoch);
    assert_eq!(world.lab.calls("mine"), [(1, 1), (2, 1), (2, 2), (2, 2)]);
    wire.heal();
    app.running().admin().resume("letters", "mine").await.unwrap();
    app.advance(secs(5)).await;
    app.settled().await;
    assert_eq!(app.halt("mine"), None);
}

#[tokio::test]
async fn names_that_are_none_are_refused_with_what_is_there() {
    let world = World::new("letters");
    let app = one_letter(&world).await;
    let (all, some) = (DeadLetterFilter::all(), [DeadLetterId { partition: 0, entry: EntryId::new(1, 1) }]);
    let of_app = app.running().admin();
    let tool = Admin::on(Arc::new(world.store.clone()), None).unwrap();
    for (stream, group, said) in [
        (
            "letters",
            "mnie",
            "there is no state of group `mnie` on `letters`, perhaps `mine` is meant: check stream, group and namespace; the stream has mine",
        ),
        (
            "letters",
            "nobody",
            "there is no state of group `nobody` on `letters`: check stream, group and namespace; the stream has mine",
        ),
        ("lettres", "mine", "there is neither a stream `lettres` nor a state of group `mine`"),
    ] {
        for admin in [&of_app, &tool] {
            let letters = admin.dead_letters(stream, group).await.unwrap();
            for error in [
                admin.resume(stream, group).await.unwrap_err(),
                admin.reset(stream, group, Start::Earliest).await.unwrap_err(),
                letters.list(None, 10).await.unwrap_err(),
                letters.find(&all, None, 10).await.unwrap_err(),
                letters.count(&all).await.unwrap_err(),
                letters.get(some[0]).await.unwrap_err(),
                letters.replay(&some).await.unwrap_err(),
                letters.replay_all(&all).await.unwrap_err(),
                letters.replaying(9).await.unwrap_err(),
                letters.discard(&some).await.unwrap_err(),
                letters.discard_all(&all).await.unwrap_err(),
            ] {
                assert!(error.to_string().contains(said), "{error}");
            }
        }
    }
    assert!(app.dead_letters::<Note>("mnie").await.unwrap_err().to_string().contains("perhaps `mine`"));
    // No group was made by the way.
    assert_eq!(world.store.groups(&world.partition()).await.unwrap(), Some(vec!["mine".to_owned()]));

    assert!(tool.dead_letters("letters.1", "mine").await.unwrap_err().to_string().contains("has 1 partitions"));
    let letters = tool.dead_letters("letters", "mine").await.unwrap();
    assert_eq!(letters.list(None, 10).await.unwrap().len(), 1);
    let error = letters.count(&all.clone().partition(3)).await.unwrap_err().to_string();
    assert!(error.contains("no partition 3 among those that are looked at: letters"), "{error}");
    // A group that is there may have no letter.
    assert_eq!(letters.count(&all.clone().reason("never said")).await.unwrap(), 0);
    assert!(letters.get(some[0]).await.unwrap().is_none());
    assert_eq!(letters.discard(&some).await.unwrap(), 0);
    assert_eq!(letters.replay(&some).await.unwrap().missing, some);
}

#[tokio::test]
async fn letters_of_a_group_that_is_withdrawn_are_still_found() {
    let url = RedisServer::shared().database();
    let (client, letters) = (&mut RedisServer::client(&url), Redis::open(&url).unwrap());
    let letters = Admin::on(Arc::new(letters), None).unwrap().dead_letters("letters", "mine").await.unwrap();
    for command in ["XADD letters * event Note", "XADD streams:{letters}:mine:dead * cause handler"] {
        let mut words = command.split(' ');
        let mut add = redis::cmd(words.next().unwrap());
        add.arg(words.collect::<Vec<_>>()).exec(client).unwrap();
    }
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 1);
    assert_eq!(letters.count(&DeadLetterFilter::all().cause(Cause::Panic)).await.unwrap(), 0);
    assert_eq!(letters.discard_all(&DeadLetterFilter::all()).await.unwrap(), 1);
    let error = letters.list(None, 1).await.unwrap_err().to_string();
    assert!(
        error.contains("no state of group `mine` on `letters`") && error.ends_with("the stream has no group"),
        "{error}"
    );
}

// On a real server.

/// Apps on a database of a real server, with leases that renew soon.
struct Site {
    url: String,
    lab: Lab,
}

impl Site {
    fn new() -> Self {
        Self { url: RedisServer::shared().database(), lab: Lab::default() }
    }

    async fn app(&self, storm: u32, bound: u64) -> Running {
        let mut config = Config::new().lease(Duration::from_millis(600));
        config.dead_letter_storm = storm;
        config.dead_letters.count = bound;
        let broker = Arc::new(Redis::open(&self.url).unwrap());
        App::with(consumers![mine]).state(self.lab.clone()).broker(broker).config(config).start().await.unwrap()
    }

    /// Another process with nothing but an operator's hand.
    fn admin(&self) -> Admin {
        Admin::on(Arc::new(Redis::open(&self.url).unwrap()), None).unwrap()
    }

    async fn letters(&self) -> DeadLetters {
        self.admin().dead_letters("letters", "mine").await.unwrap()
    }
}

async fn publish_on(app: &Running, notes: std::ops::RangeInclusive<u64>) {
    for receipt in app.publisher().publish_all(notes.map(|n| Note { n })).await {
        receipt.unwrap();
    }
}

fn is_halted(app: &Running) -> bool {
    matches!(app.status().groups[0].phase, Phase::Halted(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_dead_letters_go_on_without_a_restart_when_some_are_discarded_or_sent() {
    let site = Site::new();
    (1..=5).for_each(|n| site.lab.script("mine", n, [Act::Permanent]));
    let app = site.app(100, 2).await;
    publish_on(&app, 1..=6).await;
    until(|| is_halted(&app)).await;
    let letters = site.letters().await;
    assert_eq!((letters.count(&DeadLetterFilter::all()).await.unwrap(), site.lab.events("mine")), (2, vec![1, 2, 3]));
    assert_eq!(letters.discard_all(&DeadLetterFilter::all().cause(Cause::Permanent)).await.unwrap(), 2);
    until(|| site.lab.events("mine").len() >= 5).await;
    until(|| is_halted(&app)).await;
    // Handled again they are dead again, and full again: each time one more event has its turn.
    (1..=5).for_each(|n| site.lab.script("mine", n, []));
    assert_eq!(letters.replay_all(&DeadLetterFilter::all()).await.unwrap().moved, 2);
    until(|| site.lab.events("mine").contains(&6)).await;
    until(|| [3, 4].iter().all(|n| site.lab.events("mine").iter().filter(|event| *event == n).count() == 2)).await;
    app.settled().await.unwrap();
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 1);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_goes_on_without_a_restart_when_another_process_resumes_it_and_its_letters_are_sent() {
    let site = Site::new();
    (1..=4).for_each(|n| site.lab.script("mine", n, [Act::Permanent]));
    let app = site.app(4, 100).await;
    publish_on(&app, 1..=8).await;
    until(|| is_halted(&app)).await;
    assert_eq!(site.lab.events("mine"), [1, 2, 3, 4]);
    (1..=4).for_each(|n| site.lab.script("mine", n, []));
    assert_eq!(site.admin().resume("letters", "mine").await.unwrap().len(), 1);
    until(|| site.lab.events("mine").len() == 8).await;
    let letters = site.letters().await;
    assert_eq!(letters.replay_all(&DeadLetterFilter::all().reason("NEVER works")).await.unwrap().moved, 4);
    until(|| site.lab.events("mine").len() == 12).await;
    assert_eq!(site.lab.events("mine")[4..], [5, 6, 7, 8, 1, 2, 3, 4]);
    assert_eq!(app.shutdown().await, Stopped::Clean);
    assert_eq!(
        (letters.count(&DeadLetterFilter::all()).await.unwrap(), letters.replaying(9).await.unwrap().len()),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_lets_letters_be_sent_and_handled() {
    let server = RedisServer::start();
    let site = Site { url: server.url(), lab: Lab::default() };
    site.lab.script("mine", 1, [Act::Permanent]);
    let app = site.app(10, 10).await;
    publish_on(&app, 1..=1).await;
    let letters = site.letters().await;
    while letters.count(&DeadLetterFilter::all()).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    site.lab.script("mine", 1, [Act::Permanent]);
    server.run::<()>("CONFIG SET maxmemory 1");
    assert_eq!(letters.replay_all(&DeadLetterFilter::all()).await.unwrap().moved, 1);
    until(|| site.lab.events("mine").len() == 2).await;
    while letters.count(&DeadLetterFilter::all()).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(letters.list(None, 9).await.unwrap()[0].replays(), 1);
    server.run::<()>("CONFIG SET maxmemory 0");
    assert_eq!(app.shutdown().await, Stopped::Clean);
}
