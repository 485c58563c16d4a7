//! A loss of history: how a group reports it, and where it goes on, if it may.

use streams_core::broker::{BrokerError, GroupState, Reset};
use streams_core::{EntryId, OnDataLoss, Start};

use super::ended::Ended;
use super::halt::Halt;
use super::task::GroupTask;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::reader::Bookmark;

impl GroupTask {
    /// The server has acknowledged this checkpoint.
    pub(crate) fn acknowledged(&self, at: EntryId) {
        self.history.acknowledged(at);
        self.progress.checkpoint(at);
    }

    /// Says once that events are lost.
    pub(crate) fn report(&self, loss: &DataLoss) {
        self.progress.lost(loss.clone());
        tracing::error!(
            group = self.key.group(),
            partition = self.key.partition().as_str(),
            kind = loss.kind.as_str(),
            from = %loss.from,
            to = %loss.to,
            count = loss.count,
            "data loss: {loss}"
        );
    }

    /// The group's marker is gone.
    pub(crate) fn vanished(bookmark: Bookmark) -> Ended {
        let to = bookmark.position();
        let loss = DataLoss { kind: DataLossKind::Restarted, from: EntryId::ZERO, to, count: None };
        Ended::Cut { loss, at: Some(Box::new(bookmark)) }
    }

    /// Reports a loss that a reader cannot go on over by itself, then does as the group wants it: prepares the next
    /// beginning, or halts.
    pub(crate) async fn answer(&self, loss: &DataLoss, at: Option<Box<Bookmark>>) -> Ended {
        self.report(loss);
        self.history.remember(None);
        if self.options.on_data_loss == OnDataLoss::Halt {
            return Ended::Halted { halt: Halt::Loss(loss.clone()), keep: true };
        }
        match self.begin_anew(loss.kind, at).await {
            Ok(()) => Ended::Restart,
            Err(error) => error.into(),
        }
    }

    /// Moves the checkpoint to where the history of now goes on: behind what was read, where that is still there, to its
    /// beginning where it is not. Where the group's state was cut back with the stream it is the place to go on from: what was
    /// settled above it, dead letters too, is settled no more.
    async fn begin_anew(&self, kind: DataLossKind, at: Option<Box<Bookmark>>) -> Result<(), BrokerError> {
        let broker = &self.services.broker;
        let state = broker.state(&self.key).await?;
        let is_cut_back = |bookmark: &Bookmark, state: &GroupState| {
            kind == DataLossKind::HistoryCut && state.at <= bookmark.position()
        };
        let to = match (&at, &state) {
            (None, Some(state)) => {
                self.history.know(state);
                return Ok(());
            }
            (Some(bookmark), Some(state)) if is_cut_back(bookmark, state) => {
                self.history.know(state);
                return Ok(());
            }
            (Some(bookmark), Some(_)) => {
                let snapshot = broker.snapshot(&self.key, bookmark.position(), 1).await?;
                if bookmark.is_at(snapshot.entries.first()) {
                    Start::At(bookmark.position().next())
                } else {
                    Start::Earliest
                }
            }
            (_, None) => Start::Earliest,
        };
        // By the epoch that was held or refused: whoever was faster has done the same. Of a shared group it grows with everybody
        // who joins, so there the last reset says so.
        let epoch = match (&state, self.history.known()) {
            (Some(state), Some(known)) if self.key.is_queue() => {
                Some(state.lease.epoch).filter(|_| state.reset == known.reset).or(Some(0))
            }
            (Some(_), known) => known.map(|known| known.epoch),
            (None, _) => None,
        };
        if let Reset::Done { at } = broker.reset(&self.key, epoch, to).await? {
            tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), %at, "going on after the loss from here");
        }
        self.history.forget();
        Ok(())
    }
}
