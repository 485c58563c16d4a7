//! Lists of entries pass the parser of the `redis` crate as one string each, and entries are sliced out of that.
//!
//! The crate builds a tree with several allocations per field, which cost more than all the rest of reading. [`Listed`] stands between a
//! connection and the crate. It finds the end of each reply and the lists of entries in it, and writes each list as a bulk string that
//! holds the list's own bytes. [`entries`] reads such a string. Everything else reaches the crate as it came, errors too, so what a
//! reply means stays with the crate. The protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use streams_core::broker::cut;
use streams_core::{Entry, EntryId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How deep arrays may be nested: as deep as the crate follows.
const DEEPEST: usize = 100;
/// How many bytes are read at once.
const READ: usize = 64 * 1024;
/// A connection keeps so much room for what comes, at most.
const KEPT: usize = 1024 * 1024;
/// An id is no longer: two numbers of twenty digits.
const LONGEST_ID: i64 = 41;

/// The search for the end of one reply. It goes on where it stopped when more bytes have come.
#[derive(Debug, Default)]
struct Frame {
    /// Where the next value begins.
    at: usize,
    /// How many values are still to come in each array that is open, from the outermost on.
    open: Vec<u64>,
    is_begun: bool,
    /// A push is in it, which is no answer to anything.
    is_push: bool,
    /// The list of entries that is open: where it begins, and how many arrays are open around it.
    list: Option<(usize, usize)>,
    /// The lists of entries that were found.
    lists: Vec<(usize, usize)>,
}

/// How a search goes on.
enum Step {
    /// The value is read, and so many others belong to it.
    Read(u64),
    /// More bytes are needed.
    Short,
    /// The bytes are no reply.
    Broken,
}

impl Frame {
    /// Where the reply ends in these bytes; `Ok(None)` where more have to come, and `Err` where they are no reply. Earlier calls have seen
    /// the beginning of the same bytes.
    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ()> {
        while !self.is_begun || !self.open.is_empty() {
            let values = match self.entry(bytes) {
                Some(next) => {
                    self.at = next;
                    0
                }
                None => match self.step(bytes) {
                    Step::Read(values) => values,
                    Step::Short => return Ok(None),
                    Step::Broken => return Err(()),
                },
            };
            self.is_begun = true;
            if let Some(left) = self.open.last_mut() {
                *left -= 1;
            }
            if values > 0 {
                self.open.push(values);
            }
            while self.open.last() == Some(&0) {
                self.open.pop();
            }
            if let Some((list, _)) = self.list.take_if(|(_, depth)| self.open.len() <= *depth) {
                self.lists.push((list, self.at));
            }
        }
        Ok(Some(self.at))
    }

    /// The end of the next entry in the open list, where all of it has come in the usual form. Nearly all of a reply is such entries,
    /// and this is quicker than one step per value.
    fn entry(&self, bytes: &[u8]) -> Option<usize> {
        let (_, depth) = self.list?;
        let mut slices = Slices { bytes, at: self.at };
        (self.open.len() == depth + 1 && slices.entry(|_, _| ()).is_some()).then_some(slices.at)
    }

    /// Reads the first line of the next value, and its bytes where it is a string.
    fn step(&mut self, bytes: &[u8]) -> Step {
        let Some((kind, line, mut next)) = line(bytes, self.at) else { return Step::Short };
        if self.open.len() >= DEEPEST {
            return Step::Broken;
        }
        // All values of a list are entries, and these are of arrays and strings.
        let is_entry = (kind, line) == (b'*', b"2");
        let is_part = matches!(kind, b'*' | b'$');
        self.list.take_if(|(_, depth)| !(is_entry || is_part && self.open.len() > *depth + 1));
        let values = match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => 0,
            b'$' | b'!' | b'=' => match number(line) {
                Some(length @ 0..) => {
                    let end = usize::try_from(length).ok().and_then(|length| next.checked_add(length));
                    let Some(end) = end else { return Step::Broken };
                    match bytes.get(end..).unwrap_or_default() {
                        [b'\r', b'\n', ..] => next = end + 2,
                        [] | [b'\r'] => return Step::Short,
                        _ => return Step::Broken,
                    }
                    0
                }
                Some(_) if kind == b'$' => 0,
                _ => return Step::Broken,
            },
            b'*' | b'~' | b'>' => {
                let Some(values) = number(line) else { return Step::Broken };
                self.is_push |= kind == b'>';
                if kind == b'*' && values > 0 && self.list.is_none() && !self.is_push {
                    match is_list(bytes, next) {
                        Some(true) => self.list = Some((self.at, self.open.len())),
                        Some(false) => {}
                        None => return Step::Short,
                    }
                }
                u64::try_from(values).unwrap_or(0)
            }
            b'%' | b'|' => {
                let pairs = number(line).and_then(|pairs| u64::try_from(pairs).ok());
                // The value that has the attributes follows them.
                match pairs.and_then(|pairs| pairs.checked_mul(2)) {
                    Some(values) => values + u64::from(kind == b'|'),
                    None => return Step::Broken,
                }
            }
            _ => return Step::Broken,
        };
        self.at = next;
        Step::Read(values)
    }
}

/// Whether the first value of an array is an entry: an id, and strings in pairs. `None` where more bytes are needed to say so.
fn is_list(bytes: &[u8], at: usize) -> Option<bool> {
    let head = |at, kind| line(bytes, at).map(|(found, line, next)| (number(line).filter(|_| found == kind), next));
    let (pair, at) = head(at, b'*')?;
    if pair != Some(2) {
        return Some(false);
    }
    let (length, at) = head(at, b'$')?;
    let Some(length @ 3..=LONGEST_ID) = length else { return Some(false) };
    let end = at + length as usize;
    let id = bytes.get(at..end)?;
    if !id.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return Some(false);
    }
    let (texts, at) = head(end + 2, b'*')?;
    match texts {
        Some(0) => Some(true),
        Some(texts @ 1..) if texts % 2 == 0 => Some(*bytes.get(at)? == b'$'),
        _ => Some(false),
    }
}

/// The type of the value at this place, the rest of its first line, and what follows that.
fn line(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let (kind, rest) = bytes.get(at..)?.split_first()?;
    let length = match rest {
        // Nearly every line is a short number.
        [_, b'\r', b'\n', ..] => 1,
        [_, _, b'\r', b'\n', ..] => 2,
        _ => rest.windows(2).position(|end| end == b"\r\n")?,
    };
    Some((*kind, &rest[..length], at + 1 + length + 2))
}

/// A number as the crate reads it.
fn number(line: &[u8]) -> Option<i64> {
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// The entries of a list, from its own bytes; `None` where these have not the usual form. One that is too large is cut.
pub(super) fn entries(list: &[u8]) -> Option<Vec<Arc<Entry>>> {
    let mut slices = Slices { bytes: list, at: 0 };
    let (mut entries, mut fields) = (Vec::new(), Vec::new());
    for _ in 0..slices.head(b'*')? {
        fields.clear();
        let id = id(slices.entry(|name, value| fields.push((name, value)))?)?;
        entries.push(Arc::new(cut(Entry::new(id, &fields))));
    }
    (slices.at == list.len()).then_some(entries)
}

fn id(text: &[u8]) -> Option<EntryId> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A place in a list.
struct Slices<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Slices<'a> {
    /// The number in the head of a value of this type, where it is written in digits alone.
    fn head(&mut self, kind: u8) -> Option<usize> {
        let line = self.bytes.get(self.at..)?.strip_prefix(&[kind])?;
        let (mut number, mut digits) = (0_usize, 0);
        while let Some(digit @ b'0'..=b'9') = line.get(digits) {
            number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
            digits += 1;
        }
        self.at += 1 + digits + 2;
        (digits > 0 && line[digits..].starts_with(b"\r\n")).then_some(number)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.head(b'$')?;
        let (text, rest) = self.bytes.get(self.at..)?.split_at_checked(length)?;
        self.at += length + 2;
        rest.starts_with(b"\r\n").then_some(text)
    }

    /// Reads an entry: hands each name with its value on, and answers the text of its id.
    fn entry(&mut self, mut field: impl FnMut(&'a [u8], &'a [u8])) -> Option<&'a [u8]> {
        let 2 = self.head(b'*')? else { return None };
        let id = self.text()?;
        let texts = self.head(b'*')?;
        if texts % 2 != 0 {
            return None;
        }
        for _ in 0..texts / 2 {
            field(self.text()?, self.text()?);
        }
        Some(id)
    }
}

/// A stream on which each list of entries stands in a bulk string.
pub(super) struct Listed<S> {
    stream: S,
    /// Room for bytes that come. A reply begins at `begun`, and the bytes end at `filled`.
    come: Vec<u8>,
    begun: usize,
    filled: usize,
    frame: Frame,
    /// The pieces of a reply that are still to be handed on.
    ready: VecDeque<Piece>,
    /// The heads and ends of the bulk strings among them.
    written: Vec<u8>,
    /// The bytes were no reply, or end: they are handed on as they come, and the crate says what is wrong.
    is_plain: bool,
}

/// A piece of a reply.
enum Piece {
    /// Bytes of `come`.
    Come(Range<usize>),
    /// Bytes of `written`.
    Written(Range<usize>),
}

impl<S> Listed<S> {
    pub(super) fn over(stream: S) -> Self {
        let (come, written, ready) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { stream, come, begun: 0, filled: 0, frame: Frame::default(), ready, written, is_plain: false }
    }

    /// Makes the next reply ready, if all of it has come.
    fn prepare(&mut self) {
        let come = &self.come[self.begun..self.filled];
        let end = match self.frame.end(come) {
            Ok(Some(end)) => end,
            Ok(None) if !self.is_plain => return,
            Ok(None) => come.len(),
            Err(()) => {
                self.is_plain = true;
                come.len()
            }
        };
        let mut lists = std::mem::take(&mut self.frame).lists;
        if self.is_plain {
            lists.clear();
        }
        self.written.clear();
        let mut from = self.begun;
        for (list, list_end) in lists {
            let (list, list_end) = (self.begun + list, self.begun + list_end);
            self.ready.push_back(Piece::Come(from..list));
            self.write(&format!("${}\r\n", list_end - list));
            self.ready.push_back(Piece::Come(list..list_end));
            self.write("\r\n");
            from = list_end;
        }
        self.begun += end;
        self.ready.push_back(Piece::Come(from..self.begun));
    }

    fn write(&mut self, text: &str) {
        let begin = self.written.len();
        self.written.extend_from_slice(text.as_bytes());
        self.ready.push_back(Piece::Written(begin..self.written.len()));
    }

    /// Makes room for more; gives back that of a large reply.
    fn make_room(&mut self) {
        if self.begun > 0 {
            self.come.copy_within(self.begun..self.filled, 0);
            (self.begun, self.filled) = (0, self.filled - self.begun);
        }
        let wanted = self.filled + READ;
        if self.come.len() < wanted {
            self.come.resize(wanted.max(2 * self.filled), 0);
        } else if self.filled == 0 && self.come.len() > KEPT {
            self.come = vec![0; READ];
        }
    }

    /// Hands on as much as there is room for.
    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) {
        while buffer.remaining() > 0
            && let Some(piece) = self.ready.front_mut()
        {
            let (bytes, range) = match piece {
                Piece::Come(range) => (&self.come, range),
                Piece::Written(range) => (&self.written, range),
            };
            let taken = range.len().min(buffer.remaining());
            buffer.put_slice(&bytes[range.start..range.start + taken]);
            range.start += taken;
            if range.start == range.end {
                self.ready.pop_front();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.remaining();
        loop {
            this.hand_on(buffer);
            if buffer.remaining() < before || before == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.filled > this.begun {
                this.prepare();
            }
            if !this.ready.is_empty() {
                continue;
            }
            this.make_room();
            let mut room = ReadBuf::new(&mut this.come[this.filled..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
            match room.filled().len() {
                0 if this.filled == 0 => return Poll::Ready(Ok(())),
                0 => this.is_plain = true,
                come => this.filled += come,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::task::Waker;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use redis::{Parser, Value};

    use super::super::parse;
    use super::*;

    /// A stream that brings these pieces, one at a time, and then ends.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(buffer.remaining()));
                buffer.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    /// The bytes that the crate receives when these come in these pieces.
    fn listed(bytes: &[u8], cuts: &[Index]) -> Vec<u8> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).filter(|piece| !piece.is_empty());
        let mut stream = Listed::over(Pieces(pieces.collect()));
        let (mut all, mut room) = (Vec::new(), [0; 100]);
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
            assert!(matches!(read, Poll::Ready(Ok(()))));
            if buffer.filled().is_empty() {
                return all;
            }
            all.extend_from_slice(buffer.filled());
        }
    }

    /// The replies in these bytes, up to the first that is none.
    fn replies(mut bytes: &[u8]) -> Vec<Value> {
        let mut parser = Parser::new();
        std::iter::from_fn(|| parser.parse_value(&mut bytes).ok()).collect()
    }

    /// Whether this is the same reply, with lists as strings; answers how many lists there are.
    fn same(whole: &Value, listed: &Value) -> Option<usize> {
        match (whole, listed) {
            (Value::Array(items), Value::BulkString(list)) => {
                let sliced = entries(list);
                if replies(list) != [Value::Array(items.clone())] {
                    return None;
                }
                let built = parse::entries(whole.clone());
                let is_same = sliced.is_none_or(|sliced| built.as_ref() == Ok(&sliced));
                (is_same && parse::entries(listed.clone()) == built).then_some(1)
            }
            (Value::Array(a), Value::Array(b)) | (Value::Set(a), Value::Set(b)) => {
                all_same(a.iter().zip(b), a.len() == b.len())
            }
            (Value::Push { kind: a, data: x }, Value::Push { kind: b, data: y }) => {
                all_same(x.iter().zip(y), a == b && x.len() == y.len())
            }
            (Value::Map(a), Value::Map(b)) => {
                let flat = |pairs: &[(Value, Value)]| {
                    pairs.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect::<Vec<_>>()
                };
                all_same(flat(a).iter().zip(&flat(b)), a.len() == b.len())
            }
            (Value::Attribute { data: a, attributes: x }, Value::Attribute { data: b, attributes: y }) => {
                Some(same(a, b)? + same(&Value::Map(x.clone()), &Value::Map(y.clone()))?)
            }
            (a, b) => (format!("{a:?}") == format!("{b:?}")).then_some(0),
        }
    }

    fn all_same<'a>(pairs: impl Iterator<Item = (&'a Value, &'a Value)>, is_as_long: bool) -> Option<usize> {
        is_as_long.then(|| pairs.map(|(a, b)| same(a, b)).sum())?
    }

    fn bulk(text: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
    }

    fn array(kind: char, length: usize, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let items: Vec<_> = items.into_iter().collect();
        [format!("{kind}{length}\r\n").into_bytes(), items.concat()].concat()
    }

    fn list(items: Vec<Vec<u8>>) -> Vec<u8> {
        array('*', items.len(), items)
    }

    fn some_entry() -> impl Strategy<Value = Vec<u8>> {
        let id = prop_oneof![9 => "[0-9]{1,14}-[0-9]{1,3}", 1 => "[-0-9a]{0,5}"];
        let text = prop_oneof![8 => vec(any::<u8>(), 0..30), 1 => vec(any::<u8>(), 90..300), 1 => Just(b"\r\n$3\r\n".to_vec())];
        let fields = prop_oneof![9 => vec((text.clone(), text), 0..5), 1 => Just(Vec::new())];
        (id, fields).prop_map(|(id, fields)| {
            let texts = fields.into_iter().flat_map(|(name, value)| [bulk(&name), bulk(&value)]).collect();
            list(vec![bulk(id.as_bytes()), list(texts)])
        })
    }

    /// Replies of every type, with lists of entries in them.
    fn some_reply() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof!["[-+ ]?[0-9]{1,20} ?", Just("-1".to_owned()), "[a-z]{1,3}"];
        let line = (
            select(&b"+-:_,#(Q"[..]),
            prop_oneof![number.clone(), "[ -~]{0,9}", Just("t".to_owned()), Just("OK".to_owned())],
        );
        let line = line.prop_map(|(kind, line)| [&[kind], line.as_bytes(), b"\r\n"].concat());
        let odd = (select(&b"$!=*%|~>"[..]), number)
            .prop_map(|(kind, number)| [&[kind], number.as_bytes(), b"\r\n"].concat());
        let blob = (select(&b"$!="[..]), prop_oneof![vec(any::<u8>(), 0..20), Just(b"txt:a".to_vec())]).prop_map(
            |(kind, text)| {
                let mut blob = bulk(&text);
                blob[0] = kind;
                blob
            },
        );
        let entries = || vec(some_entry(), 0..6).prop_map(list);
        let leaf = prop_oneof![4 => line, 1 => odd, 4 => blob, 6 => entries(), 1 => some_entry()];
        leaf.prop_recursive(4, 24, 5, |inner| {
            let kind = select(&['*', '*', '*', '*', '~', '>', '%', '|'][..]);
            (kind, vec(inner, 0..6)).prop_map(|(kind, items)| match kind {
                '%' => array(kind, items.len() / 2, items),
                '|' => array(kind, items.len().saturating_sub(1) / 2, items),
                _ => array(kind, items.len(), items),
            })
        })
    }

    fn config() -> ProptestConfig {
        let cases = env::var("SLICES_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_crate_reads_the_same_with_and_without_lists(
            bytes in vec(some_reply(), 1..4).prop_map(|replies| replies.concat()),
            changes in vec((any::<Index>(), prop_oneof![any::<u8>(), select(&b"*$%\r\n-0129"[..])]), 0..3),
            cut in prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)],
            cuts in vec(any::<Index>(), 0..4),
        ) {
            let mut bytes = bytes;
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let (whole, listed) = (replies(&bytes), replies(&listed(&bytes, &cuts)));
            let shown = String::from_utf8_lossy(&bytes);
            prop_assert!(all_same(whole.iter().zip(&listed), whole.len() == listed.len()).is_some(), "{shown:?}: {whole:?} {listed:?}");
        }
    }

    #[test]
    fn lists_of_entries_are_found_wherever_they_are_and_nothing_else_is_one() {
        let entry = |id: &str| list(vec![bulk(id.as_bytes()), list(vec![bulk(b"event"), bulk(b"Trade@1")])]);
        let some = || list(vec![entry("1-1"), entry("18446744073709551615-18446744073709551615")]);
        let of_key = |key: &str| list(vec![bulk(key.as_bytes()), some()]);
        for (reply, lists) in [
            (some(), 1),
            (list(vec![]), 0),
            (list(vec![of_key("a"), of_key("b")]), 2),
            (array('%', 1, [bulk(b"a"), some()]), 1),
            (list(vec![of_key("1-1")]), 1),
            (list(vec![bulk(b"page"), bulk(b"1"), some()]), 1),
            // Entries with numbers behind them, as a fetch answers with.
            (list(vec![bulk(b"chunk"), list(vec![list(vec![entry("1-1"), bulk(b"2"), bulk(b"0")])]), some()]), 1),
            (entry("1-1"), 0),
            (b"-ERR no\r\n".to_vec(), 0),
        ] {
            let (whole, given) = (replies(&reply), listed(&reply, &[]));
            let found = all_same(whole.iter().zip(&replies(&given)), true);
            assert_eq!(found, Some(lists), "{}", String::from_utf8_lossy(&reply));
        }
    }

    #[test]
    fn an_entry_holds_its_own_bytes_and_no_reply() {
        let large = vec![b'x'; 1024 * 1024];
        let entry = |value: &[u8]| list(vec![bulk(b"1-1"), list(vec![bulk(b"payload"), bulk(value)])]);
        let mut found = entries(&list(vec![entry(&large), entry(b"y")])).unwrap();
        let small = found.pop().unwrap();
        assert_eq!(small.payload(), Some(&b"y"[..]));
        assert_eq!(Arc::strong_count(&small), 1, "nothing else refers to it, and it refers to nothing");
    }

    #[test]
    fn room_for_a_large_reply_is_given_back() {
        let large = list(vec![bulk(&vec![b'x'; 4 * KEPT])]);
        let mut stream = Listed::over(Pieces(VecDeque::from([large, b"+OK\r\n".to_vec(), b"+OK\r\n".to_vec()])));
        let mut room = vec![0; 8 * KEPT];
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let mut buffer = ReadBuf::new(&mut room);
            let _ = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
            sizes.push(stream.come.len());
        }
        assert!(sizes[0] > 4 * KEPT && sizes[2] <= KEPT, "{sizes:?}");
    }
}
