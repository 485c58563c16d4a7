//! Takes the server's replies apart without copying payloads; `super` and `tail` ask, this module reads.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use redis::Value;
use streams_core::broker::{Events, Need, cut};
use streams_core::{Entry, EntryId};

use super::slices;

/// A reply in another form than the command's; says what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub(super) struct Unexpected(pub(super) &'static str);

pub(super) type Parsed<T> = Result<T, Unexpected>;

pub(super) fn array(value: Value) -> Parsed<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        _ => Err(Unexpected("an array")),
    }
}

/// Names and values: RESP2 writes them in one array, RESP3 as a map.
pub(super) fn pairs(value: Value) -> Parsed<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Ok(pairs),
        other => {
            let mut items = array(other)?.into_iter();
            let mut pairs = Vec::with_capacity(items.len() / 2);
            while let Some(name) = items.next() {
                pairs.push((name, items.next().ok_or(Unexpected("pairs"))?));
            }
            Ok(pairs)
        }
    }
}

/// Names and values, by name.
pub(super) fn named(value: Value) -> Parsed<HashMap<String, Value>> {
    pairs(value)?.into_iter().map(|(name, value)| Ok((text(name)?, value))).collect()
}

/// Names and values that are text; others are another program's.
pub(super) fn texts(value: Value) -> Parsed<BTreeMap<String, String>> {
    Ok(pairs(value)?.into_iter().filter_map(|(name, value)| Some((text(name).ok()?, text(value).ok()?))).collect())
}

pub(super) fn bytes(value: Value) -> Parsed<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        // RESP3 answers INFO in this form.
        Value::VerbatimString { text, .. } => Ok(text.into_bytes()),
        _ => Err(Unexpected("a string")),
    }
}

pub(super) fn text(value: Value) -> Parsed<String> {
    String::from_utf8(bytes(value)?).map_err(|_| Unexpected("UTF-8"))
}

pub(super) fn number(value: Value) -> Parsed<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| Unexpected("a number that is not negative")),
        // A score, by RESP3.
        Value::Double(number) => format!("{number:.0}").parse().map_err(|_| Unexpected("a number")),
        other => text(other)?.parse().map_err(|_| Unexpected("a number")),
    }
}

pub(super) fn id(value: Value) -> Parsed<EntryId> {
    text(value)?.parse().map_err(|_| Unexpected("an entry id"))
}

/// A text that is empty for no value.
pub(super) fn maybe<T: FromStr>(text: &str, what: &'static str) -> Parsed<Option<T>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| Unexpected(what)) }
}

/// `[id, [field, value, ...]]`; one that is too large is cut.
pub(super) fn entry(value: Value) -> Parsed<Arc<Entry>> {
    let mut parts = array(value)?.into_iter();
    let (Some(entry_id), Some(fields), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Unexpected("an entry's id and fields"));
    };
    let fields = pairs(fields)?.into_iter().map(|(name, value)| Ok((bytes(name)?, bytes(value)?)));
    Ok(Arc::new(cut(Entry::new(id(entry_id)?, &fields.collect::<Parsed<Vec<_>>>()?))))
}

/// The names in the reply of XINFO GROUPS; a key that does not exist has none. Other programs choose names freely.
pub(super) fn group_names(value: Value) -> Parsed<Vec<String>> {
    let name = |group| lossy(named(group)?.remove("name").ok_or(Unexpected("a group's name"))?);
    array(value)?.into_iter().map(name).collect()
}

/// A name chosen by another program, as text.
pub(super) fn lossy(value: Value) -> Parsed<String> {
    Ok(String::from_utf8_lossy(&bytes(value)?).into_owned())
}

/// The reply of XRANGE and XREVRANGE; a string has the bytes of such a reply.
pub(super) fn entries(value: Value) -> Parsed<Vec<Arc<Entry>>> {
    let value = match value {
        Value::BulkString(list) => match slices::entries(&list) {
            Some(entries) => return Ok(entries),
            None => redis::parse_redis_value(&list).map_err(|_| Unexpected("entries"))?,
        },
        value => value,
    };
    array(value)?.into_iter().map(entry).collect()
}

/// The entry at an id, from the reply of XRANGE over that id alone.
pub(super) fn only(value: Value) -> Parsed<Option<Arc<Entry>>> {
    Ok(entries(value)?.pop())
}

/// The reply of XREAD, by the index of the key. Keys without entries are left out; the others keep the order of the
/// call.
pub(super) fn read(value: Value, keys: &[(String, EntryId)]) -> Parsed<Vec<(usize, Vec<Arc<Entry>>)>> {
    let streams = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(streams) => streams,
        other => {
            let pair = |stream| match <[Value; 2]>::try_from(array(stream)?) {
                Ok([key, entries]) => Ok((key, entries)),
                Err(_) => Err(Unexpected("a key and its entries")),
            };
            array(other)?.into_iter().map(pair).collect::<Parsed<_>>()?
        }
    };
    let mut asked = keys.iter().enumerate();
    let mut found = Vec::with_capacity(streams.len());
    for (key, list) in streams {
        let key = bytes(key)?;
        let index =
            asked.find(|(_, (name, _))| name.as_bytes() == key).ok_or(Unexpected("a key that was asked for"))?.0;
        found.push((index, entries(list)?));
    }
    Ok(found)
}

/// Events with their versions, in the form of the state: `OrderPlaced@2 OrderShipped@1`. Other words are skipped.
pub(super) fn events(text: &str) -> Events {
    let pair =
        |event: &str| event.split_once('@').and_then(|(name, version)| Some((name.to_owned(), version.parse().ok()?)));
    text.split(' ').filter_map(pair).collect()
}

/// A need, in the form of the state: `OrderShipped@1 1767225600000-0`.
pub(super) fn need(text: &str) -> Parsed<Need> {
    let parts = text.split_once(' ').and_then(|(event, entry)| Some((event.split_once('@')?, entry)));
    let ((name, version), entry) = parts.ok_or(Unexpected("an event and an entry id"))?;
    let version = version.parse().map_err(|_| Unexpected("an event's version"))?;
    Ok(Need { name: name.to_owned(), version, entry: entry.parse().map_err(|_| Unexpected("an entry id"))? })
}

/// The answer of a script: a word and its values.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) word: String,
    rest: std::vec::IntoIter<Value>,
}

impl Answer {
    pub(super) fn new(value: Value) -> Parsed<Self> {
        let mut rest = array(value)?.into_iter();
        let word = text(rest.next().ok_or(Unexpected("a word"))?)?;
        Ok(Self { word, rest })
    }

    pub(super) fn value(&mut self) -> Parsed<Value> {
        self.rest.next().ok_or(Unexpected("a longer answer"))
    }

    pub(super) fn text(&mut self) -> Parsed<String> {
        text(self.value()?)
    }

    pub(super) fn id(&mut self) -> Parsed<EntryId> {
        id(self.value()?)
    }

    pub(super) fn number(&mut self) -> Parsed<u64> {
        number(self.value()?)
    }

    pub(super) fn maybe<T: FromStr>(&mut self, what: &'static str) -> Parsed<Option<T>> {
        maybe(&self.text()?, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entries_reply(id: &str) -> Value {
        Value::Array(vec![Value::Array(vec![bulk(id), Value::Array(vec![bulk("a"), bulk("1"), bulk("a"), bulk("2")])])])
    }

    #[test]
    fn a_read_is_told_by_key_in_both_protocols() {
        let keys: Vec<_> = ["x", "y", "z"].map(|key| (key.to_owned(), EntryId::ZERO)).into();
        let fields = [(b"a".to_vec(), b"1".to_vec()), (b"a".to_vec(), b"2".to_vec())];
        let expected = [(0, EntryId::new(1, 1)), (2, EntryId::new(2, 2))]
            .map(|(index, id)| (index, vec![Arc::new(Entry::new(id, &fields))]));
        let (x, z) = (entries_reply("1-1"), entries_reply("2-2"));
        let resp3 = Value::Map(vec![(bulk("x"), x.clone()), (bulk("z"), z.clone())]);
        let resp2 = Value::Array(vec![Value::Array(vec![bulk("x"), x]), Value::Array(vec![bulk("z"), z])]);
        for reply in [resp2, resp3] {
            assert_eq!(read(reply, &keys).as_deref(), Ok(expected.as_slice()));
        }
        assert_eq!(read(Value::Nil, &keys), Ok(Vec::new()));
        assert!(read(Value::Map(vec![(bulk("other"), Value::Array(Vec::new()))]), &keys).is_err());
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for reply in [Value::Okay, Value::Array(vec![bulk("1-1")]), Value::Array(vec![Value::Array(vec![bulk("1-1")])])]
        {
            assert!(entries(reply).is_err());
        }
        assert!(entries(entries_reply("x")).is_err());
    }
}
