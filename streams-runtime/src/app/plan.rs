//! From declarations to a plan: which groups there are, with which consumers and properties, and everything that is wrong.
//!
//! Pure: the app gathers, this decides, before anything is connected.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use streams_core::keys::{self, GroupKey, StreamKey};
use streams_core::{
    Checkpoint, ConsumerInfo, ConsumerOptions, Delivery, EventInfo, OnDataLoss, OnFailure, Registration, Resources,
};

use super::App;
use super::config::{
    BACKOFF, BATCH, BATCH_WAIT, CHECKPOINT_EVENTS, CHECKPOINT_INTERVAL, CONCURRENCY, Config, MAX_ATTEMPTS, MAX_CRASHES,
    TIMEOUT,
};
use crate::declared::{chain, declared_at, event_place, property_problems, stream_properties};
use crate::error::Error;
use crate::group::{Bounds, Dedupe, GroupOptions, Limits, Policy};
use crate::membership::Build;

/// The groups that an app drives.
#[derive(Debug)]
pub(super) struct Plan {
    /// Sorted by stream and name.
    pub(super) groups: Vec<GroupPlan>,
}

/// A group on a stream.
#[derive(Debug)]
pub(super) struct GroupPlan {
    pub(super) stream: &'static str,
    pub(super) group: &'static str,
    pub(super) key: StreamKey,
    pub(super) consumers: Vec<(Registration, Policy)>,
    /// The events that this build handles and ignores in the group.
    pub(super) build: Arc<Build>,
    pub(super) options: GroupOptions,
    /// How many events of a partition it handles at once; in queue delivery of all of them.
    pub(super) concurrency: u32,
    pub(super) delivery: Delivery,
    pub(super) on_failure: OnFailure,
}

impl GroupPlan {
    /// The group's key on a partition.
    pub(super) fn key_at(&self, partition: u32) -> GroupKey {
        let key = self.key.partition(partition).group(self.group);
        match self.delivery {
            Delivery::Ordered | Delivery::Broadcast => key,
            Delivery::Queue => key.queue(),
        }
    }
}

impl App {
    /// The plan, and the configuration as the environment overrides it.
    ///
    /// # Errors
    /// Every problem, each in one line.
    pub(super) fn plan(&self) -> Result<(Plan, Config), Error> {
        let mut config = self.config.clone();
        config.lease = self.environment.lease.unwrap_or(config.lease);
        config.shutdown_deadline = self.environment.shutdown_deadline.unwrap_or(config.shutdown_deadline);
        config.expire_after = self.environment.expire_after.unwrap_or(config.expire_after);
        #[cfg(feature = "http")]
        {
            config.http = self.environment.http.or(config.http);
        }
        let mut problems = self.environment.problems.clone();
        problems.extend(
            self.twice
                .iter()
                .map(|name| format!("the app was given two values of type `{name}`; wrap one in a type of its own")),
        );
        match self.plan_groups(&config, Some(&self.resources)) {
            Ok(plan) if problems.is_empty() => Ok((plan, config)),
            Ok(_) => Err(Error::Refused(problems)),
            Err(more) => {
                problems.extend(more);
                Err(Error::Refused(problems))
            }
        }
    }

    /// The groups, with their properties, or every problem. Only an app that shall run needs the values of its handlers.
    pub(super) fn plan_groups(&self, config: &Config, values: Option<&Resources>) -> Result<Plan, Vec<String>> {
        let (mut consumers, events, only) = (self.consumers.clone(), self.events.as_slice(), self.driven_groups());
        let (namespace, environment) = (self.effective_namespace(), self.environment.consumers);
        let mut problems = config.problems();
        problems.extend(only.filter(|_| self.publishes_only).map(|only| {
            format!(
                "the app is to publish only, and to drive the groups {}: leave out `.publish_only()`, or `.only_groups(..)` and STREAMS_GROUPS",
                only.join(", ")
            )
        }));
        // Link order is not defined, and people compare banners.
        consumers.sort_by_key(|consumer| sort_key(consumer.info));
        // One function listed twice is one consumer.
        consumers.dedup_by_key(|consumer| sort_key(consumer.info));
        if let Some(namespace) = namespace {
            problems.extend(keys::check_namespace(namespace).err().map(|error| error.to_string()));
        }
        let known: HashSet<&str> = consumers.iter().map(|consumer| consumer.info.group).collect();
        for group in only.into_iter().flatten().chain(config.groups.keys()) {
            if !known.contains(group.as_str()) {
                let mut names: Vec<_> = known.iter().copied().collect();
                names.sort_unstable();
                problems.push(format!("no consumer is in group `{group}`; there are: {}", names.join(", ")));
            }
        }
        if self.publishes_only {
            consumers.clear();
        } else if let Some(only) = only {
            let only: HashSet<_> = only.iter().map(String::as_str).collect();
            consumers.retain(|consumer| only.contains(consumer.info.group));
        }
        if consumers.is_empty() && problems.is_empty() && !self.publishes_only {
            problems.push(match only {
                Some(_) => "there is no group to drive: the list of groups is empty".to_owned(),
                None => "there is no consumer: none was given, and none with `#[consumer(group = \"...\")]` is linked into this program; does `main.rs` use the crate that has them? A program that only publishes says `App::linked().publish_only()`".to_owned(),
            });
        }
        problems.extend(events_problems(events));
        for consumer in &consumers {
            problems.extend(outdated_problem(consumer.info, events));
            for missing in values.map(|values| consumer.needs().missing_from(values)).unwrap_or_default() {
                problems.push(format!(
                    "{} takes `State<{missing}>`, but the app has none: call `.state(..)` with one",
                    place(consumer.info)
                ));
            }
        }
        let mut by_group: BTreeMap<(&'static str, &'static str), Vec<Registration>> = BTreeMap::new();
        for consumer in consumers {
            by_group.entry((consumer.info.event.stream, consumer.info.group)).or_default().push(consumer);
        }
        let mut groups = Vec::new();
        for ((stream, group), members) in by_group {
            problems.extend(names_problems(stream, group, &members));
            problems.extend(group_problems(&members));
            let properties = stream_properties(stream, events);
            let over = |options: ConsumerOptions| {
                let options = config.consumers.over(options);
                let options = config.groups.get(group).map_or(options, |of_group| of_group.over(options));
                environment.over(options)
            };
            let of_group =
                over(members.iter().fold(ConsumerOptions::DEFAULT, |all, consumer| all.over(consumer.info.options)));
            let ignored = of_group.ignore.unwrap_or_default();
            problems.extend(ignored_problems(&members, ignored));
            let takes = members.iter().map(|consumer| (consumer.info.event.name, consumer.info.event.version));
            let build = Arc::new(Build::new(takes, ignored.iter().copied()));
            let checkpoint = Checkpoint {
                events: of_group.checkpoint_events.unwrap_or(CHECKPOINT_EVENTS),
                interval: of_group.checkpoint_interval.unwrap_or(CHECKPOINT_INTERVAL),
            };
            let concurrency = of_group.concurrency.unwrap_or(CONCURRENCY);
            let delivery = of_group.delivery.unwrap_or_default();
            match delivery {
                Delivery::Ordered if concurrency > 1 => {
                    problems.extend(members.iter().filter_map(|consumer| lanes_problem(consumer, concurrency)));
                }
                Delivery::Ordered => {}
                Delivery::Queue => problems.extend(members.iter().flat_map(queue_problems)),
                Delivery::Broadcast => problems.extend(members.iter().flat_map(broadcast_problems)),
            }
            if delivery != Delivery::Broadcast {
                problems.extend(members.iter().filter_map(on_failure_problem));
            }
            let consumers = members.into_iter().map(|consumer| {
                let options = over(consumer.info.options);
                let policy = Policy {
                    max_attempts: options.max_attempts.unwrap_or(MAX_ATTEMPTS),
                    max_crashes: options.max_crashes.unwrap_or(MAX_CRASHES),
                    backoff: options.backoff.unwrap_or(BACKOFF),
                    timeout: options.timeout.unwrap_or(TIMEOUT),
                    batch: consumer.takes_batches().then(|| Limits {
                        events: options.batch.unwrap_or(BATCH),
                        wait: options.batch_wait.unwrap_or(BATCH_WAIT),
                    }),
                };
                (consumer, policy)
            });
            groups.push(GroupPlan {
                stream,
                group,
                key: StreamKey::new(namespace, stream, properties.partitions),
                consumers: consumers.collect(),
                build,
                options: GroupOptions {
                    start: of_group.start.unwrap_or_default(),
                    checkpoint,
                    // A copy can be built anew, so by itself it goes on.
                    on_data_loss: of_group.on_data_loss.unwrap_or(match delivery {
                        Delivery::Broadcast => OnDataLoss::Continue,
                        Delivery::Ordered | Delivery::Queue => OnDataLoss::Halt,
                    }),
                    adopt: of_group.adopt.unwrap_or_default(),
                    dead_bounds: config.dead_letters,
                    storm: config.dead_letter_storm,
                    max_payload: properties.max_payload,
                    lanes: Bounds {
                        running: concurrency as usize,
                        entries: config.max_unsettled_entries,
                        bytes: config.max_unsettled_bytes,
                    },
                    dedupe: of_group.dedupe.map(|within| Dedupe { within, most: config.dedupe_ids }),
                },
                concurrency,
                delivery,
                on_failure: of_group.on_failure.unwrap_or_default(),
            });
        }
        let saved = |group: &String| {
            let is_broadcast = |one: &&GroupPlan| one.group == group.as_str() && one.delivery == Delivery::Broadcast;
            groups.iter().any(|one| is_broadcast(&one))
        };
        // Groups that this process does not drive have their snapshots elsewhere.
        let drives = |group: &String| !self.publishes_only && only.is_none_or(|only| only.contains(group));
        let unsaved = self.snapshots.keys().filter(|group| drives(group) && !saved(group));
        problems.extend(unsaved.map(|group| {
            format!("`.snapshots(\"{group}\", ..)` is called, and no group `{group}` has `delivery = \"broadcast\"`: only such a group can save its state")
        }));
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(Plan { groups }) } else { Err(problems) }
    }
}

fn sort_key(info: &'static ConsumerInfo) -> (&'static str, &'static str, &'static str, &'static str, u32) {
    (info.event.stream, info.group, info.name, info.file, info.line)
}

fn place(info: &ConsumerInfo) -> String {
    format!("{}:{} `{}`", info.file, info.line, info.name)
}

/// Names were checked by the attributes, but declarations can be written by hand.
fn names_problems(stream: &str, group: &str, members: &[Registration]) -> Vec<String> {
    let events = members.iter().filter_map(|member| keys::check_event(member.info.event.name).err());
    let names = keys::check_stream(stream).err().into_iter().chain(keys::check_group(group).err());
    names.chain(events).map(|error| error.to_string()).collect()
}

/// Two consumers of one event in one group, and properties of the group that contradict each other.
fn group_problems(members: &[Registration]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, one) in members.iter().enumerate() {
        for other in &members[index + 1..] {
            let (a, b) = (one.info, other.info);
            if a.event.name == b.event.name {
                problems.push(format!(
                    "{} and {} both consume `{}` of stream `{}` in group `{}`: a group has one consumer for an event, whatever its version; give one of them another group",
                    place(a), place(b), a.event.name, a.event.stream, a.group
                ));
            }
            let differ = |what: &str| {
                format!(
                    "{} and {} give group `{}` a different `{what}`; say it once, or the same",
                    place(a),
                    place(b),
                    a.group
                )
            };
            let (x, y) = (&a.options, &b.options);
            if x.start.is_some() && y.start.is_some() && x.start != y.start {
                problems.push(differ("start"));
            }
            let checkpoint = |options: &ConsumerOptions| (options.checkpoint_events, options.checkpoint_interval);
            if checkpoint(x) != (None, None) && checkpoint(y) != (None, None) && checkpoint(x) != checkpoint(y) {
                problems.push(differ("checkpoint"));
            }
            if x.on_data_loss.is_some() && y.on_data_loss.is_some() && x.on_data_loss != y.on_data_loss {
                problems.push(differ("on_data_loss"));
            }
            if x.delivery.is_some() && y.delivery.is_some() && x.delivery != y.delivery {
                problems.push(differ("delivery"));
            }
            if x.concurrency.is_some() && y.concurrency.is_some() && x.concurrency != y.concurrency {
                problems.push(differ("concurrency"));
            }
            let ignored = |options: &ConsumerOptions| options.ignore.map(|names| names.iter().collect::<BTreeSet<_>>());
            if x.ignore.is_some() && y.ignore.is_some() && ignored(x) != ignored(y) {
                problems.push(differ("ignore"));
            }
            if x.on_failure.is_some() && y.on_failure.is_some() && x.on_failure != y.on_failure {
                problems.push(differ("on_failure"));
            }
            if x.dedupe.is_some() && y.dedupe.is_some() && x.dedupe != y.dedupe {
                problems.push(differ("dedupe"));
            }
            if x.adopt.is_some() && y.adopt.is_some() && x.adopt != y.adopt {
                problems.push(differ("adopt"));
            }
        }
    }
    problems
}

/// A consumer whose events cannot be handled side by side.
fn lanes_problem(consumer: &Registration, concurrency: u32) -> Option<String> {
    let info = consumer.info;
    if consumer.takes_batches() {
        return Some(format!(
            "{} takes `Batch<{}>`, and group `{}` has `concurrency = {concurrency}`: a batch is a stretch of the stream, in which the keys are mixed; give it a group of its own, or take single events",
            place(info),
            info.event.name,
            info.group
        ));
    }
    info.event.key.is_none().then(|| {
        format!(
            "{} takes `{}`, which has no key, and group `{}` has `concurrency = {concurrency}`: nothing says which events have to stay in order; write `key = field` in `#[stream_event(..)]` of {}, or remove `concurrency`",
            place(info),
            info.event.name,
            info.group,
            event_place(info.event)
        )
    })
}

/// The problems of a consumer of a work queue, which can have neither batches nor a checkpoint.
fn queue_problems(consumer: &Registration) -> Vec<String> {
    let info = consumer.info;
    let mut problems = Vec::new();
    if consumer.takes_batches() {
        problems.push(format!(
            "{} takes `Batch<{}>`, and group `{}` has `delivery = \"queue\"`: a batch is a stretch of the stream, which a work queue hands out event by event; take single events, or leave out `delivery`",
            place(info),
            info.event.name,
            info.group
        ));
    }
    if info.options.dedupe.is_some() {
        problems.push(format!(
            "{} says `dedupe`, and group `{}` has `delivery = \"queue\"`: two events of one id may be in flight in two processes at once there, so nobody can pass one over; remove `dedupe`, or `delivery`",
            place(info),
            info.group
        ));
    }
    // A setting for all groups, from `Config` or the environment, is no mistake of this one.
    if info.options.checkpoint_events.is_some() || info.options.checkpoint_interval.is_some() {
        problems.push(format!(
            "{} says `checkpoint`, and group `{}` has `delivery = \"queue\"`: each event is settled by itself there, so there is no checkpoint to commit; remove `checkpoint`, or `delivery`",
            place(info),
            info.group
        ));
    }
    problems
}

/// The options of a consumer that mean nothing where every process handles every event.
fn broadcast_problems(consumer: &Registration) -> Vec<String> {
    let (info, options) = (consumer.info, &consumer.info.options);
    let said = |is_said: bool, option: &'static str, why: &'static str| is_said.then_some((option, why));
    let batches = "its state and its position move event by event; take single events";
    let order = "one event after the other is handled; remove `concurrency`";
    let checkpoint =
        "there is no checkpoint: each process begins where `start` says, or with its snapshot; remove `checkpoint`";
    let crashes = "no process knows of the crashes of another; remove `max_crashes`";
    let dedupe =
        "nothing is remembered; let the handler do the same for an event that comes twice, and remove `dedupe`";
    let adopt = "it has nothing in Redis that it could take over; remove `adopt`";
    let wrong = [
        said(consumer.takes_batches(), "Batch<_>", batches),
        said(options.concurrency.is_some_and(|events| events > 1), "concurrency", order),
        said(options.checkpoint_events.or(options.checkpoint_interval.map(|_| 0)).is_some(), "checkpoint", checkpoint),
        said(options.max_crashes.is_some(), "max_crashes", crashes),
        said(options.dedupe.is_some(), "dedupe", dedupe),
        said(options.adopt == Some(true), "adopt", adopt),
    ];
    let problem = |(option, why): (&str, &str)| {
        format!("{} says `{option}`, and group `{}` has `delivery = \"broadcast\"`: {why}", place(info), info.group)
    };
    wrong.into_iter().flatten().map(problem).collect()
}

/// A consumer that says what happens where an event is given up, in a group with dead letters.
fn on_failure_problem(consumer: &Registration) -> Option<String> {
    let info = consumer.info;
    info.options.on_failure.is_some().then(|| {
        format!(
            "{} says `on_failure`, and group `{}` does not have `delivery = \"broadcast\"`: an event that it gives up goes to the dead letters; remove `on_failure`",
            place(info),
            info.group
        )
    })
}

/// Events that a group takes and is to ignore.
fn ignored_problems(members: &[Registration], ignored: &[&str]) -> Vec<String> {
    let taken = members.iter().map(|member| member.info).filter(|info| ignored.contains(&info.event.name));
    taken
        .map(|info| {
            let names_it = |other: &&Registration| {
                other.info.options.ignore.is_some_and(|names| names.contains(&info.event.name))
            };
            let by = members.iter().find(names_it).map_or_else(|| "the configuration".to_owned(), |by| place(by.info));
            format!(
                "{} takes `{}` of stream `{}` in group `{}`, and {by} says that the group ignores it; take it out of `ignore`, or remove the consumer",
                place(info), info.event.name, info.event.stream, info.group
            )
        })
        .collect()
}

/// A consumer whose event has a newer version in this program: it would halt at the first of those.
fn outdated_problem(consumer: &ConsumerInfo, events: &[&'static EventInfo]) -> Option<String> {
    let old = consumer.event;
    let same = |info: &&&EventInfo| (info.stream, info.name) == (old.stream, old.name);
    let newest = events.iter().filter(same).max_by_key(|info| info.version)?;
    (newest.version > old.version).then(|| {
        format!(
            "{} takes version {} of `{}`, and would halt at the first event of version {}, which is {}; let it take that one",
            place(consumer),
            old.version,
            old.name,
            newest.version,
            event_place(newest)
        )
    })
}

/// Properties of a stream that contradict each other, two types under one name and version, and versions that are no chain.
pub(super) fn events_problems(events: &[&'static EventInfo]) -> Vec<String> {
    let mut seen = HashSet::new();
    let events: Vec<_> = events.iter().copied().filter(|info| seen.insert(declared_at(info))).collect();
    let mut problems = Vec::new();
    for (index, &a) in events.iter().enumerate() {
        for &b in events[index + 1..].iter().filter(|b| b.stream == a.stream) {
            if a.name == b.name && a.version == b.version {
                problems.push(format!(
                    "{} and {} are both `{}` version {} of stream `{}`; give one of them another `name` or `version`",
                    event_place(a),
                    event_place(b),
                    a.name,
                    a.version,
                    a.stream
                ));
            }
            let (older, newer) = if a.version < b.version { (a, b) } else { (b, a) };
            if a.name == b.name && a.version != b.version && !chain(newer).any(|info| info == older) {
                problems.push(format!(
                    "{} and {} are versions {} and {} of `{}` in stream `{}`, and the newer is not made from the older; name the version before in `upcast_from`, or give one of them another `name`",
                    event_place(older),
                    event_place(newer),
                    older.version,
                    newer.version,
                    a.name,
                    a.stream
                ));
            }
            problems.extend(property_problems(a, b));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use streams_core::{Batch, consumer, consumers, stream_event};

    use super::*;

    /// An event without a key.
    #[stream_event(stream = "uploads")]
    struct Uploaded {
        n: u64,
    }

    /// Another event of the stream.
    #[stream_event(stream = "uploads")]
    struct Removed {
        n: u64,
    }

    #[consumer(group = "thumbnails", delivery = "queue", concurrency = 8)]
    async fn make(_upload: Uploaded) {}

    #[consumer(group = "thumbnails")]
    async fn remove(_removed: Removed) {}

    #[consumer(group = "thumbnails", delivery = "ordered")]
    async fn remove_in_order(_removed: Removed) {}

    #[consumer(group = "thumbnails")]
    async fn remove_many(_removed: Batch<Removed>) {}

    #[consumer(group = "thumbnails", checkpoint = "each")]
    async fn remove_and_commit(_removed: Removed) {}

    #[consumer(group = "thumbnails", checkpoint = 500)]
    async fn remove_and_count(_removed: Removed) {}

    #[consumer(group = "index")]
    async fn index(_upload: Uploaded) {}

    fn plan_with(
        consumers: &[Registration],
        config: &Config,
        environment: ConsumerOptions,
    ) -> Result<Plan, Vec<String>> {
        let mut app = App::with(consumers.iter().copied());
        app.environment.consumers = environment;
        app.plan_groups(config, Some(&app.resources))
    }

    fn planned(consumers: &[Registration]) -> Result<Plan, Vec<String>> {
        plan_with(consumers, &Config::new(), ConsumerOptions::DEFAULT)
    }

    /// The only problem.
    fn problem(planned: Result<Plan, Vec<String>>) -> String {
        let problems = planned.expect_err("it is refused");
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.concat()
    }

    #[test]
    fn a_group_is_delivered_to_in_order_unless_one_of_its_consumers_says_otherwise() {
        let deliveries = |consumers: &[Registration]| {
            let plan: Plan = planned(consumers).expect("it is a plan");
            plan.groups.iter().map(|group| (group.group, group.delivery)).collect::<Vec<_>>()
        };
        let expected = [("index", Delivery::Ordered), ("thumbnails", Delivery::Queue)];
        assert_eq!(deliveries(&consumers![make, remove, index]), expected);
        assert_eq!(deliveries(&consumers![remove]), [("thumbnails", Delivery::Ordered)]);
        assert_eq!(deliveries(&consumers![remove_in_order]), [("thumbnails", Delivery::Ordered)]);
    }

    #[test]
    fn a_group_has_the_keys_of_its_delivery() {
        let shared =
            |consumers: &[Registration]| planned(consumers).expect("it is a plan").groups[0].key_at(0).is_queue();
        assert!(shared(&consumers![make]));
        assert!(!shared(&consumers![index]));
    }

    #[test]
    fn two_consumers_that_differ_about_the_delivery_are_refused() {
        let problem = problem(planned(&consumers![make, remove_in_order]));
        assert!(problem.contains("`make` and "), "{problem}");
        assert!(
            problem.ends_with("give group `thumbnails` a different `delivery`; say it once, or the same"),
            "{problem}"
        );
    }

    #[test]
    fn several_events_at_once_need_a_key_only_where_there_is_an_order() {
        let plan = planned(&consumers![make, remove]).expect("it is a plan");
        assert_eq!(plan.groups[0].concurrency, 8);
        let everywhere = ConsumerOptions::DEFAULT.with_concurrency(4);
        let plan = plan_with(&consumers![make], &Config::new(), everywhere).expect("it is a plan");
        assert_eq!(plan.groups[0].concurrency, 4);
        let problem = problem(plan_with(&consumers![index], &Config::new(), everywhere));
        assert!(problem.contains("`index` takes `Uploaded`, which has no key"), "{problem}");
        let ordered = Config::new().group("thumbnails", ConsumerOptions::DEFAULT.with_delivery(Delivery::Ordered));
        let problems = plan_with(&consumers![make], &ordered, ConsumerOptions::DEFAULT).expect_err("it is refused");
        assert!(problems[0].contains("`concurrency = 8`: nothing says which events"), "{problems:?}");
    }

    #[test]
    fn a_work_queue_hands_out_no_batches() {
        let problem = problem(planned(&consumers![make, remove_many]));
        for words in [
            file!(),
            "`remove_many` takes `Batch<Removed>`, and group `thumbnails` has `delivery = \"queue\"`",
            "a batch is a stretch of the stream",
            "take single events, or leave out `delivery`",
        ] {
            assert!(problem.contains(words), "no `{words}` in: {problem}");
        }
        planned(&consumers![remove_many]).expect("it is a plan where there is an order");
    }

    #[test]
    fn a_work_queue_has_no_checkpoint_to_speak_of() {
        for (name, consumers) in [
            ("remove_and_commit", consumers![make, remove_and_commit]),
            ("remove_and_count", consumers![make, remove_and_count]),
        ] {
            let problem = problem(planned(&consumers));
            for words in [
                file!(),
                &format!("`{name}` says `checkpoint`, and group `thumbnails`"),
                "remove `checkpoint`, or `delivery`",
            ] {
                assert!(problem.contains(words), "no `{words}` in: {problem}");
            }
        }
        let everywhere = ConsumerOptions::DEFAULT.with_checkpoint_events(5);
        plan_with(&consumers![make], &Config::new().consumers(everywhere), everywhere).expect("said for all groups");
    }

    #[test]
    fn a_delivery_that_is_configured_has_the_same_rules() {
        let shared = Config::new().group("thumbnails", ConsumerOptions::DEFAULT.with_delivery(Delivery::Queue));
        for consumers in [consumers![remove_many], consumers![remove_and_commit]] {
            problem(plan_with(&consumers, &shared, ConsumerOptions::DEFAULT));
        }
    }

    #[consumer(group = "copy", delivery = "broadcast", on_failure = "stop")]
    async fn copy(_upload: Uploaded) {}

    #[consumer(group = "copy", delivery = "broadcast", checkpoint = 5, max_crashes = 2, concurrency = 8, adopt = true)]
    async fn copy_with_all(_removed: Removed) {}

    #[consumer(group = "copy", delivery = "broadcast")]
    async fn copy_many(_removed: Batch<Removed>) {}

    #[consumer(group = "index", on_failure = "skip")]
    async fn index_or_skip(_upload: Uploaded) {}

    #[test]
    fn a_broadcast_group_goes_on_after_a_loss_unless_it_says_otherwise() {
        let plan = planned(&consumers![copy]).expect("it is a plan");
        let group = &plan.groups[0];
        assert_eq!((group.delivery, group.on_failure), (Delivery::Broadcast, OnFailure::Stop));
        assert_eq!(group.options.on_data_loss, OnDataLoss::Continue);
        let halts = Config::new().group("copy", ConsumerOptions::DEFAULT.with_on_data_loss(OnDataLoss::Halt));
        let plan = plan_with(&consumers![copy], &halts, ConsumerOptions::DEFAULT).expect("it is a plan");
        assert_eq!(plan.groups[0].options.on_data_loss, OnDataLoss::Halt);
    }

    #[test]
    fn options_that_mean_nothing_to_a_broadcast_group_are_refused_with_the_reason() {
        let problems = planned(&consumers![copy_with_all]).expect_err("it is refused");
        for option in ["adopt", "checkpoint", "concurrency", "max_crashes"] {
            let said = format!("`copy_with_all` says `{option}`, and group `copy` has `delivery = \"broadcast\"`: ");
            assert!(problems.iter().any(|problem| problem.contains(&said)), "{problems:?}");
        }
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problem(planned(&consumers![copy_many])).contains("take single events"));
        let everywhere = ConsumerOptions::DEFAULT.with_checkpoint_events(5).with_concurrency(4);
        plan_with(&consumers![copy], &Config::new(), everywhere).expect("said for all groups");
    }

    #[test]
    fn only_a_broadcast_group_says_what_to_do_where_an_event_fails() {
        let problem = problem(planned(&consumers![index_or_skip]));
        assert!(
            problem.contains("an event that it gives up goes to the dead letters; remove `on_failure`"),
            "{problem}"
        );
    }

    #[test]
    fn snapshots_of_a_group_that_has_no_copy_are_refused() {
        use crate::broadcast::Snapshots;
        use std::sync::{Arc, Mutex};
        use std::time::Duration;

        let state = Arc::new(Mutex::new(0_u64));
        let app = |group: &str| {
            let every = Snapshots::every(Duration::from_secs(1));
            App::with(consumers![copy, index]).snapshots(group, every, state.clone())
        };
        app("copy").check().expect("it is a plan");
        let problem = app("index").check().expect_err("it is refused").to_string();
        assert!(problem.contains("no group `index` has `delivery = \"broadcast\"`"), "{problem}");
    }
}
