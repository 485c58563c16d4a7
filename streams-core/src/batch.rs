//! Several events in one call: the argument of a `#[consumer(batch = 500)]` function.

use std::ops::Deref;
use std::sync::Arc;
use std::vec;

use crate::codec::{self, DecodeError};
use crate::{Context, Entry, EntryId, Message, Payload, StreamEvent};

/// Consecutive events of one type, at least one, in the order of their partition.
///
/// The runtime fills a batch with up to `batch` events, or with fewer once the first has waited for `batch_wait`. The
/// batch is a list of [`Message`]s and derefs to a slice of them.
///
/// ```
/// use streams_core::{Batch, State, consumer, stream_event};
/// # use std::sync::{Arc, Mutex};
///
/// #[stream_event(stream = "trades")]
/// struct Trade { price: f64 }
///
/// # #[derive(Clone, Default)] struct Db(Arc<Mutex<Vec<f64>>>);
/// # #[derive(Debug)] struct DbError;
/// # impl std::fmt::Display for DbError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("down") } }
/// # impl std::error::Error for DbError {}
/// # impl Db { async fn insert_all(&self, rows: impl IntoIterator<Item = f64>) -> Result<(), DbError> { self.0.lock().unwrap().extend(rows); Ok(()) } }
/// #[consumer(group = "warehouse", batch = 500, batch_wait = "200ms")]
/// async fn load(trades: Batch<Trade>, db: State<Db>) -> Result<(), DbError> {
///     db.insert_all(trades.events().map(|trade| trade.price)).await
/// }
///
/// # async fn test() {
/// // A test calls it:
/// let db = Db::default();
/// load(Batch::new([Trade { price: 1.0 }, Trade { price: 2.0 }]), State(db.clone())).await.unwrap();
/// assert_eq!(*db.0.lock().unwrap(), [1.0, 2.0]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Batch<E> {
    messages: Vec<Message<E>>,
}

impl<E> Batch<E> {
    /// A batch for calling a handler in a test: entries `1-0`, `2-0` and so on, first attempt, no headers.
    ///
    /// # Panics
    /// Without an event: the runtime never makes an empty batch.
    #[track_caller]
    pub fn new(events: impl IntoIterator<Item = E>) -> Self {
        let entry = |ms| Arc::new(Entry::new::<&str, &str>(EntryId::new(ms, 0), &[]));
        Self::of((1..).zip(events).map(|(ms, event)| Message::of_entry(event, entry(ms))))
    }

    /// A batch of messages, for a test that needs their headers, event ids or attempt.
    ///
    /// # Panics
    /// Without a message: the runtime never makes an empty batch.
    #[track_caller]
    pub fn of(messages: impl IntoIterator<Item = Message<E>>) -> Self {
        let messages: Vec<_> = messages.into_iter().collect();
        assert!(!messages.is_empty(), "a batch has at least one event");
        Self { messages }
    }

    /// The events in order, without their ids and headers.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &E> + DoubleEndedIterator {
        self.messages.iter().map(|message| &message.event)
    }

    /// The events in order, by value, without their ids and headers.
    pub fn into_events(self) -> impl ExactSizeIterator<Item = E> + DoubleEndedIterator {
        self.messages.into_iter().map(|message| message.event)
    }

    /// Which attempt at these events this is, from 1.
    ///
    /// Attempts before a restart count; the first event's count is that of the batch. After a batch has failed, each of
    /// its events may run alone, and counts on from the attempts of the batch.
    pub fn attempt(&self) -> u32 {
        self.messages.first().map_or(1, Message::attempt)
    }
}

impl<E> Deref for Batch<E> {
    type Target = [Message<E>];

    fn deref(&self) -> &[Message<E>] {
        &self.messages
    }
}

impl<E> IntoIterator for Batch<E> {
    type Item = Message<E>;
    type IntoIter = vec::IntoIter<Message<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.into_iter()
    }
}

impl<'a, E> IntoIterator for &'a Batch<E> {
    type Item = &'a Message<E>;
    type IntoIter = std::slice::Iter<'a, Message<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.iter()
    }
}

impl<E: StreamEvent> Payload for Batch<E> {
    type Event = E;
    const IS_BATCH: bool = true;

    fn decode(ctx: &Context) -> Result<Self, DecodeError> {
        let message = |entry: &Arc<Entry>| {
            Ok(Message::of_entry(codec::decode(entry)?, Arc::clone(entry)).with_attempt(ctx.attempt()))
        };
        Ok(Self { messages: ctx.entries().iter().map(message).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream_event;

    #[stream_event(stream = "trades")]
    #[derive(Debug, PartialEq)]
    struct Trade {
        id: u64,
    }

    fn entry(id: u64, payload: Option<u64>) -> Arc<Entry> {
        let mut fields = vec![(b"event".to_vec(), b"Trade@1".to_vec())];
        if let Some(id) = payload {
            let mut payload = Vec::new();
            codec::encode(&Trade { id }, &mut payload).unwrap();
            fields.push((b"payload".to_vec(), payload));
        }
        Arc::new(Entry::new(EntryId::new(id, 0), &fields))
    }

    #[test]
    fn a_batch_is_a_list_of_messages() {
        let batch = Batch::new([7, 8, 9]);
        assert_eq!((batch.len(), batch[1].event, batch.attempt()), (3, 8, 1));
        let ids: Vec<_> = batch.iter().map(|message| message.entry_id().ms).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(batch.events().rev().copied().collect::<Vec<_>>(), [9, 8, 7]);
        let mut sum = 0;
        for message in &batch {
            sum += message.event;
        }
        assert_eq!(sum, 24);
        let batch = Batch::of(batch.into_iter().map(|message| message.with_attempt(2)));
        assert_eq!((batch.attempt(), batch.into_events().collect::<Vec<_>>()), (2, vec![7, 8, 9]));
    }

    #[test]
    fn a_batch_is_decoded_from_all_entries_of_its_context() {
        let entries: Vec<_> = (1..=3).map(|id| entry(id, Some(id * 10))).collect();
        let ctx = Context::test().with_entries(entries).with_attempt(4);
        assert_eq!(ctx.entry_id(), EntryId::new(1, 0));
        let batch = Batch::<Trade>::decode(&ctx).unwrap();
        let found: Vec<_> = batch.iter().map(|m| (m.entry_id().ms, m.event.id, m.attempt())).collect();
        assert_eq!(found, [(1, 10, 4), (2, 20, 4), (3, 30, 4)]);
        assert!(Batch::<Trade>::decode(&Context::test().with_entries([entry(1, Some(1)), entry(2, None)])).is_err());
    }

    #[test]
    fn an_event_alone_is_a_batch_of_one() {
        let ctx = Context::test().with_entries([entry(5, Some(50))]);
        assert_eq!(Batch::<Trade>::decode(&ctx).unwrap().into_events().collect::<Vec<_>>(), [Trade { id: 50 }]);
    }
}
