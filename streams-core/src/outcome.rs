//! A handler's verdict on an event; the runtime's `settle` decides what follows from it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};
use std::time::Duration;

use crate::codec::DecodeError;

/// Any error that a handler can return.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A handler's verdict on an event.
///
/// A handler that returns `()` or `Ok(())` returns `Done`; `Err` is a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler has done its work.
    #[default]
    Done,
    /// The event does not concern the handler. Metrics and logs show it apart from `Done`.
    Skip(Cow<'static, str>),
    /// The handler wants the same event again after this long. It counts as a failed attempt, so that no event is
    /// retried for ever.
    RetryAfter(Duration),
    /// The group gives up on the event for this reason: it goes to the dead letters without another attempt.
    DeadLetter(Cow<'static, str>),
}

impl Outcome {
    /// The event does not concern the handler, for this reason.
    ///
    /// ```
    /// use streams_core::Outcome;
    ///
    /// assert_eq!(Outcome::skip("old"), Outcome::skip(format!("{}ld", 'o')));
    /// ```
    pub fn skip(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Skip(reason.into())
    }

    /// The group gives up on the event for this reason: it goes to the dead letters without another attempt.
    pub fn dead_letter(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::DeadLetter(reason.into())
    }
}

/// A return type of a `#[consumer]`: `()`, [`Outcome`], or a `Result` of either.
#[diagnostic::on_unimplemented(
    message = "a `#[consumer]` cannot return `{Self}`",
    label = "this return type says nothing about what becomes of the event",
    note = "return `()`, `Outcome`, or a `Result` of one of them whose error is a `std::error::Error`"
)]
pub trait IntoOutcome {
    /// The outcome, or the failure of the attempt.
    ///
    /// # Errors
    /// The handler's own error.
    fn into_outcome(self) -> Result<Outcome, Failure>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Result<Outcome, Failure> {
        Ok(Outcome::Done)
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Result<Outcome, Failure> {
        Ok(self)
    }
}

impl<T: IntoOutcome, E: HandlerError> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Result<Outcome, Failure> {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => Err(Failure::Handler(error.into_boxed())),
        }
    }
}

/// An error that a `#[consumer]` may return: whatever converts into `Box<dyn Error + Send + Sync>`.
#[diagnostic::on_unimplemented(
    message = "the error type `{Self}` of a `#[consumer]` is not an error the runtime can report",
    label = "must be convertible to `Box<dyn std::error::Error + Send + Sync>`",
    note = "derive it with `thiserror`, or return `anyhow::Result<()>`"
)]
pub trait HandlerError {
    /// The error, boxed.
    fn into_boxed(self) -> BoxError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> HandlerError for E {
    fn into_boxed(self) -> BoxError {
        self.into()
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The bytes are not the event that the entry names. Another attempt would fail the same way.
    #[error("{0}")]
    Decode(#[source] DecodeError),
    /// An argument of the handler could not be extracted.
    #[error("argument `{argument}`: {source}")]
    Rejected {
        /// The argument's type.
        argument: &'static str,
        /// The extractor's error.
        source: BoxError,
    },
    /// The handler returned an error.
    #[error("{0}")]
    Handler(BoxError),
    /// The handler panicked.
    #[error("panicked: {0}")]
    Panic(String),
    /// The handler took longer than its `timeout`, and was cancelled.
    #[error("took longer than its timeout of {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

impl Failure {
    /// Whether no other attempt can succeed.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Decode(_) => true,
            Self::Handler(error) | Self::Rejected { source: error, .. } => {
                chain(&**error).any(|error| error.is::<Permanent>() || error.is::<Given>())
            }
            Self::Panic(_) | Self::TimedOut(_) => false,
        }
    }

    /// The failure and its causes in one line, as logs and dead letters show it.
    pub fn reason(&self) -> String {
        match self {
            Self::Handler(error) => with_causes(&**error),
            Self::Rejected { argument, source } => format!("argument `{argument}`: {}", with_causes(&**source)),
            _ => self.to_string(),
        }
    }
}

/// The most causes of an error that are read: a chain of causes may lead back into itself.
const MOST_CAUSES: usize = 32;
/// The most bytes of an error's text. Nobody reads more in a log, and a `Display` may never end.
const MOST_TEXT: usize = 64 * 1024;

/// An error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).take(MOST_CAUSES + 1)
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = Bounded(String::new());
    for (place, error) in chain(error).enumerate() {
        let mut cause = Bounded(String::new());
        // An error whose `Display` fails leaves a gap in the text; that is no reason to panic.
        let _ = write!(cause, "{error}");
        let Bounded(cause) = cause;
        // Some error types repeat their source in their own text.
        if place == 0 || !text.0.ends_with(&cause) {
            let _ = write!(text, "{}{cause}", if place == 0 { "" } else { ": " });
        }
    }
    text.0
}

/// Text up to [`MOST_TEXT`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MOST_TEXT.saturating_sub(self.0.len());
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        self.0.push_str(&text[..end]);
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// An error after which another attempt is pointless; made by [`permanent`].
#[derive(Debug)]
pub struct Permanent(Given);

/// The error that was given to [`permanent`].
///
/// It is part of the chain of sources, so that a wrapper which hides `Permanent` does not hide that the error is
/// permanent.
#[derive(Debug)]
struct Given(BoxError);

/// Marks an error as permanent: the event goes to the dead letters at once, whatever `max_attempts` says.
///
/// ```
/// use streams_core::{BoxError, permanent};
///
/// async fn charge(amount: i64) -> Result<(), BoxError> {
///     if amount < 0 {
///         // No number of attempts makes it positive.
///         return Err(permanent(format!("negative amount {amount}")).into());
///     }
///     Ok(())
/// }
/// ```
pub fn permanent(error: impl Into<BoxError>) -> Permanent {
    Permanent(Given(error.into()))
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Permanent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Given {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot charge")]
    struct Outer(#[source] BoxError);

    #[test]
    fn a_permanent_error_is_known_through_wrappers() {
        let plain = Err::<(), _>(Outer("no".into())).into_outcome().unwrap_err();
        assert!(!plain.is_permanent());
        let wrapped = Err::<(), _>(Outer(permanent("no").into())).into_outcome().unwrap_err();
        assert!(wrapped.is_permanent());
        assert_eq!(wrapped.reason(), "cannot charge: no");
    }

    /// Its cause is itself, and its text has no end.
    #[derive(Debug)]
    struct Endless;

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("again and ")?;
            }
        }
    }

    impl Error for Endless {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self)
        }
    }

    /// It cannot say what it is.
    #[derive(Debug, thiserror::Error)]
    #[error("{}", mute())]
    struct Mute;

    fn mute() -> impl fmt::Display {
        struct Fails;
        impl fmt::Display for Fails {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        Fails
    }

    #[test]
    fn an_error_without_end_and_one_without_words_come_to_an_end() {
        let failure = |error: BoxError| Err::<(), _>(error).into_outcome().unwrap_err();
        let endless = failure(Box::new(Endless));
        assert!(!endless.is_permanent());
        assert_eq!(endless.reason().len(), MOST_TEXT);
        assert_eq!(failure(Box::new(Mute)).reason(), "");
        assert_eq!(failure(Outer(Box::new(Mute)).into()).reason(), "cannot charge");
    }

    #[test]
    fn strings_and_results_of_outcomes_are_welcome() {
        assert_eq!(Err::<Outcome, _>("late").into_outcome().unwrap_err().reason(), "late");
        assert_eq!(Ok::<_, String>(Outcome::skip("old")).into_outcome().unwrap(), Outcome::skip("old"));
        assert_eq!(().into_outcome().unwrap(), Outcome::Done);
    }
}
