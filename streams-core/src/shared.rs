//! The words in which shared delivery is asked for: a group as a work queue, from which any number of processes take; the
//! calls stand in [`broker`](crate::broker).

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Events, Fields, Holder};
use crate::{Entry, EntryId};

/// What came of joining a shared group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The caller is one of its consumers, and the call is its first beat.
    Member {
        /// Above every earlier one of the group.
        epoch: u64,
    },
    /// The group has no state.
    Missing,
    /// The group's marker is gone: the stream was deleted, or the group destroyed.
    Vanished {
        /// Up to where entries were handed out.
        at: EntryId,
    },
    /// The group is used in another delivery mode; the two never mix under one name.
    Mode(String),
}

/// A consumer asks for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Who asks.
    pub holder: Holder,
    /// How many entries at most.
    pub count: usize,
    /// The events that the caller handles or passes over for good, each with the newest version; `u32::MAX` where any will do.
    pub takes: Events,
    /// While as many entries wait that nobody has in hand, no new ones are handed out: what fails is to pile up in the stream.
    pub most_waiting: u64,
    /// An entry waits no longer than this for its next attempt, whatever the server's clock has done meanwhile.
    pub longest_wait: Duration,
    /// Where an answer was lost: what the caller has in hand. Whatever else it holds is given back first.
    pub in_hand: Option<Vec<EntryId>>,
    /// Whether entries are handed out although others were lost.
    pub go_on: bool,
}

/// What came of asking for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Took {
    /// These, perhaps none.
    Entries(Haul),
    /// The caller is no consumer of the group any more. Nothing was changed.
    Fenced,
    /// The group has no state.
    Missing,
    /// The group's marker is gone: the stream was deleted, or the group destroyed.
    Vanished {
        /// Up to where entries were handed out.
        at: EntryId,
    },
    /// Entries were handed out up to an id above the highest of the stream: history was cut or restarted.
    Ahead {
        /// Up to where.
        at: EntryId,
        /// The highest id of the stream.
        last: EntryId,
    },
    /// The entry that was handed out last is another event than the one that was, or less was added or removed than was handed
    /// out: history was cut or restarted, and went on.
    Changed {
        /// Its id.
        at: EntryId,
    },
    /// Entries were lost, and nothing is handed out to those who do not go on over that until
    /// [`Broker::resume`](crate::broker::Broker::resume) or a reset.
    Lost {
        /// What.
        lost: Lost,
        /// Whether this call has found it.
        found: bool,
    },
}

/// Entries that were handed out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Haul {
    /// The entries. First those that waited, then new ones in the order of the stream.
    pub entries: Vec<Delivered>,
    /// How many entries wait that nobody has in hand, those for other builds included.
    pub waiting: u64,
    /// How soon the first of them may be taken that may not now.
    pub due: Option<Duration>,
    /// What was lost, where the caller goes on over that.
    pub lost: Option<Lost>,
}

/// An entry that was handed out.
///
/// Should the consumer die, each entry that it has in hand and that is charged counts one crash more. One without crashes is
/// charged as it is handed out, which costs nothing. One that has some is not, and is to be charged just before it runs, with
/// [`Become::Charged`]: it may long be in hand without running while another event ends the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The entry.
    pub entry: Arc<Entry>,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
}

/// Entries that were lost to a shared group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Whether they were deleted in the middle of what is still there; otherwise a trim has passed the group.
    pub deleted: bool,
    /// All of them are above this.
    pub from: EntryId,
    /// None of them is above this.
    pub to: EntryId,
    /// How many are known of: no more than there were.
    pub count: u64,
}

/// A consumer says what became of entries that it has in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Who says so.
    pub holder: Holder,
    /// Each entry with what became of it.
    pub ends: Vec<(EntryId, Become)>,
    /// How many dead letters the group may have, and for how long: beyond it none is put away.
    pub dead_bounds: crate::broker::DeadBounds,
}

/// What becomes of an entry that is in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Become {
    /// Its business with the group is ended.
    Done,
    /// The same, because no build was known to handle an event of this name, which must be a valid name of an event.
    PassedOver {
        /// The event's name.
        name: String,
    },
    /// It is given back, to be attempted again by whoever is free.
    Again {
        /// How many attempts have failed.
        failed: u32,
        /// Not before this long.
        after: Duration,
    },
    /// It is put away as a dead letter with these fields.
    Dead(Fields),
    /// It stays in hand, and is about to run.
    Charged {
        /// How many crashes it had when it was handed out.
        crashes: u32,
    },
    /// It is given back untried, as if it had not been handed out.
    Back {
        /// How many crashes it had when it was handed out: whether it is charged by now may not be known.
        crashes: u32,
    },
    /// It is given back untried, for a build that handles this.
    Needs {
        /// The event's name.
        name: String,
        /// Its version.
        version: u32,
        /// How many crashes it had when it was handed out.
        crashes: u32,
    },
}

/// What came of settling entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// These the caller does not have in hand: nothing was changed about them.
    pub lost: Vec<EntryId>,
    /// These are events that a build has declared, and so are not passed over: the caller still has them in hand.
    pub declared: Vec<EntryId>,
    /// There is no room for some of the dead letters: they are put away in their order as long as there is.
    pub full: Option<Full>,
    /// These dead letters were not put away for want of room: the caller still has them in hand.
    pub kept: Vec<EntryId>,
}

/// Why no dead letter is put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many there are.
    pub count: u64,
    /// The oldest.
    pub oldest: Option<EntryId>,
}

/// A shared group at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crew {
    /// Its consumers, sorted by name.
    pub consumers: Vec<Hand>,
    /// How many entries are in hand or wait.
    pub pending: u64,
    /// The oldest of those.
    pub oldest: Option<EntryId>,
    /// How many of them wait, those for other builds included.
    pub waiting: u64,
    /// How soon the first of them may be taken; zero where one may be taken now.
    pub due: Option<Duration>,
    /// Up to where entries were handed out.
    pub at: EntryId,
    /// How many entries had been added up to there, those that were lost included; `None` where that is not known.
    pub seen: Option<u64>,
    /// The events that only other builds handle, each with the lowest version that waits, at most ten.
    pub needed: Events,
    /// How often [`Broker::resume`](crate::broker::Broker::resume) was called.
    pub resume: u64,
    /// The epoch of the last [`Broker::reset`](crate::broker::Broker::reset); 0 when there was none.
    pub reset: u64,
}

impl Crew {
    /// Up to where everything is settled.
    pub fn settled(&self) -> EntryId {
        self.oldest.map_or(self.at, EntryId::previous)
    }
}

/// A consumer of a shared group, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hand {
    /// Its name: the token with which it has joined.
    pub owner: String,
    /// How many entries it has in hand.
    pub pending: u64,
    /// What shows whether it lives.
    pub life: Life,
}

/// What shows whether a consumer lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It renews. As long as this stays the same, nobody has heard of it.
    Beats {
        /// Which joining it is.
        epoch: u64,
        /// How often it has renewed.
        beat: u64,
        /// How long its lease is.
        lease_for: Duration,
    },
    /// It was found dead, and not all that it had in hand is given back yet.
    Dead,
    /// It never joined: somebody reads, or has read, with XREADGROUP.
    Foreign {
        /// For how long it has been silent, by the server's clock.
        silent: Duration,
    },
}

/// What came of giving back what a dead consumer had in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// So many entries, and there are more.
    Some(u64),
    /// So many entries, which were all, and the consumer is removed.
    All(u64),
    /// It has shown a sign of life, or is gone. Nothing was changed.
    Contended,
}
