//! Random histories of processes that share the partitions of a group, in virtual time, against a truth that is kept apart.
//! Their server, their network and other processes fail them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerErrorKind, Groups};
use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::{BoxError, Config, Context, EntryId, Outcome, Phase, State, consumer, consumers, stream_event};
use streams_tests::soak::Dice;
use streams_tests::{Act, Fault, Lab, Op, Process, World, in_groups};
use tokio::time::{Instant, sleep};

const PARTITIONS: u32 = 3;
const LEASE: Duration = Duration::from_secs(2);
const PROCESSES: usize = 4;
/// How long a partition may be without an owner once nothing goes wrong any more. It is the lease of the last one that died,
/// one more in which the successor did not take over, and the looks between.
const CALM: Duration = Duration::from_secs(9);
/// The same while every process has no server for at most 40 % of the time, in leases; and in times that it is away.
const FLAPPING: (u32, u32) = (5, 3);

#[stream_event(stream = "turns", partitions = 3, key = key)]
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    key: u64,
    millis: u64,
}

#[consumer(group = "turns", on_data_loss = "continue", checkpoint = 3)]
async fn turn(turn: Turn, ctx: Context, seat: State<Seat>) {
    let _run = seat.begin(&ctx);
    sleep(Duration::from_millis(turn.millis)).await;
    seat.end(&ctx);
}

/// The events as they happened, whatever the processes make of them.
#[derive(Debug, Default)]
struct Truth {
    /// The process that runs a handler, by partition.
    running: BTreeMap<u32, u64>,
    begun: BTreeMap<u32, BTreeSet<EntryId>>,
    ended: BTreeSet<(u32, EntryId)>,
    /// When the state of a partition was deleted, and its lease with it: the owner learns of that from its next renewal.
    forgotten: BTreeMap<u32, Instant>,
    violations: Vec<String>,
}

/// A process's view of the truth.
#[derive(Debug, Clone)]
struct Seat {
    process: u64,
    truth: Arc<Mutex<Truth>>,
}

/// Ends with the handler, also with one that is cancelled.
struct Run<'a>(&'a Seat, u32);

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.truth().running.remove(&self.1);
    }
}

impl Seat {
    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    fn begin(&self, ctx: &Context) -> Run<'_> {
        let (partition, id) = (ctx.partition(), ctx.entry_id());
        let mut truth = self.truth();
        let is_forgotten = truth.forgotten.get(&partition).is_some_and(|at| at.elapsed() < LEASE);
        if let Some(other) = truth.running.insert(partition, self.process)
            && !is_forgotten
        {
            let both = format!("partition {partition}: process {} runs {id} while {other} runs another", self.process);
            truth.violations.push(both);
        }
        let begun = truth.begun.entry(partition).or_default();
        let beyond = begun.last().copied().filter(|last| id < *last);
        if begun.insert(id)
            && let Some(beyond) = beyond
        {
            truth.violations.push(format!("partition {partition}: {id} comes after {beyond}"));
        }
        Run(self, partition)
    }

    fn end(&self, ctx: &Context) {
        self.truth().ended.insert((ctx.partition(), ctx.entry_id()));
    }
}

struct Life {
    dice: Dice,
    world: World,
    truth: Arc<Mutex<Truth>>,
    processes: Vec<Process>,
    started: u64,
    published: BTreeSet<(u32, EntryId)>,
    /// The losses that earlier processes reported.
    lost: u64,
    /// The calls that they made again and again without a pause.
    circles: Vec<Op>,
    /// Whether a state was deleted: then a loss is none that was made up.
    cut: bool,
}

fn stream() -> StreamKey {
    StreamKey::new(None, "turns", PARTITIONS)
}

fn group(partition: u32) -> GroupKey {
    stream().partition(partition).group("turns")
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            world: World::new("turns"),
            truth: Arc::default(),
            processes: Vec::new(),
            started: 0,
            published: BTreeSet::new(),
            lost: 0,
            circles: Vec::new(),
            cut: false,
        }
    }

    fn time(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.dice.below(most.as_millis() as u64))
    }

    async fn start(&mut self) {
        self.started += 1;
        let seat = Seat { process: self.started, truth: Arc::clone(&self.truth) };
        let launch = self.world.process(consumers![turn]).state(seat).config(Config::new().lease(LEASE)).apart();
        self.processes.push(launch.seed(self.dice.below(u64::MAX)).start().await);
    }

    /// Takes a process away; the count keeps its losses.
    fn take(&mut self, index: usize) -> Process {
        let process = self.processes.swap_remove(index);
        self.lost += losses(&process);
        self.circles.extend(process.wire.circle());
        process
    }

    async fn publish(&mut self) {
        let turn = Turn { key: self.dice.below(50), millis: self.dice.below(60) };
        let receipt = self.world.publisher().publish(&turn).await.unwrap();
        self.published.insert((receipt.partition, receipt.entry_id));
    }

    fn fault(&mut self) -> Fault {
        match self.dice.below(8) {
            0 => Fault::Fail(BrokerErrorKind::Unavailable),
            1 => Fault::LoseReply,
            2 => Fault::Delay(self.time(LEASE)),
            3 => self.away(),
            _ => Fault::Lag(self.time(LEASE), self.time(LEASE)),
        }
    }

    fn away(&mut self) -> Fault {
        let every = LEASE / 2 + self.time(LEASE * 3);
        Fault::Away(every.mul_f64(self.dice.below(40) as f64 / 100.0), every)
    }

    async fn step(&mut self) {
        let index = self.dice.index(self.processes.len());
        match self.dice.below(100) {
            0..25 => {
                for _ in 0..=self.dice.below(4) {
                    self.publish().await;
                }
            }
            25..34 if self.processes.len() < PROCESSES => self.start().await,
            34..42 if self.processes.len() > 1 => drop(self.take(index)),
            42..47 if self.processes.len() > 1 => {
                self.processes[index].wire.heal();
                let app = self.take(index);
                let _ = app.into_running().shutdown().await;
            }
            47..52 => {
                // Slow to hear: the answers are older than its later acts.
                let (look, claim) = (Fault::Lag(self.time(LEASE / 4), LEASE + self.time(LEASE)), self.time(LEASE / 2));
                let wire = &self.processes[index].wire;
                wire.always(Op::State, look);
                wire.always(Op::Acquire, Fault::Lag(claim / 2, claim / 2));
                wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
            }
            52..67 => {
                const OPS: [Op; 8] =
                    [Op::State, Op::Attend, Op::Acquire, Op::Commit, Op::Renew, Op::Release, Op::Read, Op::Declare];
                // The looks are what all others are judged by.
                let op = if self.dice.below(3) == 0 { Op::State } else { OPS[self.dice.index(OPS.len())] };
                let fault = self.fault();
                let wire = &self.processes[index].wire;
                if self.dice.below(3) == 0 { wire.once(op, fault) } else { wire.always(op, fault) }
            }
            67..85 => self.processes[index].wire.heal(),
            85..92 => {
                self.processes.iter().for_each(|process| process.wire.cut_off());
                let time = self.time(LEASE + LEASE / 2);
                sleep(time).await;
                self.processes.iter().for_each(|process| process.wire.heal());
            }
            92..95 => self.world.store.forget(&stream().members("turns")),
            95 => {
                let partition = self.dice.below(PARTITIONS.into()) as u32;
                self.world.store.forget(group(partition).state());
                self.world.store.unmark(&group(partition));
                self.cut = true;
                self.truth.lock().unwrap().forgotten.insert(partition, Instant::now());
            }
            _ => {}
        }
        let time = self.time(LEASE / 2);
        sleep(time).await;
    }

    /// Waits until every event is handled.
    async fn settle(&mut self) -> Result<(), String> {
        self.processes.iter().for_each(|process| process.wire.heal());
        let began = Instant::now();
        while began.elapsed() < CALM {
            sleep(Duration::from_millis(200)).await;
            self.publish().await;
        }
        while !self.published.is_subset(&self.truth.lock().unwrap().ended) {
            if began.elapsed() >= CALM * 3 {
                let status: Vec<_> = self.processes.iter().map(|process| process.running().status()).collect();
                return Err(format!("events are not handled {CALM:?} after everything was well: {status:#?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// One that owns something dies while no other has its server all the time.
    async fn succeed(&mut self) -> Result<(), String> {
        while self.processes.len() < 2 {
            self.start().await;
        }
        sleep(LEASE * 2).await;
        let (mut longest, whole) = (Duration::ZERO, self.dice.below(2) == 0);
        for index in 0..self.processes.len() {
            let away = self.away();
            if let Fault::Away(_, every) = away {
                longest = longest.max(every);
            }
            let ops: &[Op] = if whole { &Op::ALL } else { &[Op::State, Op::Attend] };
            ops.iter().for_each(|op| self.processes[index].wire.always(*op, away.clone()));
        }
        let died = self.world.store.now().await.unwrap();
        let index = self.dice.index(self.processes.len());
        let owned: Vec<_> = self.processes[index]
            .running()
            .status()
            .groups
            .iter()
            .filter(|status| matches!(status.phase, Phase::Owning { .. }))
            .map(|status| status.partition)
            .collect();
        drop(self.take(index));
        let bound = LEASE * FLAPPING.0 + longest * FLAPPING.1;
        let began = Instant::now();
        for partition in owned {
            // An epoch is the moment of the claim, in the clock of the store.
            while self.world.store.state(&group(partition)).await.unwrap().is_none_or(|state| state.lease.epoch < died)
            {
                if began.elapsed() >= bound {
                    return Err(format!("nobody has followed on partition {partition} after {bound:?}"));
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        self.settle().await
    }

    /// Lives through one history; answers what was wrong.
    async fn live(seed: u64) -> Result<(u64, usize), String> {
        let mut life = Self::new(seed);
        life.start().await;
        for _ in 0..30 {
            life.step().await;
        }
        life.settle().await?;
        life.succeed().await?;
        let lost = life.lost + life.processes.iter().map(losses).sum::<u64>();
        if lost > 0 && !life.cut {
            let last = life.processes.iter().flat_map(|process| process.running().status().groups);
            let last: Vec<_> = last.filter_map(|status| status.last_loss).collect();
            return Err(format!("{lost} losses are told, and nothing is lost: {last:?}"));
        }
        if let Some(op) =
            life.circles.iter().copied().chain(life.processes.iter().filter_map(|of| of.wire.circle())).next()
        {
            return Err(format!("{op:?} is called again and again without a pause"));
        }
        let truth = life.truth.lock().unwrap();
        match truth.violations.first() {
            Some(violation) => Err(format!("{violation}, and {} more", truth.violations.len() - 1)),
            None => Ok((life.started, life.published.len())),
        }
    }
}

fn losses(app: &Process) -> u64 {
    app.running().status().groups.iter().map(|status| status.losses).sum()
}

/// Lives through the histories of these seeds; `MEMBERS_HISTORIES=10000` makes them more, from `MEMBERS_SEED` on.
async fn live_through(seeds: Range<u64>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("MEMBERS_SEED").unwrap_or(seeds.start);
    let histories = number("MEMBERS_HISTORIES").unwrap_or(seeds.end - seeds.start);
    let (mut processes, mut events, mut wrong) = (0, 0, Vec::new());
    for seed in first..first + histories {
        match Life::live(seed).await {
            Ok((started, published)) => (processes, events) = (processes + started, events + published),
            Err(what) => wrong.push(format!("seed {seed}: {what}")),
        }
    }
    println!("{histories} histories, {processes} processes, {events} events, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {histories}: {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
}

#[tokio::test(start_paused = true)]
async fn random_histories_of_processes_have_one_owner_each_no_made_up_loss_and_a_successor_in_time() {
    live_through(0..150).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_ends_with_its_lease_also_while_the_renewals_wait_for_an_answer() {
    let mut life = Life::new(1);
    life.start().await;
    life.processes[0].wire.always(Op::Renew, Fault::Delay(LEASE * 10));
    let turn = Turn { key: 1, millis: (LEASE * 10).as_millis() as u64 };
    let receipt = life.world.publisher().publish(&turn).await.unwrap();
    while !life.truth.lock().unwrap().running.contains_key(&receipt.partition) {
        sleep(LEASE / 100).await;
    }
    // An epoch is the moment of the claim, and whoever has lost its own lease takes it again at once.
    let group = group(receipt.partition);
    let epoch = async || life.world.store.state(&group).await.unwrap().unwrap().lease.epoch;
    let first = epoch().await;
    while epoch().await == first {
        sleep(LEASE / 100).await;
    }
    // A tenth of the lease is kept for clocks that run fast.
    let held = Duration::from_millis(epoch().await - first);
    assert!(held > LEASE / 2 && held <= LEASE * 92 / 100, "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_an_ownership_has_overtaken_is_no_cut_of_history() {
    let mut life = Life::new(1);
    life.start().await;
    sleep(LEASE).await;
    let wire = life.processes[0].wire.clone();
    // Longer than the rest of the owner's lease. The owner takes it again and again, and each look is older than that claim.
    wire.always(Op::State, Fault::Lag(LEASE / 8, LEASE * 3 / 2));
    wire.always(Op::Acquire, Fault::Lag(LEASE / 4, LEASE / 8));
    wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    for _ in 0..400 {
        life.publish().await;
        sleep(LEASE / 10).await;
    }
    assert!(wire.calls(Op::Acquire) > 3 * PARTITIONS as usize, "{} claims", wire.calls(Op::Acquire));
    assert_eq!(losses(&life.processes[0]), 0, "{:?}", life.processes[0].running().status());
    life.settle().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_give_its_lease_back_goes_on_with_its_partition() {
    for seed in 1..20 {
        let mut life = Life::new(seed);
        life.start().await;
        sleep(LEASE).await;
        // Several partitions would be another's: what ends the trouble of one must not set off the next.
        let wire = life.processes[0].wire.clone();
        wire.always(Op::Release, Fault::Fail(BrokerErrorKind::Unavailable));
        life.start().await;
        life.start().await;
        for _ in 0..20 {
            life.publish().await;
            sleep(LEASE / 2).await;
        }
        let (tried, claims) = (wire.calls(Op::Release), wire.calls(Op::Acquire));
        assert!(tried > 0 && tried <= 2 * PARTITIONS as usize, "seed {seed}: {tried} attempts");
        assert!(claims <= 3 * PARTITIONS as usize, "seed {seed}: {claims} claims");
        assert_eq!(wire.circle(), None);
        assert!(life.published.is_subset(&life.truth.lock().unwrap().ended), "seed {seed}");
        // It is tried again, though not soon.
        wire.heal();
        sleep(Duration::from_secs(70)).await;
        assert!(wire.calls(Op::Release) > tried, "seed {seed}");
        life.settle().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_died_is_followed_although_the_server_is_away_again_and_again() {
    // As a share of the lease: how long it is away, and how often.
    for (away, every) in [(0.12, 0.6), (0.3, 0.8), (0.5, 2.0), (1.2, 3.0)] {
        let mut life = Life::new(1);
        life.start().await;
        sleep(LEASE).await;
        life.start().await;
        sleep(LEASE * 3).await;
        let away = Fault::Away(LEASE.mul_f64(away), LEASE.mul_f64(every));
        Op::ALL.into_iter().for_each(|op| life.processes[1].wire.always(op, away.clone()));
        drop(life.take(0));
        life.truth.lock().unwrap().ended.clear();
        let began = Instant::now();
        let followed = |life: &Life| {
            let partitions: BTreeSet<_> = life.truth.lock().unwrap().ended.iter().map(|(of, _)| *of).collect();
            partitions.len() == PARTITIONS as usize
        };
        while !followed(&life) {
            assert!(began.elapsed() < LEASE * 8, "{away:?}");
            life.publish().await;
            sleep(LEASE / 20).await;
        }
    }
}

#[stream_event(stream = "jobs-in-turn")]
#[derive(Debug, Clone, PartialEq)]
struct Job {
    n: u64,
}

#[consumer(group = "pool", delivery = "queue")]
async fn job(job: Job, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, job.n).await
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_consumer_had_in_hand_is_handed_out_although_the_server_is_away_again_and_again() {
    // For less than the lease, and for longer, so that those who live lose theirs each time.
    for (away, every) in [(0.12, 0.6), (0.3, 0.8), (1.2, 2.0)] {
        let world = World::new("jobs-in-turn");
        let lab = &world.lab;
        let start = || world.process(consumers![job]).config(Config::new().lease(LEASE)).apart().start();
        let first = start().await;
        lab.script("pool", 1, [Act::Hang]);
        first.publish(&Job { n: 1 }).await.unwrap();
        lab.called("pool", 1).await;
        let second = start().await;
        second.advance(LEASE).await;
        let away = Fault::Away(LEASE.mul_f64(away), LEASE.mul_f64(every));
        Op::ALL.into_iter().for_each(|op| second.wire.always(op, away.clone()));
        drop(first);
        let began = Instant::now();
        lab.script("pool", 1, []);
        while lab.events("pool").len() < 2 {
            assert!(began.elapsed() < LEASE * 10, "{away:?}");
            second.advance(LEASE / 20).await;
        }
    }
}

#[stream_event(stream = "crowd")]
#[derive(Debug, Clone, PartialEq)]
struct Crowd {
    n: u64,
}

#[consumer(group = "crowd")]
async fn crowd(_: Crowd) {}

#[tokio::test(start_paused = true)]
async fn claims_of_many_groups_do_not_wait_for_each_other_until_their_leases_are_over() {
    const GROUPS: usize = 500;
    let world = World::new("crowd");
    // The event makes every group check whether it still holds its lease.
    world.publish([Crowd { n: 1 }]).await;
    // All of them take twice as long as a lease.
    world.wire.always(Op::Acquire, Fault::InLine(LEASE * 2 / GROUPS as u32));
    let all = in_groups(consumers![crowd][0], GROUPS);
    let app = world.process(all).config(Config::new().lease(LEASE)).start().await;
    let owned = || app.running().status().groups.iter().filter(|of| matches!(of.phase, Phase::Owning { .. })).count();
    let began = Instant::now();
    while owned() < GROUPS {
        assert!(began.elapsed() < LEASE * 4, "{} of {GROUPS} are owned", owned());
        sleep(LEASE / 20).await;
    }
    sleep(LEASE * 2).await;
    assert_eq!((owned(), world.wire.calls(Op::Acquire)), (GROUPS, GROUPS), "each is taken once");
}
