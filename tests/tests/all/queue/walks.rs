//! Random walks over a work queue. Each call goes to a broker, and the [`Model`] checks its answer.
//!
//! `QUEUE_SEED` is the seed of the first walk, and `QUEUE_WALKS` says how many there are; a walk that fails prints its own.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::broker::{
    Acked, Acks, Broker, Change, Chunk, Created, Cursor, Damage, DeadBounds, Events, Fetch, Fetched, Fields, Holder,
    Item, Joined, Judged, Left, Life, Lost, New, Pass, Range, Reclaimed, Renewed, Reset, Until, Wait,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_core::{EntryId, Start};
use streams_runtime::broker::embedded::Dump;
use streams_runtime::broker::{Embedded, Redis};
use streams_tests::RedisServer;
use streams_tests::queue_model::{Checked, End, Model};
use streams_tests::soak::Dice;

const LEASE: Duration = Duration::from_secs(30);
/// Moments lie apart by this, and the clock goes on by it; what waits is due in the middle between two.
const TICK: Duration = Duration::from_secs(20);
const NO_BOUNDS: DeadBounds = DeadBounds { count: u64::MAX, age: Duration::MAX };
/// How many steps of a walk are shown when it fails.
const SHOWN: usize = 14;

fn partition() -> PartitionKey {
    StreamKey::new(None, "jobs", 1).partition(0)
}

fn group() -> GroupKey {
    partition().group("crew").queue()
}

/// A broker, and the hand of an operator on it.
enum Site {
    Embedded(Embedded),
    Redis {
        url: String,
        /// How far the queue's clock is ahead of the server's: moments are moved instead.
        ahead: i64,
    },
}

/// Everything that a site had at a moment.
enum Saved {
    Embedded(Dump),
    Redis { keys: Vec<(String, Vec<u8>)>, ahead: i64 },
}

impl Site {
    fn run<T: redis::FromRedisValue>(url: &str, command: &str) -> T {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query(&mut RedisServer::client(url)).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn trim(&self, floor: EntryId) {
        match self {
            Self::Embedded(broker) => broker.trim(&partition(), floor),
            Self::Redis { url, .. } => drop(Self::run::<redis::Value>(url, &format!("XTRIM jobs MINID {floor}"))),
        }
    }

    fn remove(&self, id: EntryId) {
        match self {
            Self::Embedded(broker) => broker.remove(&partition(), &[id]),
            Self::Redis { url, .. } => drop(Self::run::<redis::Value>(url, &format!("XDEL jobs {id}"))),
        }
    }

    /// Deletes the waiting set.
    fn forget_waiting(&self) {
        match self {
            Self::Embedded(broker) => broker.forget(&group().waiting()),
            Self::Redis { url, .. } => drop(Self::run::<redis::Value>(url, &format!("DEL {}", group().waiting()))),
        }
    }

    /// Takes entries out of the waiting set, as a whole or by one of the two ways in which they stand there. Answers whether it can.
    fn cut_waiting(&self, ids: &[EntryId], half: Option<bool>) -> bool {
        let Self::Redis { url, .. } = self else { return false };
        let key = group().waiting();
        let members: Vec<String> = Self::run(url, &format!("ZRANGE {key} 0 -1"));
        let mut client = RedisServer::client(url);
        for member in members {
            let id = member.split(' ').next().unwrap_or_default();
            let is_by_id = id == member;
            if ids.iter().any(|other| other.to_string() == id) && half.is_none_or(|half| half == is_by_id) {
                redis::cmd("ZREM").arg(&key).arg(member).exec(&mut client).unwrap();
            }
        }
        true
    }

    /// Lets time pass, or sets the clock back.
    async fn go(&mut self, ticks: u32, back: bool) {
        let by = TICK * ticks;
        match self {
            Self::Embedded(broker) if back => broker.turn_back(by),
            Self::Embedded(_) => tokio::time::advance(by).await,
            Self::Redis { url, ahead } => {
                let by = by.as_millis() as i64 * if back { -1 } else { 1 };
                *ahead += by;
                let key = group().waiting();
                let all = format!("ZRANGEBYSCORE {key} (0 (4503599627370496 WITHSCORES");
                let members: Vec<(String, f64)> = Self::run(url, &all);
                let mut client = RedisServer::client(url);
                for (member, score) in members {
                    let score = score as i64 - by;
                    redis::cmd("ZADD").arg(&key).arg("XX").arg(score).arg(member).exec(&mut client).unwrap();
                }
            }
        }
    }

    fn save(&self) -> Saved {
        match self {
            Self::Embedded(broker) => Saved::Embedded(broker.dump()),
            Self::Redis { url, ahead } => {
                let keys: Vec<String> = Self::run(url, "KEYS *");
                let mut client = RedisServer::client(url);
                let dump = |key: String| {
                    let value = redis::cmd("DUMP").arg(&key).query(&mut client).unwrap();
                    (key, value)
                };
                Saved::Redis { keys: keys.into_iter().map(dump).collect(), ahead: *ahead }
            }
        }
    }

    /// Puts everything back; the clock goes on where it is.
    async fn restore(&mut self, saved: &Saved) {
        match (&mut *self, saved) {
            (Self::Embedded(broker), Saved::Embedded(dump)) => broker.restore(dump, None),
            (Self::Redis { url, ahead }, Saved::Redis { keys, ahead: then }) => {
                Self::run::<redis::Value>(url, "FLUSHDB");
                let mut client = RedisServer::client(url);
                for (key, value) in keys {
                    redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut client).unwrap();
                }
                let by = *ahead - then;
                *ahead = *then;
                self.go(u32::try_from(by.unsigned_abs()).unwrap() / TICK.as_millis() as u32, by < 0).await;
            }
            _ => unreachable!("a site is saved and restored"),
        }
    }

    /// Puts one key back, and nothing else.
    fn restore_key(&self, saved: &Saved, key: &str) {
        match (self, saved) {
            (Self::Embedded(broker), Saved::Embedded(dump)) if key == partition().as_str() => {
                broker.restore(dump, Some(&partition()));
            }
            (Self::Embedded(broker), Saved::Embedded(dump)) => broker.restore_waiting(dump, &group()),
            (Self::Redis { url, .. }, Saved::Redis { keys, .. }) => {
                let mut client = RedisServer::client(url);
                redis::cmd("DEL").arg(key).exec(&mut client).unwrap();
                for (_, value) in keys.iter().filter(|(name, _)| name == key) {
                    redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut client).unwrap();
                }
            }
            _ => unreachable!("a site is saved and restored"),
        }
    }

    /// Deletes the stream, or the state of the queue.
    fn forget(&self, key: &str) {
        match self {
            Self::Embedded(broker) if key == partition().as_str() => broker.delete(&partition()),
            Self::Embedded(broker) => broker.forget(key),
            Self::Redis { url, .. } => drop(Self::run::<redis::Value>(url, &format!("DEL {key}"))),
        }
    }

    fn ahead(&self) -> i64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Redis { ahead, .. } => *ahead,
        }
    }
}

/// A call that was sent, to be sent again later.
#[derive(Debug, Clone)]
enum Sent {
    Fetch(Fetch, Vec<EntryId>),
    Ack(Acks),
    Pass(String, Pass),
    Mend(String, Damage, Option<Lost>),
}

/// The answer to a call.
struct Answer {
    fetched: Option<Fetched>,
    acked: Option<Acked>,
}

#[derive(Debug, Clone)]
struct Client {
    holder: Holder,
    fetch: u64,
    ack: u64,
}

/// Counts of events in walks, which show that the walks go everywhere.
#[derive(Debug, Default)]
struct Seen {
    chunks: u64,
    again: u64,
    known: u64,
    unsure: u64,
    lost: u64,
    damaged: u64,
    full: u64,
    declared: u64,
    fenced: u64,
    contended: u64,
    pages: u64,
    reclaimed: u64,
    restored: u64,
    streams: u64,
    stale: u64,
    keys: u64,
    drained: u64,
    untold: u64,
    /// Entries that went while they were in flight, and were reported.
    gone: u64,
}

struct Walk {
    dice: Dice,
    site: Site,
    broker: Arc<dyn Broker>,
    model: Model,
    /// Every entry that was ever added.
    all: BTreeSet<EntryId>,
    clients: Vec<Client>,
    joined: u64,
    tokens: u64,
    sent: Vec<Sent>,
    saved: Option<(Saved, Model, BTreeSet<EntryId>)>,
    trace: Vec<String>,
    seen: Seen,
}

fn fields(event: &str) -> Fields {
    let mut fields = vec![(b"event".to_vec(), b"Job".to_vec()), (b"payload".to_vec(), b"x".to_vec())];
    if !event.is_empty() {
        fields.push((b"id".to_vec(), event.as_bytes().to_vec()));
    }
    fields
}

impl Walk {
    async fn new(site: Site, broker: Arc<dyn Broker>, seed: u64, slack: Duration) -> Self {
        assert_eq!(broker.create(&group(), Start::Earliest).await.unwrap(), Created::Made);
        Self {
            dice: Dice::new(seed),
            site,
            broker,
            model: Model::new(slack),
            all: BTreeSet::new(),
            clients: Vec::new(),
            joined: 0,
            tokens: 0,
            sent: Vec::new(),
            saved: None,
            trace: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// The queue's clock.
    async fn now(&self) -> u64 {
        let now = self.broker.now().await.unwrap();
        now.saturating_add_signed(self.site.ahead())
    }

    fn one_of(&mut self, many: u64) -> bool {
        self.dice.below(many) == 0
    }

    fn client(&mut self) -> Option<Client> {
        if self.clients.is_empty() {
            return None;
        }
        let index = self.dice.index(self.clients.len());
        Some(self.clients[index].clone())
    }

    fn tell(&mut self, call: &impl Debug, answer: &impl Debug) {
        self.trace.push(format!("{call:?}\n      => {answer:?}"));
    }

    async fn publish(&mut self) -> Checked {
        let count = 1 + self.dice.below(8);
        // No id comes a second time, or below the cursor, where the stream was put back and the clock stands before that.
        let newest = self.all.last().copied().unwrap_or_default().max(self.model.cursor.at);
        while self.model.last < newest && self.broker.now().await.unwrap() <= newest.ms {
            self.site.go(1, false).await;
        }
        for _ in 0..count {
            let event = if self.one_of(6) { String::new() } else { format!("e{}", self.all.len()) };
            let ids = self.broker.append(&partition(), vec![fields(&event)], None).await.unwrap();
            self.model.add(ids[0], &event);
            self.all.insert(ids[0]);
        }
        let last = self.all.last().copied();
        self.tell(&("publish", count), &last);
        Ok(())
    }

    async fn join(&mut self) -> Checked {
        self.joined += 1;
        let owner = format!("c{}", self.joined);
        let Joined::Member { epoch } = self.broker.join(&group(), &owner, LEASE).await.unwrap() else {
            return Err("not joined".to_owned());
        };
        self.tell(&("join", &owner), &epoch);
        self.model.join(&owner, epoch)?;
        if self.one_of(4) {
            let again = self.broker.join(&group(), &owner, LEASE).await.unwrap();
            if again != (Joined::Member { epoch }) {
                return Err(format!("joined twice: {again:?}"));
            }
        }
        self.clients.push(Client { holder: Holder { owner, epoch }, fetch: 0, ack: 0 });
        Ok(())
    }

    fn takes(&mut self) -> Events {
        let names = ["A", "B", "C"].into_iter().map(str::to_owned);
        names.filter_map(|name| self.one_of(2).then(|| (name, 1 + self.dice.below(3) as u32))).collect()
    }

    async fn fetch(&mut self) -> Checked {
        let Some(client) = self.client() else { return Ok(()) };
        let count = if self.one_of(12) { 0 } else { 1 + self.dice.index(9) };
        let ticks = [0, 5, 50][self.dice.index(3)];
        let from = self.model.cursor.at;
        let next = self.model.unread(1).first().copied();
        let mut known = Vec::new();
        let new = match self.dice.below(10) {
            0 => New::Nothing,
            1..=5 => New::Read { judged: None },
            6..=7 => New::Read {
                judged: next.map(|next| Judged { at: from, next: if self.one_of(5) { next.next() } else { next } }),
            },
            _ => {
                known = self.model.unread(1 + self.dice.index(6));
                // An entry that was there at the read may go before the fetch.
                if self.one_of(4) {
                    self.go_away().await?;
                }
                match known.last() {
                    None => New::Nothing,
                    Some(&to) => {
                        let to_event = self.model.stream.get(&to).cloned().unwrap_or_default();
                        let from = if self.one_of(8) { from.next() } else { from };
                        New::Known { from, to, to_event, number: known.len() as u64 }
                    }
                }
            }
        };
        // One number may be left out, as by a client that has heard of a later history.
        let call = client.fetch + if self.one_of(12) { 2 } else { 1 };
        let mut fetch = Fetch {
            holder: client.holder.clone(),
            call,
            count,
            bytes: usize::MAX,
            new,
            takes: self.takes(),
            most_waiting: if self.one_of(4) { self.dice.below(6) } else { 10_000 },
            longest_wait: TICK * ticks,
            mirror: self.one_of(3),
            go_on: self.one_of(2),
        };
        if let Some(open) = self.model.open(&fetch, self.now().await) {
            fetch.count = fetch.count.max(open);
        }
        let answer = self.send(&Sent::Fetch(fetch.clone(), known.clone())).await?.fetched;
        self.sent.push(Sent::Fetch(fetch.clone(), known));
        match answer {
            Some(Fetched::Chunk(_)) => self.note(&client.holder, |client| client.fetch = call),
            // One that has left out a number goes on with the right one.
            Some(Fetched::Fenced) if call == client.fetch + 1 => {
                self.clients.retain(|other| other.holder != client.holder);
            }
            Some(Fetched::Unsure(cursor)) => {
                self.seen.unsure += 1;
                if self.one_of(2) {
                    self.pass(cursor).await?;
                }
            }
            Some(Fetched::Damaged(damage)) => {
                self.seen.damaged += 1;
                if self.one_of(2) {
                    self.mend(damage).await?;
                }
            }
            Some(Fetched::Lost { .. }) => self.seen.lost += 1,
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, holder: &Holder, note: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.holder == *holder) {
            note(client);
        }
    }

    /// Sends a call, and has its answer checked.
    async fn send(&mut self, sent: &Sent) -> Result<Answer, String> {
        match sent {
            Sent::Fetch(fetch, known) => {
                let now = self.now().await;
                let answer = self.broker.fetch(&group(), fetch).await.unwrap();
                self.tell(fetch, &answer);
                self.model.fetch(fetch, known, &answer, now)?;
                if let Fetched::Chunk(chunk) = &answer {
                    self.seen.chunks += 1;
                    self.seen.again += chunk.again.len() as u64;
                    self.seen.known += u64::from(matches!(fetch.new, New::Known { .. }) && chunk.number > 0);
                }
                self.seen.fenced += u64::from(answer == Fetched::Fenced);
                Ok(Answer { fetched: Some(answer), acked: None })
            }
            Sent::Pass(token, pass) => {
                let answer = self.broker.pass(&group(), token, pass).await.unwrap();
                self.tell(&(token, pass), &answer);
                self.model.pass(token, pass, answer)?;
                Ok(Answer { fetched: None, acked: None })
            }
            Sent::Mend(token, damage, halts) => {
                let answer = self.broker.mend(&group(), token, damage, halts.as_ref()).await.unwrap();
                self.tell(&(token, damage, halts), &answer);
                self.model.mend(token, damage, *halts, answer)?;
                Ok(Answer { fetched: None, acked: None })
            }
            Sent::Ack(acks) => {
                let now = self.now().await;
                let answer = self.broker.ack(&group(), acks).await.unwrap();
                self.tell(acks, &answer);
                self.model.ack(acks, &answer, now)?;
                match &answer {
                    Acked::Full(_) => self.seen.full += 1,
                    Acked::Declared { .. } => self.seen.declared += 1,
                    Acked::Damaged(_) => self.seen.damaged += 1,
                    Acked::Fenced => self.seen.fenced += 1,
                    Acked::Done => {}
                }
                Ok(Answer { fetched: None, acked: Some(answer) })
            }
        }
    }

    /// As the runtime does that has looked: goes over what is gone, and records it or not.
    async fn pass(&mut self, from: Cursor) -> Checked {
        let unread = self.model.unread(usize::MAX);
        let at = unread.first().map_or(*self.all.last().unwrap_or(&EntryId::ZERO), |next| next.previous());
        let seen = Some(self.model.added - unread.len() as u64);
        let halts = self.one_of(2).then_some(Lost { deleted: false, from: from.at, to: at, count: 1 });
        let from = if self.one_of(6) { Cursor { seen: Some(1_000_000), ..from } } else { from };
        let pass = Pass { from, to: Cursor { at, at_event: String::new(), seen }, halts };
        let sent = Sent::Pass(self.token(), pass);
        self.sent.push(sent.clone());
        self.send(&sent).await.map(drop)
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        self.tokens.to_string()
    }

    async fn mend(&mut self, damage: Damage) -> Checked {
        let damage = if self.one_of(6) { Damage { found: damage.found + 1, ..damage } } else { damage };
        let count = damage.recorded - damage.found.min(damage.recorded);
        let to = self.model.cursor.at;
        let halts = self.one_of(2).then_some(Lost { deleted: true, from: EntryId::ZERO, to, count });
        let sent = Sent::Mend(self.token(), damage, halts);
        self.sent.push(sent.clone());
        self.send(&sent).await.map(drop)
    }

    /// Picks the end of every entry of a chunk.
    fn left(&mut self, epoch: u64, call: u64, acks: &mut Acks) -> Left {
        let mut again = Vec::new();
        let mut kept = BTreeSet::new();
        let items = self.model.in_flight(epoch, call);
        let range: BTreeSet<_> = self.model.range(epoch, call);
        for item in items {
            let is_new = range.contains(&item.id);
            let Item { id, failed, crashes, .. } = item;
            let back = |failed, until| Wait { id, failed, crashes, until };
            match self.dice.below(16) {
                0..=4 if is_new => drop(kept.insert(id)),
                0..=4 => again.push(item),
                5 => again.push(Item { failed: failed + 1, charged: self.one_of(2), ..item }),
                6 => again.push(Item { charged: true, ..item }),
                7 => acks.back.push(back(failed, Until::After(Duration::ZERO))),
                8 => acks.back.push(back(failed + 1, Until::After(TICK * self.dice.below(12) as u32 + TICK / 2))),
                9 => {
                    let name = ["A", "B", "C"][self.dice.index(3)].to_owned();
                    acks.back.push(back(failed, Until::Needs { name, version: 1 + self.dice.below(3) as u32 }));
                }
                10 => acks.dead.push(fields("dead")),
                11 if self.one_of(2) => acks.passed_over.push(["X", "Y", "Z"][self.dice.index(3)].to_owned()),
                _ => {}
            }
        }
        let to = kept.last().copied();
        let range = to.map(|to| {
            let lowest = kept.first().map_or(to, |first| *first).previous();
            let after = if self.one_of(2) { lowest } else { self.model.after(epoch, call) };
            let within = self.all.range(after.next()..=to);
            let except = within.copied().filter(|id| !kept.contains(id)).collect();
            Range { after, to, number: kept.len() as u64, except }
        });
        Left { range, again }
    }

    async fn ack(&mut self) -> Checked {
        let Some(client) = self.client() else { return Ok(()) };
        let call = client.ack + if self.one_of(12) { 2 } else { 1 };
        let bounds = DeadBounds { count: self.model.dead + self.dice.below(3), ..NO_BOUNDS };
        let mut acks = Acks {
            holder: client.holder.clone(),
            call,
            chunks: Vec::new(),
            back: Vec::new(),
            error: None,
            dead: Vec::new(),
            dead_bounds: if self.one_of(4) { bounds } else { NO_BOUNDS },
            passed_over: Vec::new(),
        };
        for chunk in self.model.chunks(client.holder.epoch) {
            if !self.one_of(3) {
                let left = self.left(client.holder.epoch, chunk, &mut acks);
                acks.chunks.push((chunk, left));
            }
        }
        acks.passed_over.sort();
        acks.passed_over.dedup();
        self.sent.push(Sent::Ack(acks.clone()));
        let answer = self.send(&Sent::Ack(acks.clone())).await?;
        if answer.acked == Some(Acked::Done) {
            self.note(&client.holder, |client| client.ack = call);
        }
        if answer.acked == Some(Acked::Fenced) && call == client.ack + 1 {
            self.clients.retain(|other| other.holder != client.holder);
        }
        Ok(())
    }

    /// Sends a call once more: the latest, whose answer was lost, or an old one, which a network has held back.
    async fn late(&mut self) -> Checked {
        if self.sent.is_empty() {
            return Ok(());
        }
        let latest = self.sent.len() - 1;
        let index = if self.one_of(2) { latest } else { self.dice.index(self.sent.len()) };
        let sent = self.sent[index].clone();
        let is_safe = match &sent {
            Sent::Fetch(fetch, known) => {
                let is_old = self.model.calls(&fetch.holder).is_none_or(|(last, _)| fetch.call <= last);
                // One that comes for the first time is as a new one; but what was known then may be of another history.
                is_old || (self.model.open(fetch, self.now().await).is_none() && known.is_empty())
            }
            // One that is taken up for the first time has to speak of what is in flight now.
            Sent::Ack(acks) => {
                let is_next = self.model.calls(&acks.holder).is_some_and(|(_, last)| acks.call == last + 1);
                !is_next || !self.model.has_chunks(acks) || self.model.fits(acks)
            }
            // In another history there may be entries where there were none.
            Sent::Pass(_, pass) => {
                pass.from.at != self.model.cursor.at || self.model.unread(1).iter().all(|next| *next > pass.to.at)
            }
            Sent::Mend(..) => true,
        };
        if is_safe { self.send(&sent).await.map(drop) } else { Ok(()) }
    }

    async fn renew(&mut self) -> Checked {
        let Some(client) = self.client() else { return Ok(()) };
        let mut renewer = self.broker.renewer().await.unwrap();
        let renewed = renewer.renew(&[(group(), client.holder.clone())]).await.unwrap();
        self.tell(&("renew", &client.holder), &renewed);
        self.model.renew(&client.holder, matches!(renewed[0], Renewed::Held { .. }))
    }

    async fn release(&mut self) -> Checked {
        let Some(client) = self.client() else { return Ok(()) };
        let answer = self.broker.release(&group(), &client.holder, None).await.unwrap();
        self.tell(&("release", &client.holder), &answer);
        self.model.release(&client.holder, answer)
    }

    async fn reclaim(&mut self) -> Checked {
        let owners: Vec<_> = self.model.members.keys().cloned().collect();
        if owners.is_empty() {
            return Ok(());
        }
        // Those who were begun are gone on with.
        let begun = self.model.members.iter().find(|(_, member)| !member.lives).map(|(owner, _)| owner.clone());
        let owner = match begun {
            Some(begun) if !self.one_of(3) => begun,
            _ => owners[self.dice.index(owners.len())].clone(),
        };
        let mut life = self.model.members[&owner].life.clone().unwrap_or(Life::Dead { lost: None });
        if self.one_of(5) {
            life = match life {
                Life::Beats { epoch, beat, lease_for } => {
                    Life::Beats { epoch, beat: beat.saturating_sub(1), lease_for }
                }
                _ => Life::Beats { epoch: 1, beat: 1, lease_for: LEASE },
            };
        }
        let count = [0, 1, 2, 5, 100][self.dice.index(5)];
        self.reclaims(&owner, &life, count).await.map(drop)
    }

    async fn reclaims(&mut self, owner: &str, life: &Life, count: usize) -> Result<Reclaimed, String> {
        let answer = self.broker.reclaim(&group(), owner, life, count).await.unwrap();
        self.tell(&("reclaim", owner, life, count), &answer);
        self.model.reclaim(owner, life, count, &answer)?;
        if let Reclaimed::Some { lost: Some(lost), .. } = answer {
            self.seen.gone += lost.count;
        }
        match answer {
            Reclaimed::Contended => self.seen.contended += 1,
            Reclaimed::Some { .. } => self.seen.pages += 1,
            Reclaimed::All { .. } => self.seen.reclaimed += 1,
            Reclaimed::Damaged(_) => self.seen.damaged += 1,
        }
        Ok(answer)
    }

    /// Entries go: a trim, or one by itself.
    async fn go_away(&mut self) -> Checked {
        let ids: Vec<_> = self.model.stream.keys().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        // Mostly near the beginning, as retention does.
        let most = if self.one_of(6) { ids.len() } else { ids.len().min(4) };
        let id = ids[self.dice.index(most)];
        if self.one_of(3) {
            let floor = if self.one_of(8) { ids[ids.len() - 1].next() } else { id };
            self.site.trim(floor);
            self.model.take_away(|other| other < floor);
            self.tell(&"trim", &floor);
        } else {
            self.site.remove(id);
            self.model.take_away(|other| other == id);
            self.tell(&"delete", &id);
        }
        Ok(())
    }

    /// The waiting set goes, or a part of it.
    fn damage(&mut self) {
        let ids = self.model.waiting();
        let some: Vec<_> = ids.into_iter().filter(|_| self.one_of(3)).collect();
        let half = self.one_of(2).then(|| self.one_of(2));
        if self.model.damage.is_none() && self.one_of(2) && self.site.cut_waiting(&some, half) {
            self.model.forget_waiting(|id| some.contains(&id));
            self.tell(&"the waiting set is cut", &(some, half));
        } else {
            self.site.forget_waiting();
            self.model.forget_waiting(|_| true);
            self.tell(&"the waiting set is deleted", &());
        }
    }

    async fn declare(&mut self) -> Checked {
        let name = ["X", "Y", "Z"][self.dice.index(3)].to_owned();
        let mut change = Change::default();
        if self.one_of(2) {
            self.model.events.insert(name.clone());
            change.declares.insert(name, 1);
        } else {
            self.model.events.remove(&name);
            change.forgets.push(name);
        }
        let answer = self.broker.declare_events(&group(), &change).await.unwrap();
        self.tell(&change, &answer);
        Ok(())
    }

    async fn set_back(&mut self) -> Checked {
        match self.saved.take() {
            Some((saved, model, all)) if self.one_of(3) => {
                self.site.restore(&saved).await;
                (self.model, self.all) = (model, all);
                self.tell(&"history is set back", &self.all.len());
                self.seen.restored += 1;
            }
            _ => {
                self.saved = Some((self.site.save(), self.model.clone(), self.all.clone()));
                self.tell(&"history is saved", &self.all.len());
            }
        }
        Ok(())
    }

    /// The stream is put back as it was, and nothing else: what was added since is gone.
    async fn set_stream_back(&mut self) -> Checked {
        let can = |then: &Model| self.model.can_set_stream_back(then);
        let Some((saved, then, _)) = self.saved.as_ref().filter(|(_, then, _)| can(then)) else { return Ok(()) };
        self.site.restore_key(saved, partition().as_str());
        self.model.set_stream_back(then);
        self.seen.streams += 1;
        self.tell(&"the stream is set back", &self.model.stream.len());
        Ok(())
    }

    /// The waiting set alone is put back as it was: that is reported, and no fetch gives its entries out.
    async fn set_waiting_back(&mut self) -> Checked {
        let (Some(client), None) = (self.client(), self.model.damage) else { return Ok(()) };
        let Some((saved, then, _)) = self.saved.as_ref().filter(|(_, then, _)| then.damage.is_none()) else {
            return Ok(());
        };
        self.site.restore_key(saved, &group().waiting());
        let Some(state) = self.broker.queue(&group()).await.unwrap() else { return Err("no queue".to_owned()) };
        self.model.check_stale(then, state.damage)?;
        if let Some(damage) = state.damage {
            let (call, holder) = (client.fetch + 1, client.holder.clone());
            let fetch = Fetch { go_on: true, ..self.of_new(holder, call) };
            if self.model.calls(&client.holder).is_some_and(|(last, _)| call == last + 1) {
                let answer = self.broker.fetch(&group(), &fetch).await.unwrap();
                if answer != Fetched::Damaged(damage) {
                    return Err(format!("{damage:?} is not found: {answer:?}"));
                }
            }
            self.seen.stale += 1;
        }
        self.site.forget_waiting();
        self.model.forget_waiting(|_| true);
        self.tell(&"a waiting set of before is found and deleted", &state.damage);
        Ok(())
    }

    fn of_new(&self, holder: Holder, call: u64) -> Fetch {
        Fetch {
            holder,
            call,
            count: 3,
            bytes: usize::MAX,
            new: New::Read { judged: None },
            takes: Events::new(),
            most_waiting: 10_000,
            longest_wait: TICK,
            mirror: false,
            go_on: false,
        }
    }

    /// A key is deleted: nobody is given anything, whoever looks finds it, and nothing else changes.
    async fn without_a_key(&mut self) -> Checked {
        let Some(client) = self.client() else { return Ok(()) };
        let (saved, broker) = (self.site.save(), Arc::clone(&self.broker));
        let (is_state, group, partition) = (self.one_of(2), group(), partition());
        self.site.forget(if is_state { group.state() } else { partition.as_str() });
        let state = broker.queue(&group).await.unwrap();
        let fetched = broker.fetch(&group, &self.of_new(client.holder.clone(), client.fetch + 1)).await.unwrap();
        let joined = broker.join(&group, "late", LEASE).await.unwrap();
        let is_told = match is_state {
            true => fetched == Fetched::Missing && joined == Joined::Missing,
            false => {
                let is_empty = |chunk: &Chunk| chunk.new.is_empty() && chunk.again.is_empty();
                !matches!(&fetched, Fetched::Chunk(chunk) if !is_empty(chunk))
                    && joined == (Joined::Vanished { at: self.model.cursor.at })
            }
        };
        if state.is_some() || !is_told {
            return Err(format!("without its key: {state:?}, {fetched:?}, {joined:?}"));
        }
        self.site.restore(&saved).await;
        self.seen.keys += 1;
        self.tell(&"a key is deleted and comes back", &is_state);
        Ok(())
    }

    async fn reset(&mut self) -> Checked {
        let epoch = self.broker.state(&group()).await.unwrap().unwrap().lease.epoch;
        let ids: Vec<_> = self.all.iter().copied().collect();
        let start =
            if ids.is_empty() || self.one_of(4) { Start::Earliest } else { Start::At(ids[self.dice.index(ids.len())]) };
        let Reset::Done { at } = self.broker.reset(&group(), Some(epoch), start).await.unwrap() else {
            return Err("not reset".to_owned());
        };
        let epoch = self.broker.state(&group()).await.unwrap().unwrap().lease.epoch;
        self.tell(&("reset", start), &(at, epoch));
        self.model.reset(at, epoch, &self.all);
        self.clients.clear();
        Ok(())
    }

    /// One step, then a look.
    async fn step(&mut self) -> Checked {
        match self.dice.below(1000) {
            0..180 => self.publish().await?,
            180..240 if self.clients.len() < 4 => self.join().await?,
            240..480 => self.fetch().await?,
            480..680 => self.ack().await?,
            680..760 => self.late().await?,
            760..780 => self.renew().await?,
            // It ends without a word, though its calls may still be on the way.
            780..800 if !self.clients.is_empty() => {
                let index = self.dice.index(self.clients.len());
                let client = self.clients.remove(index);
                self.tell(&"gone", &client);
            }
            800..880 => self.reclaim().await?,
            880..890 => self.release().await?,
            890..920 => self.go_away().await?,
            920..926 => self.damage(),
            926..940 => {
                if let Some(damage) = self.model.damaged() {
                    self.mend(damage).await?;
                }
            }
            940..960 if self.model.lost.is_some() || self.one_of(10) => {
                let answer = self.broker.resume(&group()).await.unwrap();
                self.tell(&"resume", &answer);
                self.model.resume();
            }
            960..965 => self.declare().await?,
            965..985 => {
                let ticks = 1 + self.dice.below(8) as u32;
                self.site.go(ticks, false).await;
                self.tell(&"ticks", &ticks);
            }
            985..988 => {
                let ticks = 1 + self.dice.below(60) as u32;
                self.site.go(ticks, true).await;
                self.tell(&"ticks back", &ticks);
            }
            988..996 => self.set_back().await?,
            996 => self.reset().await?,
            997 => self.set_stream_back().await?,
            998 => self.set_waiting_back().await?,
            999 => self.without_a_key().await?,
            _ => {}
        }
        self.look().await
    }

    async fn look(&mut self) -> Checked {
        self.model.pass_over(&self.all);
        let now = self.now().await;
        let Some(state) = self.broker.queue(&group()).await.unwrap() else { return Err("no queue".to_owned()) };
        let looked = self.model.look(&state, now);
        looked.map_err(|error| format!("{error}\n    in {state:?}"))?;
        let consumed = self.broker.consumed(&partition()).await.unwrap();
        self.model.check_consumed(consumed.as_ref())?;
        self.model.check(&self.all)
    }

    /// Everything that is not settled is given out in the end, with its attempts and crashes.
    async fn drain(&mut self) -> Checked {
        self.seen.drained += 1;
        self.trace.push("drain".to_owned());
        if let Some(damage) = self.model.damaged() {
            let token = self.token();
            self.send(&Sent::Mend(token, damage, None)).await?;
        }
        while let Some((owner, member)) = self.model.members.iter().next() {
            let (owner, life) = (owner.clone(), member.life.clone().unwrap_or(Life::Dead { lost: None }));
            self.reclaims(&owner, &life, 7).await?;
            self.look().await?;
        }
        self.clients.clear();
        self.join().await?;
        self.look().await?;
        let holder = self.clients[0].holder.clone();
        let takes: Events = ["A", "B", "C"].into_iter().map(|name| (name.to_owned(), u32::MAX)).collect();
        let next = self.model.unread(1).first().copied();
        let fetch = Fetch {
            holder: holder.clone(),
            call: 1,
            count: 10_000,
            bytes: usize::MAX,
            new: New::Read { judged: next.map(|next| Judged { at: self.model.cursor.at, next }) },
            takes,
            most_waiting: u64::MAX,
            longest_wait: Duration::ZERO,
            mirror: false,
            go_on: true,
        };
        let unsettled: Vec<_> = self.model.unread(usize::MAX);
        let answer = self.send(&Sent::Fetch(fetch.clone(), Vec::new())).await?.fetched;
        self.look().await?;
        if let Some(Fetched::Unsure(_)) = answer {
            // The stream is empty, and so is what is behind the cursor.
            self.send(&Sent::Fetch(Fetch { new: New::Nothing, ..fetch }, Vec::new())).await?;
            self.look().await?;
        }
        let state = self.broker.queue(&group()).await.unwrap().unwrap();
        let in_flight = state.consumers[0].in_flight;
        if state.waiting > 0 || !self.model.unread(1).is_empty() || in_flight < unsettled.len() as u64 {
            return Err(format!("not drained: {state:?}"));
        }
        Ok(())
    }

    async fn drain_and_restore(&mut self) -> Checked {
        let (saved, model, all) = (self.site.save(), self.model.clone(), self.all.clone());
        let clients = self.clients.clone();
        self.drain().await?;
        self.site.restore(&saved).await;
        (self.model, self.all, self.clients) = (model, all, clients);
        self.trace.push("restored".to_owned());
        self.look().await
    }

    async fn walk(&mut self, steps: u64, drains: u64) -> Checked {
        for _ in 0..steps {
            self.step().await?;
            if drains > 0 && self.one_of(drains) {
                self.drain_and_restore().await?;
            }
        }
        self.drain().await?;
        self.seen.untold = self.model.count(End::Untold) as u64;
        Ok(())
    }

    /// Walks, and shows the last steps where something is wrong.
    async fn run(mut self, seed: u64, steps: u64, drains: u64) -> Seen {
        if let Err(error) = self.walk(steps, drains).await {
            let shown = self.trace.len().saturating_sub(SHOWN);
            let last = self.trace[shown..].join("\n    ");
            panic!("QUEUE_SEED={seed}, step {}: {error}\n    {last}", self.trace.len());
        }
        self.seen
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.chunks += other.chunks;
        self.again += other.again;
        self.known += other.known;
        self.unsure += other.unsure;
        self.lost += other.lost;
        self.damaged += other.damaged;
        self.full += other.full;
        self.declared += other.declared;
        self.fenced += other.fenced;
        self.contended += other.contended;
        self.pages += other.pages;
        self.reclaimed += other.reclaimed;
        self.restored += other.restored;
        self.streams += other.streams;
        self.stale += other.stale;
        self.keys += other.keys;
        self.drained += other.drained;
        self.untold += other.untold;
        self.gone += other.gone;
    }
}

#[tokio::test(start_paused = true)]
async fn the_embedded_broker_agrees_with_the_model_at_every_step() {
    let (first, walks) = (number("QUEUE_SEED", 1), number("QUEUE_WALKS", 200));
    let mut seen = Seen::default();
    for seed in first..first + walks {
        let store = Embedded::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let walk = Walk::new(Site::Embedded(store.clone()), Arc::new(store), seed, Duration::ZERO).await;
        seen.add(&walk.run(seed, 300, 25).await);
    }
    println!("{walks} walks: {seen:?}");
}

#[tokio::test]
async fn redis_agrees_with_the_model_at_every_step() {
    let (first, walks) = (number("QUEUE_SEED", 1), number("QUEUE_WALKS", 4));
    let mut seen = Seen::default();
    let url = RedisServer::shared().database();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&url).unwrap());
    for seed in first..first + walks {
        Site::run::<redis::Value>(&url, "FLUSHDB");
        let site = Site::Redis { url: url.clone(), ahead: 0 };
        let walk = Walk::new(site, Arc::clone(&broker), seed, Duration::from_secs(5)).await;
        seen.add(&walk.run(seed, 150, 50).await);
    }
    println!("{walks} walks: {seen:?}");
}

/// A consumer releases an entry, history is set back to before that, and the consumer goes on with the rest of the chunk.
async fn goes_on_over_lost_acks(mut site: Site, broker: Arc<dyn Broker>) {
    broker.create(&group(), Start::Earliest).await.unwrap();
    let ids = broker.append(&partition(), vec![fields("a"), fields("b")], None).await.unwrap();
    let Joined::Member { epoch } = broker.join(&group(), "one", LEASE).await.unwrap() else { panic!("not joined") };
    let holder = Holder { owner: "one".to_owned(), epoch };
    let fetch = Fetch {
        holder: holder.clone(),
        call: 1,
        count: 2,
        bytes: usize::MAX,
        new: New::Read { judged: None },
        takes: Events::new(),
        most_waiting: 10,
        longest_wait: LEASE,
        mirror: false,
        go_on: false,
    };
    assert!(matches!(broker.fetch(&group(), &fetch).await.unwrap(), Fetched::Chunk(chunk) if chunk.number == 2));
    let saved = site.save();
    let range = Range { after: ids[0], to: ids[1], number: 1, except: Vec::new() };
    let mut acks = Acks {
        holder,
        call: 1,
        chunks: vec![(1, Left { range: Some(range), again: Vec::new() })],
        back: vec![Wait { id: ids[0], failed: 1, crashes: 0, until: Until::After(Duration::ZERO) }],
        error: None,
        dead: Vec::new(),
        dead_bounds: NO_BOUNDS,
        passed_over: Vec::new(),
    };
    assert_eq!(broker.ack(&group(), &acks).await.unwrap(), Acked::Done);
    site.restore(&saved).await;
    (acks.call, acks.chunks, acks.back) = (2, vec![(1, Left::default())], Vec::new());
    let answer = broker.ack(&group(), &acks).await.unwrap();
    let state = broker.queue(&group()).await.unwrap().unwrap();
    assert!(state.unsettled() > 0, "{answer:?}: {} is nowhere, and nobody is told: {state:?}", ids[0]);
}

#[tokio::test(start_paused = true)]
async fn the_embedded_broker_loses_nothing_to_acks_that_are_lost() {
    let store = Embedded::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    goes_on_over_lost_acks(Site::Embedded(store.clone()), Arc::new(store)).await;
}

#[tokio::test]
async fn redis_loses_nothing_to_acks_that_are_lost() {
    let url = RedisServer::shared().database();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&url).unwrap());
    goes_on_over_lost_acks(Site::Redis { url, ahead: 0 }, broker).await;
}
