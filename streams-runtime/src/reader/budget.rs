//! Room for entries in memory: a read waits until the entries that the process holds leave room for its own.
//!
//! The count of each read bounds small entries. A large entry counts from the request on, until no window, group or
//! handler holds it. Nobody has to give room back, so nobody can forget to.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use streams_core::Entry;
use tokio::time::Instant;

use crate::sync::lock;

/// The weight from which an entry counts. A group holds at most two reads of smaller ones, a few hundred kilobytes.
pub(super) const LARGE: usize = 16 * 1024;
/// How often a waiting read checks again, because nothing signals that an entry was dropped.
const LOOK: Duration = Duration::from_millis(2);
/// The longest wait of the first reader in line. Handlers may hold entries for as long as they like, and must not stop
/// other groups by that.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    /// Held by the next reader, so that readers are served in the order of their requests.
    turn: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Large entries that were read lately, with their weights.
    large: Vec<(Weak<Entry>, usize)>,
    /// The bytes that were requested and have not arrived.
    coming: usize,
}

impl Held {
    fn bytes(&mut self) -> usize {
        self.large.retain(|(entry, _)| entry.strong_count() > 0);
        self.coming + self.large.iter().map(|(_, weight)| weight).sum::<usize>()
    }
}

/// Room that is reserved for a read.
#[derive(Debug)]
pub(crate) struct Reserved {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, turn: tokio::sync::Mutex::default(), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// How many bytes are held or requested.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.held().bytes()
    }

    /// Waits for room for this many bytes. It calls `shrink` with the missing bytes, which may drop some entries.
    ///
    /// # Cancel safety
    /// It reserves nothing until it returns.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: usize, shrink: impl Fn(usize)) -> Reserved {
        let _turn = self.turn.lock().await;
        let since = Instant::now();
        loop {
            let missing = {
                let mut held = self.held();
                let missing = (held.bytes() + bytes).saturating_sub(self.bytes);
                // One read may always proceed, however large.
                if missing == 0 || held.bytes() == 0 || since.elapsed() >= PATIENCE {
                    held.coming += bytes;
                    return Reserved { room: Arc::clone(self), bytes };
                }
                missing
            };
            shrink(missing);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Counts these entries as read.
    pub(super) fn saw<'e>(&self, entries: impl IntoIterator<Item = &'e Arc<Entry>>) {
        let large = entries.into_iter().map(|entry| (entry, entry.weight())).filter(|(_, weight)| *weight >= LARGE);
        let large: Vec<_> = large.map(|(entry, weight)| (Arc::downgrade(entry), weight)).collect();
        if !large.is_empty() {
            let mut held = self.held();
            held.large.extend(large);
            // Dropped here even if no read reserves anything.
            held.bytes();
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.held().coming -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::EntryId;

    fn entry(bytes: usize) -> Arc<Entry> {
        Arc::new(Entry::new(EntryId::new(1, 1), &[(Vec::new(), vec![0; bytes])]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_what_is_held_to_go_but_not_for_ever() {
        let room = Arc::new(Room::new(4 * LARGE));
        let first = room.reserve(3 * LARGE, |_| {}).await;
        let held = entry(3 * LARGE);
        room.saw([&held]);
        drop(first);
        assert!(room.taken() >= 3 * LARGE);
        let (asked, began) = (Mutex::new(0), Instant::now());
        let waits = room.reserve(2 * LARGE, |missing| *asked.lock().unwrap() = missing);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(PATIENCE / 2, &mut waits).await.is_err());
        assert!(*asked.lock().unwrap() > LARGE, "{asked:?}");
        drop(held);
        let second = waits.await;
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(room.taken(), 2 * LARGE);
        let began = Instant::now();
        let third = room.reserve(3 * LARGE, |_| {}).await;
        assert!(began.elapsed() >= PATIENCE);
        drop((second, third));
        assert_eq!(room.taken(), 0);
        drop(room.reserve(usize::MAX / 2, |_| {}).await);
        room.saw([&entry(100)]);
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_go_on_in_the_order_in_which_they_came() {
        let room = Arc::new(Room::new(LARGE));
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = room.reserve(LARGE, |_| {}).await;
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let (room, order) = (Arc::clone(&room), Arc::clone(&order));
                tokio::spawn(async move {
                    // A large one and small ones are treated alike.
                    let reserved = room.reserve(if n == 0 { LARGE } else { 1 }, |_| {}).await;
                    order.lock().unwrap().push(n);
                    drop(reserved);
                })
            })
            .collect();
        tokio::time::sleep(PATIENCE / 2).await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }
}
