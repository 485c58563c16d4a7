//! A loss of history: the group reports it, and goes on behind it where it may.

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

    /// Reports once that events are lost.
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

    /// Reports a loss over which a reader cannot go on by itself. Then the group prepares its next beginning, or halts, as
    /// `on_data_loss` says.
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

    /// Moves the checkpoint to where the present history goes on.
    ///
    /// That is behind the entry that was read last, where it is still there, else the beginning of the stream. Where the group's
    /// state was cut back with the stream, the checkpoint stays: nothing above it is settled any more, dead letters included.
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
        // The reset names the epoch that was held or refused, because a faster process has done the same. The epoch of a work
        // queue grows with every session, so there the last reset decides.
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
