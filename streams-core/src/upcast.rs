//! Reading an event of an older version as a newer one, one step per version, in an order known at compile time.
//!
//! [`codec`] decides whether a version is read at all; this module checks the versions in the attribute.

use crate::codec::{self, DecodeError};
use crate::outcome::with_causes;
use crate::schema::text_eq;
use crate::{BoxError, EventInfo, StreamEvent};

/// An event that an older version can be turned into: any type with a `From` or a `TryFrom` of the older type.
///
/// `upcast_from = TradeV1` requires it. Most events implement `From`. With `TryFrom` an old event may be refused
/// because it has no meaning today. It is then a dead letter with the error as its reason, and its bytes are kept.
#[diagnostic::on_unimplemented(
    message = "nothing says how `{Old}` becomes `{Self}`",
    label = "events of this older version could not be read as `{Self}`",
    note = "write `impl From<{Old}> for {Self}`: it says what an event stored by older programs means today",
    note = "where an old event may have no meaning today write `impl TryFrom<{Old}> for {Self}`, with a `std::error::Error` or a `String` as its error: what it refuses goes to the dead letters"
)]
pub trait UpcastFrom<Old>: Sized {
    /// Turns the old event into a new one.
    ///
    /// # Errors
    /// The old event has no meaning today.
    fn upcast(old: Old) -> Result<Self, BoxError>;
}

// If rustc recommended it, it would report a missing `TryFrom` and explain neither its purpose nor that `From`
// suffices.
#[diagnostic::do_not_recommend]
impl<Old, New> UpcastFrom<Old> for New
where
    New: TryFrom<Old>,
    New::Error: Into<BoxError>,
{
    fn upcast(old: Old) -> Result<Self, BoxError> {
        old.try_into().map_err(Into::into)
    }
}

/// The `StreamEvent::decode_version` of a type without `upcast_from`: it reads its own version.
pub(crate) fn decode_own<E: StreamEvent>(version: u32, payload: &[u8]) -> Result<E, DecodeError> {
    if version == E::INFO.version {
        codec::decode_payload(payload)
    } else {
        Err(DecodeError::other_version::<E>(version))
    }
}

/// Not public API: `decode_version` of a type with `upcast_from`. The type before reads an older version, then it is
/// turned.
// The type before is no `StreamEvent` here, so that one which is none is reported once, where `before` is named.
#[doc(hidden)]
pub fn decode_or_upcast<New: StreamEvent + UpcastFrom<Old>, Old>(
    version: u32,
    payload: &[u8],
    before: fn(u32, &[u8]) -> Result<Old, DecodeError>,
) -> Result<New, DecodeError> {
    if version >= New::INFO.version {
        return decode_own(version, payload);
    }
    let old = before(version, payload)?;
    New::upcast(old).map_err(|error| DecodeError::not_upcast::<New>(with_causes(&*error)))
}

/// Not public API: checks that `old` is the version before `new`; `said` is the attribute's message if it is not.
///
/// # Panics
/// While compiling, at the call.
#[doc(hidden)]
#[track_caller]
pub const fn check_upcast(new: &EventInfo, old: &EventInfo, said: &Said) {
    // The type has other mistakes, which are reported.
    if old.stream.is_empty() {
        return;
    }
    assert!(text_eq(old.stream, new.stream), "{}", said.other_stream);
    assert!(text_eq(old.name, new.name), "{}", said.other_name);
    assert!(old.version == new.version - 1, "{}", said.gap);
}

/// Not public API: checks that the type before reads the versions back to `oldest`.
///
/// # Panics
/// While compiling, at the call.
#[doc(hidden)]
#[track_caller]
pub const fn check_oldest(oldest: u32, old: &EventInfo, too_old: &str) {
    assert!(old.stream.is_empty() || oldest >= old.oldest, "{}", too_old);
}

/// Not public API: the messages of [`check_upcast`], in the user's words.
#[doc(hidden)]
#[derive(Debug)]
pub struct Said {
    pub other_stream: &'static str,
    pub other_name: &'static str,
    pub gap: &'static str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Entry, EntryId, SchemaType, event_type, stream_event};

    #[stream_event(stream = "fills", name = "Fill")]
    #[derive(Debug, Clone, PartialEq)]
    struct FillV1 {
        symbol: String,
        cents: i64,
        legs: Vec<Leg>,
    }

    #[stream_event(stream = "fills", name = "Fill", version = 2, upcast_from = FillV1)]
    #[derive(Debug, Clone, PartialEq)]
    struct FillV2 {
        symbol: String,
        cents: u64,
        quantity: u64,
    }

    #[stream_event(stream = "fills", version = 3, upcast_from = FillV2)]
    #[derive(Debug, Clone, PartialEq)]
    struct Fill {
        pair: (String, String),
        cents: u64,
        quantity: u64,
    }

    #[event_type]
    #[derive(Debug, Clone, PartialEq)]
    struct Leg {
        quantity: u64,
    }

    /// The reason contains its cause, too.
    #[derive(Debug, thiserror::Error)]
    #[error("a price of {cents}")]
    struct Negative {
        cents: i64,
        source: std::num::TryFromIntError,
    }

    impl TryFrom<FillV1> for FillV2 {
        type Error = Negative;

        fn try_from(old: FillV1) -> Result<Self, Negative> {
            let cents = u64::try_from(old.cents).map_err(|source| Negative { cents: old.cents, source })?;
            let quantity = old.legs.iter().fold(0, |sum: u64, leg| sum.wrapping_add(leg.quantity));
            Ok(Self { symbol: old.symbol, cents, quantity })
        }
    }

    impl From<FillV2> for Fill {
        fn from(old: FillV2) -> Self {
            let (base, quote) = old.symbol.split_once('-').unwrap_or((&old.symbol, "USD"));
            Self { pair: (base.to_owned(), quote.to_owned()), cents: old.cents, quantity: old.quantity }
        }
    }

    /// As [`Fill`], but it reads nothing below version 2.
    #[stream_event(stream = "late-fills", name = "Fill", version = 2, oldest = 2)]
    #[derive(Debug, PartialEq)]
    struct LateV2 {
        cents: u64,
    }

    #[stream_event(stream = "late-fills", name = "Fill", version = 3, upcast_from = LateV2)]
    #[derive(Debug, PartialEq)]
    struct Late {
        cents: u64,
    }

    impl From<LateV2> for Late {
        fn from(old: LateV2) -> Self {
            Self { cents: old.cents }
        }
    }

    fn entry(event: &str, payload: &[u8]) -> Entry {
        Entry::new(EntryId::new(1, 0), &[(Entry::EVENT, event.as_bytes()), (Entry::PAYLOAD, payload)])
    }

    fn stored<E: StreamEvent>(event: &E) -> Entry {
        let mut payload = Vec::new();
        codec::encode(event, &mut payload).unwrap();
        entry(&format!("{}@{}", E::INFO.name, E::INFO.version), &payload)
    }

    fn old(cents: i64) -> FillV1 {
        FillV1 { symbol: "BTC-EUR".to_owned(), cents, legs: vec![Leg { quantity: 2 }, Leg { quantity: 3 }] }
    }

    #[test]
    fn each_version_is_read_by_those_after_it_and_by_none_before() {
        let (v1, v2) = (old(7), FillV2::try_from(old(7)).unwrap());
        let v3 = Fill { pair: ("BTC".to_owned(), "EUR".to_owned()), cents: 7, quantity: 5 };
        for stored in [stored(&v1), stored(&v2), stored(&v3)] {
            assert_eq!(codec::decode::<Fill>(&stored), Ok(v3.clone()));
        }
        assert_eq!(codec::decode::<FillV2>(&stored(&v1)), Ok(v2.clone()));
        assert!(codec::decode::<FillV2>(&stored(&v3)).unwrap_err().is_newer());
        let newer = codec::decode::<FillV1>(&stored(&v2)).unwrap_err();
        assert!(newer.is_newer());
        assert_eq!(
            newer.to_string(),
            "event `Fill` of stream `fills` is version 2, and this program knows version 1; deploy a program that knows version 2"
        );
    }

    #[test]
    fn what_an_upcaster_refuses_says_why() {
        let error = codec::decode::<Fill>(&stored(&old(-7))).unwrap_err();
        assert!(error.is_not_upcast() && !error.is_malformed() && !error.is_older());
        assert_eq!(
            error.to_string(),
            "event `Fill` of stream `fills` is refused by the upcaster from version 1 to 2: a price of -7: out of range integral type conversion attempted"
        );
    }

    #[test]
    fn bytes_that_are_not_the_older_event_say_which_version_they_are_not() {
        let error = codec::decode::<Fill>(&entry("Fill@1", b"\x80")).unwrap_err();
        assert!(error.is_malformed());
        assert!(error.to_string().starts_with("the payload of event `Fill@1` of stream `fills`"), "{error}");
    }

    #[test]
    fn what_is_older_than_the_oldest_is_not_read() {
        let error = codec::decode::<Late>(&entry("Fill@1", b"")).unwrap_err();
        assert!(error.is_older());
        assert_eq!(error.found(), Some(("Fill", 1)));
        assert_eq!(
            error.to_string(),
            "event `Fill` of stream `late-fills` is version 1, and this program reads none older than version 2 (`oldest = 2`); read it with a program that upcasts version 1"
        );
        assert_eq!(codec::decode::<Late>(&stored(&LateV2 { cents: 1 })), Ok(Late { cents: 1 }));
    }

    #[test]
    fn the_chain_is_known() {
        let info = Fill::INFO;
        assert_eq!((info.version, info.oldest), (3, 1));
        let chain: Vec<_> =
            std::iter::successors(Some(info), |info| info.upcast_from).map(|info| info.version).collect();
        assert_eq!(chain, [3, 2, 1]);
        assert_eq!((Late::INFO.oldest, Late::INFO.upcast_from.map(|info| info.version)), (2, Some(2)));
    }

    /// Written by hand, which is allowed: it reads its own version.
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct ByHand {
        cents: u64,
    }

    impl SchemaType for ByHand {
        const SCHEMA: &'static crate::schema::Schema = Late::SCHEMA;
    }

    impl StreamEvent for ByHand {
        const INFO: &'static EventInfo = &EventInfo { version: 4, oldest: 1, upcast_from: None, ..*Late::INFO };

        fn key(&self) -> Option<std::borrow::Cow<'_, str>> {
            None
        }
    }

    #[test]
    fn a_type_without_upcaster_reads_its_own_version_whatever_it_says() {
        assert_eq!(codec::decode::<ByHand>(&stored(&ByHand { cents: 1 })), Ok(ByHand { cents: 1 }));
        assert!(codec::decode::<ByHand>(&stored(&Late { cents: 1 })).unwrap_err().is_older());
    }

    proptest! {
        #[test]
        fn reading_an_old_event_is_turning_it_step_by_step(
            symbol in ".{0,9}", cents in any::<i64>(), quantities in prop::collection::vec(any::<u64>(), 0..4)
        ) {
            let legs = quantities.into_iter().map(|quantity| Leg { quantity }).collect();
            let v1 = FillV1 { symbol, cents, legs };
            let turned = FillV2::try_from(v1.clone()).map(Fill::from);
            match (codec::decode::<Fill>(&stored(&v1)), turned) {
                (Ok(read), Ok(turned)) => prop_assert_eq!(read, turned),
                (Err(error), Err(_)) => prop_assert!(error.is_not_upcast()),
                (read, turned) => prop_assert!(false, "{:?} {:?}", read, turned.is_ok()),
            }
        }

        #[test]
        fn no_bytes_under_an_old_version_do_harm(version in 0_u32..5, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = codec::decode::<Fill>(&entry(&format!("Fill@{version}"), &bytes));
        }
    }
}
