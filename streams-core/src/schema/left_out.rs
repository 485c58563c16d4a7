//! A field of a frozen event that a writer could leave out: its lock does not record the default. Not public API.
//!
//! `frozen_event!` writes `with = "left_out"`, so that the field is `None` if it was left out. The upcaster then
//! supplies the meaning.

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
