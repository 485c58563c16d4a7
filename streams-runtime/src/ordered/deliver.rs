//! From entries to settled events, in order: takes each entry up, has its handler called, and settles it; the heart of the runtime.
//!
//! [`Source`] brings the entries, [`attempt`](super::attempt) calls the handler, and [`commit`](super::commit) tells the server. Where
//! events run beside others, [`advance`](super::advance) calls.

use std::collections::BTreeSet;
use std::sync::Arc;

use streams_core::broker::Holding;
use streams_core::{Entry, OnDataLoss};
use tokio::time::Instant;

use super::attempt::{Apart, Delivery};
use super::batch::{Gathering, Held, Parts};
use super::commit::{Committer, End};
use super::dispatch::{Beside, Dispatch};
use super::hand::InHand;
use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::clock::after;
use crate::group::{Ended, GroupTask, Halt, Letter, Replays, Settlement, Taker, caught, given_up};
use crate::membership::Lease;
use crate::ops::{Cause, Matter};
use crate::reader::{Arrived, Source};
use crate::shutdown::FAREWELL;

/// How many names of events are looked up that nobody has declared: as anybody may write what they like into a stream.
const MOST_UNHEARD: usize = 100;

impl GroupTask {
    /// Reads and handles until something ends it, with no handler left in hand.
    pub(super) async fn work(&self, lease: &Lease, holding: &Holding, committer: &mut Committer<'_>) -> Ended {
        let mut hand = InHand {
            gathering: Gathering::default(),
            dispatch: Dispatch::new(self.options.lanes),
            declared: holding.events.clone(),
            unheard: BTreeSet::new(),
            dead_in_a_row: 0,
            turn: Instant::now(),
        };
        let mut ended = self.deliver(lease, holding, committer, &mut hand).await;
        if !matches!(ended, Ended::Fenced)
            && let Err(Ended::Fenced) = self.finish_in_hand(lease, committer, &mut hand).await
        {
            ended = ended.without_lease();
        }
        hand.dispatch.cancel(lease).await;
        ended
    }

    /// Reads and handles until something ends it.
    async fn deliver(
        &self,
        lease: &Lease,
        holding: &Holding,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Ended {
        let opened = tokio::select! {
            biased;
            () = self.services.shutdown.stopping() => return Ended::Stopped,
            () = lease.lost() => return Ended::Fenced,
            opened = Source::open(self.means(), self.history.last_bookmark(), holding) => opened,
        };
        let mut source = match opened {
            Ok(source) => source,
            Err(error) => return error.into(),
        };
        let ended = self.deliver_from(&mut source, lease, holding, committer, hand).await;
        self.history.remember(Some(source.bookmark));
        ended
    }

    async fn deliver_from(
        &self,
        source: &mut Source<'_>,
        lease: &Lease,
        holding: &Holding,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Ended {
        // When to read again after a read that failed, and how many in a row did.
        let mut again = None;
        let mut replays = Replays::new();
        loop {
            if let Err(ended) = committer.may_go_on() {
                return ended;
            }
            if let Err(ended) = self.advance(lease, committer, hand) {
                return ended;
            }
            if hand.gathering.is_empty() && hand.dispatch.is_empty() && committer.ledger.is_clean() {
                self.progress.reach(source.bookmark.position());
            }
            let may_start = hand.dispatch.may_start(committer);
            let read = async {
                if let Some((at, _)) = again {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.services.outages.over() => {}
                    }
                }
                source.next().await.map_err(Ended::from)
            };
            let arrived = tokio::select! {
                biased;
                () = self.services.shutdown.stopping() => return Ended::Stopped,
                () = lease.lost() => return Ended::Fenced,
                () = self.seat.wanted() => return self.hand_over(),
                done = committer.progress() => match done {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                returned = hand.dispatch.happens(may_start) => match self.returned(lease, committer, hand, returned) {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                () = replays.due(lease) => match self.replay(lease, committer, hand, &mut replays).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                arrived = read => arrived,
                () = hand.gathering.over() => match self.hand_out(lease, committer, hand).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
            };
            // What was taken up was read before the cut, and going on begins behind all that was read.
            if matches!(&arrived, Ok(Arrived { loss: Some(_), .. }) | Err(Ended::Cut { .. }))
                && let Err(ended) = self.empty_hands(lease, committer, hand).await
            {
                return match (ended, arrived) {
                    (Ended::Fenced, Err(cut)) => cut.without_lease(),
                    (ended, _) => ended,
                };
            }
            let arrived = match arrived {
                Ok(arrived) => arrived,
                // What is settled above an event that is tried again would all come again, for a read that may succeed soon.
                Err(Ended::Failed(error)) if !hand.dispatch.is_empty() => {
                    self.contact.failed(Matter::Read, &error);
                    let failures = again.map_or(1, |(_, failures): (Instant, u32)| failures.saturating_add(1));
                    let wait = wait(OUTAGE_BACKOFF, failures, self.services.random.fraction());
                    again = Some((after(Instant::now(), wait), failures));
                    source.look_again();
                    continue;
                }
                Err(ended) => return ended,
            };
            again = None;
            if self.contact.is_troubled() {
                self.contact.succeeded(Matter::Read);
                if arrived.entries.is_empty() && committer.ledger.is_clean() {
                    // Nothing is left of what could not be committed: another process has done it.
                    self.contact.succeeded(Matter::Write);
                }
                self.owns(holding.epoch);
            }
            if let Some(loss) = arrived.loss {
                self.report(&loss);
                if self.options.on_data_loss == OnDataLoss::Halt {
                    return Ended::Halted { halt: Halt::Loss(loss), keep: true };
                }
            }
            if let Some(seen) = arrived.seen {
                // What was taken up is read, but not settled.
                let unsettled = hand.gathering.len() + hand.dispatch.len();
                committer.ledger.anchor(seen.saturating_sub(unsettled as u64));
            }
            for entry in arrived.entries {
                if let Err(ended) = self.take(lease, committer, hand, entry).await {
                    return ended;
                }
                // However long the events keep coming.
                if replays.is_due(lease)
                    && let Err(ended) = self.replay(lease, committer, hand, &mut replays).await
                {
                    return ended;
                }
                if self.seat.is_wanted() {
                    return self.hand_over();
                }
                hand.give_turn().await;
            }
        }
    }

    /// Waits until everything that was read is settled.
    async fn empty_hands(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        self.drain(lease, committer, hand).await?;
        self.hand_out(lease, committer, hand).await
    }

    /// How the entry is taken up beside others.
    fn beside(&self, committer: &Committer<'_>, taker: Taker, entry: &Arc<Entry>) -> Beside {
        let Taker::Consumer(consumer) = taker else {
            return Beside::Over { letter: self.without_taker(taker, entry) };
        };
        if !committer.proves(entry.id) {
            return self.lane(consumer, entry);
        }
        match self.gives_up(committer, consumer, entry, committer.ledger.failed_attempts(entry.id)) {
            Some(letter) => Beside::Over { letter: Some(letter) },
            // Its key is not known yet: decoding it runs the user's own code, which may end the process as well.
            None => Beside::Charged { consumer },
        }
    }

    /// The letter of an event that has taken too many processes down to run again.
    fn gives_up(
        &self,
        committer: &Committer<'_>,
        consumer: usize,
        entry: &Arc<Entry>,
        failed_attempts: u32,
    ) -> Option<Letter> {
        let handler = &self.handlers[consumer];
        let crashes = committer.crashes(entry.id);
        let reason = given_up(crashes, handler.policy.max_crashes)?;
        let settlement = Settlement::Dead { cause: Cause::Crash, reason };
        // Of the attempts that took a process down the last is the end, as otherwise the one that failed last.
        self.ended(settlement, entry, 1, failed_attempts + crashes, handler.registration.info.name)
    }

    /// Before the first event of a name is passed over: a build declares what it handles before it publishes it, so what is
    /// declared by now says whether one handles this. Where nobody can be asked the commit finds it out, after more was handled.
    async fn look_for_takers(&self, hand: &mut InHand, entry: &Entry) {
        let Some((name, _)) = entry.event() else { return };
        if self.handlers.build.ignores(name)
            || hand.unheard.len() >= MOST_UNHEARD
            || !hand.unheard.insert(name.to_owned())
        {
            return;
        }
        let look = self.services.broker.state(&self.key);
        if let Ok(Ok(Some(state))) = tokio::time::timeout(FAREWELL, look).await {
            hand.declared = state.events;
        }
    }

    /// Takes up the next entry: it is settled at once, or it gathers, after whatever must be settled before it.
    async fn take(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        entry: Arc<Entry>,
    ) -> Result<(), Ended> {
        if let Ok(Taker::Nobody) = self.handlers.route(&hand.declared, &entry) {
            self.look_for_takers(hand, &entry).await;
        }
        let taker = match self.handlers.route(&hand.declared, &entry) {
            Ok(taker) => taker,
            Err(need) => {
                self.empty_hands(lease, committer, hand).await?;
                return Err(Ended::GivenWay(need));
            }
        };
        if self.is_concurrent() {
            let beside = self.beside(committer, taker, &entry);
            return self.take_up(lease, committer, hand, entry, beside).await;
        }
        if !hand.gathering.is_empty() {
            let joins = match taker {
                Taker::Consumer(consumer) => hand.gathering.admits(Some(consumer), &entry),
                Taker::Nobody => hand.gathering.admits(None, &entry),
                Taker::Unnamed => false,
            };
            if !joins {
                self.hand_out(lease, committer, hand).await?;
            }
        }
        match taker {
            // What is proven runs alone.
            Taker::Consumer(consumer)
                if let Some(limits) = self.handlers[consumer].policy.batch
                    && !committer.proves(entry.id) =>
            {
                hand.gathering.add(consumer, limits, entry);
            }
            Taker::Nobody if !hand.gathering.is_empty() => hand.gathering.add_between(entry),
            _ => {
                let held = Held { entry, is_event: matches!(taker, Taker::Consumer(_)) };
                return match self.handle(lease, committer, taker, std::slice::from_ref(&held), 0).await? {
                    Ok(dead) => self.weather(hand, dead),
                    Err(_) => {
                        let why = Halt::LoneBatch { entry: held.entry.id, reason: None };
                        Err(self.halted(why))
                    }
                };
            }
        }
        if hand.gathering.is_full() {
            self.hand_out(lease, committer, hand).await?;
        }
        Ok(())
    }

    /// Settles what has gathered: as one batch, and where that comes to nothing in parts.
    async fn hand_out(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        let Some((consumer, held)) = hand.gathering.take() else { return Ok(()) };
        let registration = &self.handlers[consumer].registration;
        let mut parts = Parts::default();
        while let Some((part, tried)) = parts.next(&held) {
            let taker = if part[0].is_event { Taker::Consumer(consumer) } else { Taker::Nobody };
            match self.handle(lease, committer, taker, part, tried).await? {
                Ok(dead) => {
                    parts.settled(part.len());
                    self.weather(hand, dead)?;
                    hand.give_turn().await;
                }
                Err(Apart { undecodable, tried }) => {
                    // An event whose decoding panics runs alone, too: then that is its own failed attempt.
                    let decodes = |held: &Held| caught(|| Ok(registration.decodes(&held.entry))).unwrap_or(false);
                    let is_bad = |held: &Held| held.is_event && !decodes(held);
                    match part.iter().position(is_bad).filter(|_| undecodable) {
                        Some(bad) => parts.undecodable(bad),
                        None => parts.apart(part.len(), tried),
                    }
                }
            }
        }
        Ok(())
    }

    /// Handles an entry, or a batch, to its end; answers whether it became a dead letter, or why the batch cannot be settled
    /// as one.
    async fn handle(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        taker: Taker,
        held: &[Held],
        tried: u32,
    ) -> Result<Result<bool, Apart>, Ended> {
        let first = &held[0].entry;
        let batch: Option<Arc<[_]>> = (held.len() > 1)
            .then(|| held.iter().filter(|held| held.is_event).map(|held| Arc::clone(&held.entry)).collect());
        let events = batch.as_ref().map_or(1, |batch| batch.len() as u32);
        committer.make_room(events).await?;
        if self.services.shutdown.is_stopping() {
            return Err(Ended::Stopped);
        }
        self.progress.begins(first.id);
        let letter = match taker {
            Taker::Consumer(consumer) => {
                let handler = &self.handlers[consumer];
                let name = handler.registration.info.name;
                let failed = |committer: &Committer<'_>| committer.ledger.failed_attempts(first.id).max(tried);
                match self.gives_up(committer, consumer, first, failed(committer)) {
                    Some(letter) => Some(letter),
                    None => match self.attempts(lease, committer, &Delivery { handler, first, batch, tried }).await? {
                        Ok(settlement) => self.ended(settlement, first, events, failed(committer) + 1, name),
                        Err(apart) => return Ok(Err(apart)),
                    },
                }
            }
            _ => self.without_taker(taker, first),
        };
        let dead = letter.as_ref().map(|letter| letter.cause);
        let ends = held.iter().map(|Held { entry, is_event }| End {
            id: entry.id,
            event_id: entry.given_id().unwrap_or_default(),
            is_event: *is_event,
            passed_over: entry.event().filter(|_| !is_event && !matches!(taker, Taker::Unnamed)),
        });
        self.settle(committer, ends, letter);
        let Some(cause) = dead else { return Ok(Ok(false)) };
        // The letter is in the commit that passes the event: nothing runs beyond it before that is known.
        // That may be never, when there is no room for it, and a stop must not wait for an operator.
        tokio::select! {
            biased;
            done = committer.finish() => done?,
            () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
        }
        self.progress.counts.dead(cause);
        Ok(Ok(true))
    }
}
