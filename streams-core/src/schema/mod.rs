//! The shape of an event, known at compile time.

/// A type whose wire form is known.
pub trait SchemaType {}
