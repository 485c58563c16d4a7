//! The ends of an ownership or of a session: for now, or until an operator acts.

use streams_core::broker::{BrokerError, BrokerErrorKind, Need};

use super::halt::Halt;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::reader::{self, Bookmark};

/// Why a group's work came to an end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The app stops.
    Stopped,
    /// The lease is lost: another process may own the partition now.
    Fenced,
    /// The owner hands the partition over to its successor.
    GivenUp,
    /// Somebody has paused the group.
    Paused,
    /// The group begins anew at once, because a reset has moved the checkpoint.
    Restart,
    /// The next event is one that only another build handles.
    GivenWay(Need),
    /// History was cut. `at` is how far the group had read of the entries that are still there. It is `None` where the state
    /// alone shows the cut.
    Cut { loss: DataLoss, at: Option<Box<Bookmark>> },
    /// The server could not be used.
    Failed(BrokerError),
    /// The server refuses a key or a command: the group tries again, but not soon.
    Refused(BrokerError),
    /// The group waits for an operator. It keeps the lease where others would only run into the same.
    Halted { halt: Halt, keep: bool },
}

impl Ended {
    /// The end when the lease turns out to be lost as well. A cut of history is reported all the same, because nobody else may
    /// see it: the state may have been cut back with the stream.
    pub(crate) fn without_lease(self) -> Self {
        match self {
            Self::Cut { ref loss, .. } if loss.kind == DataLossKind::HistoryCut => self,
            _ => Self::Fenced,
        }
    }
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        if error.is_retryable() || error.is_indefinite() {
            Self::Failed(error)
        } else if error.kind() == BrokerErrorKind::Refused {
            Self::Refused(error)
        } else {
            Self::Halted { halt: Halt::Broker { error: error.to_string() }, keep: false }
        }
    }
}

impl From<reader::Error> for Ended {
    fn from(error: reader::Error) -> Self {
        match error {
            reader::Error::Cut { loss, at } => Self::Cut { loss, at: Some(at) },
            reader::Error::Broker(error) => error.into(),
        }
    }
}
