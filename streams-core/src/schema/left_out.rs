//! A field of a frozen event that could be left out: its lock does not know the default that it had. Not public API.
//!
//! `frozen_event!` writes `with = "left_out"`, so that the field is `None` where it was left out, and its upcaster says
//! what that meant.

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

pub fn serialize<T: Serialize, S: Serializer>(field: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match field {
        Some(value) => value.serialize(serializer),
        None => Err(ser::Error::custom(
            "a field of an older version is `None`, for which that version had a default; give it its value",
        )),
    }
}

pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
