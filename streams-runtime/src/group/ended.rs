//! The ends of a group's work: for this time, or until somebody does something.

use streams_core::broker::{BrokerError, BrokerErrorKind, Need};

use super::halt::Halt;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::reader::{self, Bookmark};

/// Why a group's work came to an end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The app stops.
    Stopped,
    /// Somebody else may own the partition now.
    Fenced,
    /// Another process is to own the partition.
    GivenUp,
    /// The lease is taken anew: a reset has moved the checkpoint.
    Restart,
    /// The next event is one for another build.
    GivenWay(Need),
    /// History was cut. `at` is how far the group had read, of what is still there; nothing where the state alone shows the cut.
    Cut { loss: DataLoss, at: Option<Box<Bookmark>> },
    /// The server could not be used.
    Failed(BrokerError),
    /// The server refuses a key or a command: tried again, but not soon.
    Refused(BrokerError),
    /// Nothing may go on until somebody does something. The lease is kept where others would only run into the same.
    Halted { halt: Halt, keep: bool },
}

impl Ended {
    /// The end that is left of this when the lease turns out to be lost. That history was cut is told all the same: a state that was cut
    /// back with it may show nothing of it, and nobody else has seen what is gone.
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
