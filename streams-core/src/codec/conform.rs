//! Compares the bytes of a payload with a schema: finds the first value that differs, or the value that ends at a byte.
//!
//! Only errors, tests, debug builds and events with decimal numbers use it. [`super::scan`] has checked the bytes, so their depth and every length
//! in them are valid.

use std::fmt::{self, Write as _};

use crate::schema::{DECIMAL, EnumSchema, Field, ITSELF, Layout, Schema, StructSchema, Tagging, Variant, is_byte};

/// A value that differs from the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The fields that lead to it; empty for the event itself.
    pub(crate) path: String,
    /// Its first byte.
    pub(crate) offset: usize,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, expected, found } = self;
        if !path.is_empty() {
            write!(f, "`{path}`: ")?;
        }
        write!(f, "expected {expected}, found {found} at byte {offset}")
    }
}

/// A value that ends at a byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) path: String,
    pub(crate) offset: usize,
    /// Whether no value around it ends at the same byte.
    pub(crate) alone: bool,
}

/// The first value that no reader of the schema accepts. Where serde is less strict than the schema, so is this.
pub(crate) fn unreadable(schema: &'static Schema, bytes: &[u8]) -> Option<Mismatch> {
    Walk::new(bytes, None).value(schema).err()
}

/// The first value that no writer of the schema writes.
pub(crate) fn not_as_declared(schema: &'static Schema, layout: Layout, bytes: &[u8]) -> Option<Mismatch> {
    Walk::new(bytes, Some(layout)).value(schema).err()
}

/// The innermost value that ends before the byte at `end`.
pub(crate) fn ending_at(schema: &'static Schema, bytes: &[u8], end: usize) -> Option<Ended> {
    let mut walk = Walk::new(bytes, None);
    walk.end = Some(end);
    let _ = walk.value(schema);
    walk.ended
}

/// Whether two payloads hold the same values. Members of arrays and maps may have any order, because a hash set or map
/// is written in another order after it was read.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || a.len() == b.len() && Walk::new(a, None).digest() == Walk::new(b, None).digest()
}

/// A step of a path.
#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key,
}

/// The first bytes of a value; the whole value, unless it has members.
enum Head<'a> {
    Nil,
    Bool(bool),
    Int(i128),
    F32(f32),
    F64(f64),
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Array(usize),
    Map(usize),
    Ext,
    /// The end of the bytes inside a value, which a scan has ruled out.
    End,
}

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "the integer {value}"),
            Self::F32(value) => write!(f, "the f32 {value:?}"),
            Self::F64(value) => write!(f, "the f64 {value:?}"),
            // Texts and bytes may be secrets.
            Self::Str(text) if std::str::from_utf8(text).is_err() => {
                write!(f, "a string of {} bytes that is not UTF-8", text.len())
            }
            Self::Str(text) => write!(f, "a string of {} bytes", text.len()),
            Self::Bin(bytes) => write!(f, "{} raw bytes", bytes.len()),
            Self::Array(length) => write!(f, "an array of {length}"),
            Self::Map(length) => write!(f, "a map of {length}"),
            Self::Ext => f.write_str("an extension"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// A key of a map with its value.
struct Pair<'a> {
    key: Head<'a>,
    key_at: usize,
    value_at: usize,
}

impl<'a> Pair<'a> {
    fn name(&self) -> Option<&'a str> {
        match self.key {
            Head::Str(text) | Head::Bin(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name() == Some(name)
    }
}

/// The pairs of a map, read anew each time, because a list of them would take more memory than the payload.
#[derive(Clone)]
struct Members {
    /// The map.
    start: usize,
    /// Its first key.
    at: usize,
    count: usize,
    /// Keys that are tags.
    tags: Vec<&'static str>,
}

type Walked = Result<(), Mismatch>;

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The layout of written values, which have one form; `None` for values that are read, which may have others.
    written: Option<Layout>,
    path: Vec<Step<'a>>,
    /// The named types around the current value.
    around: Vec<(&'static str, &'static Schema)>,
    end: Option<usize>,
    ended: Option<Ended>,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], written: Option<Layout>) -> Self {
        Self { bytes, at: 0, written, path: Vec::new(), around: Vec::new(), end: None, ended: None }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Option<usize> {
        usize::try_from(self.number(bytes)?).ok()
    }

    fn head(&mut self) -> Head<'a> {
        self.read_head().unwrap_or(Head::End)
    }

    fn read_head(&mut self) -> Option<Head<'a>> {
        let marker = *self.take(1)?.first()?;
        // The markers of one kind count its lengths: of 1, 2, 4 and 8 bytes.
        let size = |first: u8| 1_usize << (marker - first);
        Some(match marker {
            0x00..=0x7f => Head::Int(marker.into()),
            0xe0..=0xff => Head::Int((marker as i8).into()),
            0xc0 => Head::Nil,
            0xc2 | 0xc3 => Head::Bool(marker == 0xc3),
            0xcc..=0xcf => Head::Int(self.number(size(0xcc))?.into()),
            0xd0..=0xd3 => {
                let unused = 64 - 8 * size(0xd0);
                Head::Int(((self.number(size(0xd0))? << unused) as i64 >> unused).into())
            }
            0xca => Head::F32(f32::from_bits(self.number(4)? as u32)),
            0xcb => Head::F64(f64::from_bits(self.number(8)?)),
            0xa0..=0xbf => Head::Str(self.take(usize::from(marker & 0x1f))?),
            0xd9..=0xdb => {
                let length = self.length(size(0xd9))?;
                Head::Str(self.take(length)?)
            }
            0xc4..=0xc6 => {
                let length = self.length(size(0xc4))?;
                Head::Bin(self.take(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.length(size(0xc7))?;
                self.take(length.checked_add(1)?)?;
                Head::Ext
            }
            0xd4..=0xd8 => {
                self.take(1 + size(0xd4))?;
                Head::Ext
            }
            0x90..=0x9f => Head::Array(usize::from(marker & 0x0f)),
            0xdc | 0xdd => Head::Array(self.length(2 * size(0xdc))?),
            0x80..=0x8f => Head::Map(usize::from(marker & 0x0f)),
            0xde | 0xdf => Head::Map(self.length(2 * size(0xde))?),
            0xc1 => return None,
        })
    }

    /// Skips a value.
    fn skip(&mut self) {
        let mut left = 1_usize;
        while left > 0 {
            left -= 1;
            match self.head() {
                Head::Array(length) => left += length,
                Head::Map(length) => left += 2 * length,
                Head::End => return,
                _ => {}
            }
        }
    }

    /// A digest of the value that follows; the order of members does not change it.
    fn digest(&mut self) -> u64 {
        let start = self.at;
        let (kind, members) = match self.head() {
            Head::Array(length) => (1, length),
            Head::Map(length) => (2, length),
            _ => return mix(0, &self.bytes[start..self.at]),
        };
        let mut sum = 0_u64;
        for _ in 0..members {
            let mut member = self.digest();
            if kind == 2 {
                member = mix(member, &self.digest().to_le_bytes());
            }
            sum = sum.wrapping_add(member);
        }
        mix(kind, &sum.to_le_bytes())
    }

    fn shown_path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) => {
                    let dot = if path.is_empty() { "" } else { "." };
                    let _ = write!(path, "{dot}{}", super::excerpt(name.as_bytes()));
                }
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
                Step::Key => path.push_str("{key}"),
            }
        }
        path
    }

    fn refuse(&self, offset: usize, expected: impl Into<String>, found: impl fmt::Display) -> Walked {
        let (path, expected, found) = (self.shown_path(), expected.into(), found.to_string());
        Err(Mismatch { path, offset, expected, found })
    }

    /// Walks inside a step.
    fn inside(&mut self, step: Step<'a>, schema: &'static Schema) -> Walked {
        self.path.push(step);
        self.value(schema)?;
        self.path.pop();
        Ok(())
    }

    fn value(&mut self, schema: &'static Schema) -> Walked {
        let start = self.at;
        self.form(schema)?;
        if self.end == Some(self.at) {
            match &mut self.ended {
                Some(ended) => ended.alone = false,
                None => self.ended = Some(Ended { path: self.shown_path(), offset: start, alone: true }),
            }
        }
        Ok(())
    }

    fn form(&mut self, schema: &'static Schema) -> Walked {
        let start = self.at;
        match schema {
            Schema::Opaque(_) => {
                self.skip();
                return Ok(());
            }
            Schema::Ref(name) => {
                let leads_to = |(around, _): &(&str, &Schema)| {
                    // A variant with fields is no named type.
                    if *name == ITSELF { !around.contains("::") } else { around == name }
                };
                let Some(depth) = self.around.iter().rposition(leads_to) else {
                    self.skip();
                    return Ok(());
                };
                let (_, schema) = self.around[depth];
                // There, a recursion inside leads back to the type around it.
                let inner = self.around.split_off(depth);
                let walked = self.form(schema);
                self.around.extend(inner);
                return walked;
            }
            Schema::Option(_) if self.bytes.get(start) == Some(&0xc0) => {
                self.at += 1;
                return Ok(());
            }
            Schema::Option(inner) => return self.form(inner),
            Schema::Logical { name: "uuid" | DECIMAL, .. } => {}
            Schema::Logical { wire, .. } => return self.form(wire),
            Schema::Struct(inner) => {
                self.around.push((inner.name, schema));
                let walked = self.structure(inner);
                self.around.pop();
                return walked;
            }
            Schema::Enum(inner) => {
                self.around.push((inner.name, schema));
                let walked = self.variant(inner);
                self.around.pop();
                return walked;
            }
            _ => {}
        }
        let head = self.head();
        let reads = self.written.is_none();
        let fits = match (schema, &head) {
            (Schema::Unit, Head::Nil) | (Schema::Bool, Head::Bool(_)) => true,
            (Schema::Unit, Head::Array(0)) => reads,
            (Schema::Char, Head::Str(text)) => std::str::from_utf8(text).is_ok_and(|text| text.chars().count() == 1),
            (Schema::Str, Head::Str(text)) => std::str::from_utf8(text).is_ok(),
            (Schema::Str, Head::Bin(text)) => reads && std::str::from_utf8(text).is_ok(),
            (Schema::Bytes, Head::Bin(_)) => true,
            (Schema::Bytes, Head::Str(_)) => reads,
            (Schema::Bytes, Head::Array(length)) if reads => {
                (0..*length).for_each(|_| self.skip());
                true
            }
            (Schema::Logical { name: DECIMAL, .. }, Head::Str(_)) => true,
            (Schema::Logical { name: DECIMAL, .. }, Head::Int(_)) => reads,
            (Schema::Logical { name: "uuid", .. }, Head::Bin(bytes)) => bytes.len() == 16,
            (Schema::Int { bits, signed }, Head::Int(number)) => {
                let (least, beyond) = if *signed { (-(1 << (bits - 1)), 1 << (bits - 1)) } else { (0, 1_i128 << bits) };
                (least..beyond).contains(number)
            }
            (Schema::F32, Head::F32(_)) | (Schema::F64, Head::F64(_)) => true,
            (Schema::F32 | Schema::F64, Head::F32(_) | Head::F64(_) | Head::Int(_)) => reads,
            (Schema::Seq(item), Head::Bin(_)) => is_byte(item) || reads && is_number(item),
            (Schema::Array(item, length), Head::Bin(bytes)) => {
                bytes.len() == *length && (is_byte(item) || reads && is_number(item))
            }
            (Schema::Tuple(members), Head::Bin(bytes)) => {
                bytes.len() == members.len()
                    && members.iter().all(|member| is_byte(member) || reads && is_number(member))
            }
            (Schema::Seq(item), Head::Array(length)) => return self.items(*length, |_| item),
            (Schema::Array(item, expected), Head::Array(length)) if length == expected => {
                return self.items(*length, |_| item);
            }
            // serde has defaults for the last members, where the type says so.
            (Schema::Tuple(members), Head::Array(length))
                if *length == members.len() || reads && *length < members.len() =>
            {
                return self.items(*length, |index| members[index]);
            }
            (Schema::Tuple([]), Head::Nil) => reads,
            (Schema::Map(key, value), Head::Map(length)) => {
                let members = self.members(start, *length);
                return self.each(&members, |walk, pair| walk.entry(&pair, key, value));
            }
            _ => false,
        };
        if fits { Ok(()) } else { self.refuse(start, describe(schema), head) }
    }

    fn items(&mut self, length: usize, schema: impl Fn(usize) -> &'static Schema) -> Walked {
        (0..length).try_for_each(|index| self.inside(Step::Index(index), schema(index)))
    }

    /// A pair of a map, from its key on; moves past its value.
    fn key(&mut self) -> Pair<'a> {
        let key_at = self.at;
        let key = self.head();
        self.at = key_at;
        self.skip();
        let value_at = self.at;
        self.skip();
        Pair { key, key_at, value_at }
    }

    /// Skips the pairs of the map that began at `start`.
    fn members(&mut self, start: usize, count: usize) -> Members {
        let at = self.at;
        for _ in 0..count {
            self.key();
        }
        Members { start, at, count, tags: Vec::new() }
    }

    /// Calls a function for each pair that is no tag.
    fn each(&mut self, members: &Members, mut with: impl FnMut(&mut Self, Pair<'a>) -> Walked) -> Walked {
        self.at = members.at;
        for _ in 0..members.count {
            let pair = self.key();
            let next = self.at;
            if !pair.name().is_some_and(|name| members.tags.contains(&name)) {
                with(self, pair)?;
            }
            self.at = next;
        }
        Ok(())
    }

    /// The pair with this key, which may occur once.
    fn only(&mut self, members: &Members, name: &str) -> Result<Option<Pair<'a>>, Mismatch> {
        let mut found = None;
        self.each(members, |walk, pair| {
            if !pair.is(name) {
                return Ok(());
            }
            if found.is_some() {
                return walk.refuse(pair.key_at, format!("`{name}` once"), "it a second time");
            }
            found = Some(pair);
            Ok(())
        })?;
        Ok(found)
    }

    /// A pair of a map with keys of one type.
    fn entry(&mut self, pair: &Pair<'a>, key: &'static Schema, value: &'static Schema) -> Walked {
        self.at = pair.key_at;
        self.inside(Step::Key, key)?;
        self.at = pair.value_at;
        self.inside(Step::Name(pair.name().unwrap_or("{value}")), value)
    }

    fn structure(&mut self, schema: &'static StructSchema) -> Walked {
        let start = self.at;
        match (self.head(), self.written) {
            (Head::Map(length), None | Some(Layout::Map)) => {
                let members = self.members(start, length);
                self.fields(schema, &members)
            }
            (Head::Array(length), None | Some(Layout::Array)) => self.positions(schema, length, start),
            (head, _) => self.refuse(start, format!("the fields of `{}`", schema.name), head),
        }
    }

    /// The fields of a struct in their order, in an array or in the rest of one.
    fn positions(&mut self, schema: &'static StructSchema, length: usize, start: usize) -> Walked {
        let fields = schema.fields;
        let may_end = self.written.is_none() && fields.iter().skip(length).all(|field| field.optional);
        if length > fields.len() || length < fields.len() && !may_end {
            return self.refuse(
                start,
                format!("the {} fields of `{}`", fields.len(), schema.name),
                format_args!("{length} values"),
            );
        }
        fields.iter().take(length).try_for_each(|field| self.inside(Step::Name(field.name), field.schema))
    }

    /// The fields of a struct in a map; ends behind it.
    fn fields(&mut self, schema: &'static StructSchema, members: &Members) -> Walked {
        let mut seen = vec![false; schema.fields.len()];
        self.each(members, |walk, pair| {
            let reads = walk.written.is_none();
            let index = match (pair.name(), &pair.key) {
                (Some(name), _) => {
                    schema.fields.iter().position(|field| field.name == name || reads && field.aliases.contains(&name))
                }
                // serde knows fields by their place as well.
                (None, Head::Int(index)) => usize::try_from(*index).ok().filter(|index| *index < seen.len()),
                (None, _) => None,
            };
            let Some(index) = index else {
                if reads && !schema.deny_unknown {
                    return Ok(());
                }
                let key = pair.name().map_or_else(|| pair.key.to_string(), str::to_owned);
                let key = super::excerpt(key.as_bytes());
                return walk.refuse(
                    pair.key_at,
                    format!("only fields of `{}`", schema.name),
                    format_args!("the field `{key}`"),
                );
            };
            let field = &schema.fields[index];
            if std::mem::replace(&mut seen[index], true) {
                return walk.refuse(pair.key_at, format!("the field `{}` once", field.name), "it a second time");
            }
            walk.at = pair.value_at;
            walk.inside(Step::Name(field.name), field.schema)
        })?;
        let may_be_left_out = |field: &Field| if self.written.is_some() { field.may_be_absent } else { field.optional };
        let missing = schema.fields.iter().zip(seen).find(|(field, seen)| !seen && !may_be_left_out(field));
        match missing {
            Some((field, _)) => {
                self.refuse(members.start, format!("a map with the field `{}`", field.name), "one without it")
            }
            None => Ok(()),
        }
    }

    fn variant(&mut self, schema: &'static EnumSchema) -> Walked {
        let start = self.at;
        let reads = self.written.is_none();
        let head = self.head();
        match (schema.tagging, &head) {
            (Tagging::External, Head::Str(_) | Head::Int(_)) => {
                let Some(variant) = self.named(schema, &head, start)? else { return Ok(()) };
                if matches!(variant.body, Schema::Unit) || variant.catch_all {
                    return Ok(());
                }
                self.refuse(
                    start,
                    format!("the variant `{}` in a map, with what it holds", variant.name),
                    "its name alone",
                )
            }
            (Tagging::External, Head::Map(1)) => {
                let pair = self.key();
                let end = self.at;
                self.external(schema, &pair)?;
                self.at = end;
                Ok(())
            }
            (Tagging::Internal(_) | Tagging::Adjacent(..), Head::Map(length)) => {
                let members = self.members(start, *length);
                let end = self.at;
                self.tagged(schema, members)?;
                self.at = end;
                Ok(())
            }
            (Tagging::Internal(_), Head::Array(length @ 1..)) if self.written != Some(Layout::Map) => {
                let tag_at = self.at;
                let tag = self.head();
                let variant = self.named(schema, &tag, tag_at)?;
                match variant.map(|variant| variant.body) {
                    Some(Schema::Struct(body)) => self.positions(body, length - 1, start),
                    _ => {
                        (1..*length).for_each(|_| self.skip());
                        Ok(())
                    }
                }
            }
            (Tagging::Adjacent(..), Head::Array(2)) if reads => {
                let tag_at = self.at;
                let tag = self.head();
                match self.named(schema, &tag, tag_at)? {
                    Some(variant) => self.inside(Step::Name(variant.name), variant.body),
                    None => {
                        self.skip();
                        Ok(())
                    }
                }
            }
            _ => {
                let how = match schema.tagging {
                    Tagging::External => "its name, or a map from its name to what it holds".to_owned(),
                    Tagging::Internal(tag) => format!("a map with its name in `{tag}`"),
                    Tagging::Adjacent(tag, content) => {
                        format!("a map with its name in `{tag}` and what it holds in `{content}`")
                    }
                };
                self.refuse(start, format!("a variant of `{}`: {how}", schema.name), head)
            }
        }
    }

    /// The variant of this name; `None` where a reader takes it by its number.
    fn named(
        &self,
        schema: &'static EnumSchema,
        name: &Head<'a>,
        at: usize,
    ) -> Result<Option<&'static Variant>, Mismatch> {
        let text = match name {
            Head::Str(text) => std::str::from_utf8(text).ok(),
            Head::Bin(text) if self.written.is_none() => std::str::from_utf8(text).ok(),
            Head::Int(_) if self.written.is_none() => return Ok(None),
            _ => None,
        };
        let is_named = |variant: &&Variant| {
            text.is_some_and(|text| variant.name == text || self.written.is_none() && variant.aliases.contains(&text))
        };
        let by_name = schema.variants.iter().find(is_named);
        let unknown = || schema.variants.iter().find(|variant| variant.catch_all && text.is_some());
        if let Some(variant) = by_name.or_else(unknown) {
            return Ok(Some(variant));
        }
        let names: Vec<_> = schema.variants.iter().map(|variant| format!("`{}`", variant.name)).collect();
        let found = text.map_or_else(|| name.to_string(), |text| format!("`{}`", super::excerpt(text.as_bytes())));
        self.refuse(at, format!("a variant of `{}`: {}", schema.name, names.join(", ")), found).map(|()| None)
    }

    /// The content of an enum without a tag, reported under the enum's name.
    fn external(&mut self, schema: &'static EnumSchema, pair: &Pair<'a>) -> Walked {
        self.at = pair.key_at;
        let key = self.head();
        let variant = self.named(schema, &key, pair.key_at)?;
        self.at = pair.value_at;
        match variant {
            Some(variant) => self.inside(Step::Name(variant.name), variant.body),
            None => Ok(()),
        }
    }

    /// An enum with a tag, in a map.
    fn tagged(&mut self, schema: &'static EnumSchema, mut members: Members) -> Walked {
        let (tag, content) = match schema.tagging {
            Tagging::Internal(tag) => (tag, None),
            Tagging::Adjacent(tag, content) => (tag, Some(content)),
            Tagging::External => return Ok(()),
        };
        let Some(pair) = self.only(&members, tag)? else {
            return self.refuse(
                members.start,
                format!("a map with the name of a variant of `{}` in `{tag}`", schema.name),
                "one without it",
            );
        };
        self.at = pair.value_at;
        self.path.push(Step::Name(tag));
        let name = self.head();
        let variant = self.named(schema, &name, pair.value_at)?;
        self.path.pop();
        let Some(Variant { name, body, .. }) = variant else { return Ok(()) };
        members.tags.push(tag);
        let Some(content) = content else { return self.beside(name, body, members) };
        if self.written.is_some() {
            self.each(&members, |walk, pair| {
                let is_known = pair.is(content);
                let refuse = || walk.refuse(pair.key_at, format!("`{tag}` and `{content}`"), "another key");
                if is_known { Ok(()) } else { refuse() }
            })?;
        }
        match self.only(&members, content)? {
            Some(pair) => {
                self.at = pair.value_at;
                self.inside(Step::Name(content), body)
            }
            // serde reads an `Option` that is missing as `None`.
            None if matches!(body, Schema::Unit | Schema::Option(_)) => Ok(()),
            None => {
                self.refuse(members.start, format!("a map with what `{name}` holds in `{content}`"), "one without it")
            }
        }
    }

    /// The content of a variant, in the map of its tag.
    fn beside(&mut self, name: &'static str, body: &'static Schema, members: Members) -> Walked {
        match body {
            Schema::Unit if self.written.is_some() => {
                self.each(&members, |walk, pair| walk.refuse(pair.key_at, format!("`{name}` alone"), "more beside it"))
            }
            Schema::Struct(inner) => {
                self.around.push((inner.name, body));
                self.fields(inner, &members)?;
                self.around.pop();
                Ok(())
            }
            Schema::Map(key, value) => self.each(&members, |walk, pair| walk.entry(&pair, key, value)),
            Schema::Enum(inner) => {
                self.around.push((inner.name, body));
                match inner.tagging {
                    Tagging::External => self.each(&members, |walk, pair| walk.external(inner, &pair))?,
                    _ => self.tagged(inner, members)?,
                }
                self.around.pop();
                Ok(())
            }
            Schema::Logical { wire, .. } => self.beside(name, wire, members),
            _ => Ok(()),
        }
    }
}

/// FNV-1a, as in the fingerprint of a schema: it detects accidents, not forgeries.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let seed = hash ^ 0xcbf2_9ce4_8422_2325;
    let hash = bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // Sums of these must not cancel each other.
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether serde takes a byte for one.
fn is_number(schema: &Schema) -> bool {
    matches!(schema, Schema::Int { .. } | Schema::F32 | Schema::F64)
}

/// A plain type or a container, for a message.
fn describe(schema: &Schema) -> String {
    match schema {
        Schema::Unit => "nil".to_owned(),
        Schema::Bool => "bool".to_owned(),
        Schema::Char => "a string of one character".to_owned(),
        Schema::Str => "a string".to_owned(),
        Schema::Bytes => "raw bytes".to_owned(),
        Schema::Int { bits, signed } => format!("{}{bits}", if *signed { "i" } else { "u" }),
        Schema::F32 => "f32".to_owned(),
        Schema::F64 => "f64".to_owned(),
        Schema::Seq(_) => "an array".to_owned(),
        Schema::Array(_, length) => format!("an array of {length}"),
        Schema::Tuple(members) => format!("an array of {}", members.len()),
        Schema::Map(..) => "a map".to_owned(),
        Schema::Logical { name: DECIMAL, .. } => {
            "a decimal number as text (`rust_decimal` without its feature `serde-float`)".to_owned()
        }
        Schema::Logical { name, .. } => format!("the 16 raw bytes of a {name}"),
        // The walk describes these itself.
        Schema::Option(_) | Schema::Struct(_) | Schema::Enum(_) | Schema::Opaque(_) | Schema::Ref(_) => {
            "another value".to_owned()
        }
    }
}
