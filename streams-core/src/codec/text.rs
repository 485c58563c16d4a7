//! A payload as text, without the event's type: for people in the manner of JSON, and for programs as JSON.

use std::fmt::Write;

use super::scan;

/// In the place of a value that is hidden.
const HIDDEN: &str = "\"***\"";

/// The payload in the manner of JSON, cut off with ` ..` behind `most` bytes; bytes that are not MessagePack in
/// hexadecimal.
///
/// It shows values that JSON lacks as they are: bytes as `h'c1ff'`, extensions as `ext(5, h'c1ff')`. Keys that are not
/// text keep their form. The text is for people, not for programs.
pub fn text(payload: &[u8], most: usize) -> String {
    text_without(payload, most, &[])
}

/// As [`text`], with `***` for the values of these fields, at any depth. Bytes that are not MessagePack are hidden whole,
/// where any field is.
pub fn text_without(payload: &[u8], most: usize, fields: &[String]) -> String {
    let mut out = Bounded { text: String::new(), most };
    let hidden = quoted(fields);
    // The walk reads only a whole payload, whose depth and every length are valid.
    let walked = match scan(payload) {
        Ok(()) => Walk { rest: payload, out: &mut out, is_json: false, hidden: &hidden }.value(),
        Err(fault) if hidden.is_empty() => {
            out.add(&format!("not MessagePack ({fault}): ")).and_then(|()| hex(&mut out, payload))
        }
        Err(_) => out.add("not MessagePack, and hidden because fields are"),
    };
    match walked {
        Some(()) => out.text,
        None => out.text + " ..",
    }
}

/// The payload as JSON in one line, its fields in their order and every integer exact.
///
/// JSON lacks some values: bytes become a string of hexadecimal digits, and an extension becomes `{"ext": 5, "hex": "c1ff"}`.
/// A number that is not finite becomes `"NaN"`, `"inf"` or `"-inf"`, and a key that is not text becomes its text.
///
/// # Errors
/// The reason why the bytes are not MessagePack.
pub fn json(payload: &[u8]) -> Result<String, String> {
    json_without(payload, &[])
}

/// As [`json`], with `"***"` for the values of these fields, at any depth.
///
/// # Errors
/// The reason why the bytes are not MessagePack.
pub fn json_without(payload: &[u8], fields: &[String]) -> Result<String, String> {
    scan(payload).map_err(|fault| fault.to_string())?;
    let mut out = Bounded { text: String::new(), most: usize::MAX };
    // A scan has ruled out every other end than that of the bytes.
    let walked = Walk { rest: payload, out: &mut out, is_json: true, hidden: &quoted(fields) }.value();
    walked.ok_or("it ends early")?;
    Ok(out.text)
}

/// Names as keys are shown.
fn quoted(names: &[String]) -> Vec<String> {
    names.iter().filter_map(|name| rmp_serde::to_vec(name).ok()).map(|name| text(&name, usize::MAX)).collect()
}

/// Text that ends at a bound.
struct Bounded {
    text: String,
    most: usize,
}

impl Bounded {
    /// Adds as many characters as there is room for; `None` when some are left out.
    fn add(&mut self, more: &str) -> Option<()> {
        let room = self.most.saturating_sub(self.text.len());
        if more.len() <= room {
            self.text.push_str(more);
            return Some(());
        }
        let end = (0..=room).rev().find(|end| more.is_char_boundary(*end)).unwrap_or_default();
        self.text.push_str(&more[..end]);
        None
    }
}

/// Two digits per byte, and no more bytes than there is room for.
fn hex(out: &mut Bounded, bytes: &[u8]) -> Option<()> {
    let shown = &bytes[..bytes.len().min(out.most)];
    let digits = shown.iter().fold(String::with_capacity(2 * shown.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    out.add(&digits)
}

/// A walk over bytes that were scanned. Each step answers `None` at the bound of the text, and also at the end of the
/// bytes, which a scan has ruled out.
struct Walk<'a, 'b> {
    rest: &'a [u8],
    out: &'b mut Bounded,
    /// Whether programs read the text, so that it must be JSON.
    is_json: bool,
    /// The keys whose values are not shown, in quotes.
    hidden: &'b [String],
}

impl<'a> Walk<'a, '_> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// A big-endian number of this many bytes.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Option<usize> {
        usize::try_from(self.number(bytes)?).ok()
    }

    fn value(&mut self) -> Option<()> {
        let marker = *self.take(1)?.first()?;
        // The markers of one kind count its lengths: of 1, 2, 4 and 8 bytes.
        let size = |first: u8| 1_usize << (marker - first);
        match marker {
            0x00..=0x7f => self.shown(marker),
            0xe0..=0xff => self.shown(marker as i8),
            0xc0 => self.out.add("null"),
            0xc2 => self.out.add("false"),
            0xc3 => self.out.add("true"),
            0xcc..=0xcf => {
                let number = self.number(size(0xcc))?;
                self.shown(number)
            }
            0xd0 => {
                let number = self.number(1)? as u8 as i8;
                self.shown(number)
            }
            0xd1 => {
                let number = self.number(2)? as u16 as i16;
                self.shown(number)
            }
            0xd2 => {
                let number = self.number(4)? as u32 as i32;
                self.shown(number)
            }
            0xd3 => {
                let number = self.number(8)? as i64;
                self.shown(number)
            }
            0xca => {
                let number = f32::from_bits(self.number(4)? as u32);
                self.float(&format!("{number:?}"), number.is_finite())
            }
            0xcb => {
                let number = f64::from_bits(self.number(8)?);
                self.float(&format!("{number:?}"), number.is_finite())
            }
            0xa0..=0xbf => self.string(usize::from(marker & 0x1f)),
            0xd9..=0xdb => {
                let length = self.length(size(0xd9))?;
                self.string(length)
            }
            0xc4..=0xc6 => {
                let length = self.length(size(0xc4))?;
                self.bytes(length)
            }
            0xc7..=0xc9 => {
                let length = self.length(size(0xc7))?;
                self.extension(length)
            }
            0xd4..=0xd8 => self.extension(size(0xd4)),
            0x90..=0x9f => self.array(usize::from(marker & 0x0f)),
            0xdc | 0xdd => {
                let length = self.length(2 * size(0xdc))?;
                self.array(length)
            }
            0x80..=0x8f => self.map(usize::from(marker & 0x0f)),
            0xde | 0xdf => {
                let length = self.length(2 * size(0xde))?;
                self.map(length)
            }
            0xc1 => None,
        }
    }

    fn shown(&mut self, number: impl std::fmt::Display) -> Option<()> {
        self.out.add(&number.to_string())
    }

    fn float(&mut self, text: &str, is_finite: bool) -> Option<()> {
        if self.is_json && !is_finite { self.out.add(&format!("\"{text}\"")) } else { self.out.add(text) }
    }

    fn string(&mut self, length: usize) -> Option<()> {
        let bytes = self.take(length)?;
        // Reads no more than could be shown.
        let shown = &bytes[..length.min(self.out.most)];
        self.out.add("\"")?;
        for character in String::from_utf8_lossy(shown).chars() {
            match character {
                '"' => self.out.add("\\\"")?,
                '\\' => self.out.add("\\\\")?,
                '\n' => self.out.add("\\n")?,
                '\r' => self.out.add("\\r")?,
                '\t' => self.out.add("\\t")?,
                // Characters that a terminal would take for a command.
                control if control.is_control() => self.out.add(&format!("\\u{:04x}", u32::from(control)))?,
                plain => self.out.add(plain.encode_utf8(&mut [0; 4]))?,
            }
        }
        self.out.add("\"")
    }

    fn bytes(&mut self, length: usize) -> Option<()> {
        let bytes = self.take(length)?;
        let (before, behind) = if self.is_json { ("\"", "\"") } else { ("h'", "'") };
        self.out.add(before)?;
        hex(self.out, bytes)?;
        self.out.add(behind)
    }

    fn extension(&mut self, length: usize) -> Option<()> {
        let kind = self.number(1)? as u8 as i8;
        let (before, behind) =
            if self.is_json { (format!("{{\"ext\": {kind}, \"hex\": "), "}") } else { (format!("ext({kind}, "), ")") };
        self.out.add(&before)?;
        self.bytes(length)?;
        self.out.add(behind)
    }

    fn array(&mut self, length: usize) -> Option<()> {
        self.out.add("[")?;
        for index in 0..length {
            if index > 0 {
                self.out.add(", ")?;
            }
            self.value()?;
        }
        self.out.add("]")
    }

    fn map(&mut self, length: usize) -> Option<()> {
        self.out.add("{")?;
        for index in 0..length {
            if index > 0 {
                self.out.add(", ")?;
            }
            let begin = self.out.text.len();
            self.key()?;
            let is_hidden = self.hidden.iter().any(|key| *key == self.out.text[begin..]);
            self.out.add(": ")?;
            if is_hidden {
                self.out.add(HIDDEN)?;
                self.pass_over()?;
            } else {
                self.value()?;
            }
        }
        self.out.add("}")
    }

    fn pass_over(&mut self) -> Option<()> {
        let mut nowhere = Bounded { text: String::new(), most: usize::MAX };
        let mut walk = Walk { rest: self.rest, out: &mut nowhere, is_json: self.is_json, hidden: &[] };
        walk.value()?;
        self.rest = walk.rest;
        Some(())
    }

    fn key(&mut self) -> Option<()> {
        let begin = self.out.text.len();
        self.value()?;
        if self.is_json && !self.out.text[begin..].starts_with('"') {
            let key = self.out.text.split_off(begin).replace('\\', "\\\\").replace('"', "\\\"");
            self.out.add(&format!("\"{key}\""))?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    #[derive(Serialize)]
    struct Everything {
        text: &'static str,
        numbers: (u8, i8, i64, u64, f64, f32),
        flags: [bool; 2],
        none: Option<u8>,
        #[serde(with = "serde_bytes")]
        raw: Vec<u8>,
        inner: std::collections::BTreeMap<u16, &'static str>,
    }

    /// Bytes as serde knows them, because `serde_bytes` is no dependency.
    mod serde_bytes {
        pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(bytes)
        }
    }

    #[test]
    fn everything_that_messagepack_has_is_shown() {
        let everything = Everything {
            text: "say \"hi\"\n\u{1b}[31m ä",
            numbers: (200, -5, -1_000_000_000_000, u64::MAX, 39432.48, 0.5),
            flags: [true, false],
            none: None,
            raw: vec![0xc1, 0xff],
            inner: [(300, "x")].into(),
        };
        let payload = rmp_serde::to_vec_named(&everything).unwrap();
        assert_eq!(
            text(&payload, 1000),
            r#"{"text": "say \"hi\"\n\u001b[31m ä", "numbers": [200, -5, -1000000000000, 18446744073709551615, 39432.48, 0.5], "flags": [true, false], "none": null, "raw": h'c1ff', "inner": {300: "x"}}"#
        );
        assert_eq!(text(&[0xd6, 0xff, 0, 1, 2, 3], 100), "ext(-1, h'00010203')");
        assert_eq!(text(&[0xc7, 2, 5, 0xc1, 0xff], 100), "ext(5, h'c1ff')");
    }

    #[test]
    fn json_is_json_and_exact() {
        let everything = Everything {
            text: "say \"hi\"\n\u{1b}[31m ä",
            numbers: (200, -5, i64::MIN, u64::MAX, f64::NAN, 0.1),
            flags: [true, false],
            none: None,
            raw: vec![0xc1, 0xff],
            inner: [(300, "x")].into(),
        };
        let shown = json(&rmp_serde::to_vec_named(&everything).unwrap()).unwrap();
        assert_eq!(
            shown,
            r#"{"text": "say \"hi\"\n\u001b[31m ä", "numbers": [200, -5, -9223372036854775808, 18446744073709551615, "NaN", 0.1], "flags": [true, false], "none": null, "raw": "c1ff", "inner": {"300": "x"}}"#
        );
        serde_json::from_str::<serde_json::Value>(&shown).unwrap();
        // A map whose keys are an extension, a map and an array.
        let keys = [&[0x83, 0xd6, 0xff, 0, 1, 2, 3, 1, 0x81, 0xa1, b'"', 2, 3, 0x91, 0xa1, b'\\', 4][..]].concat();
        let value: serde_json::Value = serde_json::from_str(&json(&keys).unwrap()).unwrap();
        assert_eq!(value[r#"{"ext": -1, "hex": "00010203"}"#], 1, "{value}");
        assert_eq!(value[r#"["\\"]"#], 4, "{value}");
        assert_eq!(json(&[1, 2]).unwrap_err(), "the event ends at byte 1, and 1 more follow");
        for bad in [&[0xc1][..], &[0x92, 1], &[0x91; 5_000]] {
            json(bad).unwrap_err();
        }
    }

    #[test]
    fn fields_are_hidden_at_any_depth_and_however_short_the_text_is() {
        let value = serde_json::json!({ "a\"b": 1, "of": [{ "card": { "n": "secret" }, "ok": 2 }], "card": "secret" });
        let payload = rmp_serde::to_vec_named(&value).unwrap();
        let hidden = ["card".to_owned(), "a\"b".to_owned()];
        let shown: serde_json::Value = serde_json::from_str(&json_without(&payload, &hidden).unwrap()).unwrap();
        assert_eq!(shown, serde_json::json!({ "a\"b": "***", "of": [{ "card": "***", "ok": 2 }], "card": "***" }));
        for most in 0..100 {
            assert!(!text_without(&payload, most, &hidden).contains("secret"));
        }
        assert!(text(&payload, 1000).contains("secret"));
        assert!(!text_without(&[0xc1, 0xff], 1000, &hidden).contains("c1ff"));
    }

    #[test]
    fn lengths_of_every_size_are_read() {
        for length in [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let (words, list) = ("x".repeat(length), vec![7_u8; length]);
            assert_eq!(text(&rmp_serde::to_vec(&words).unwrap(), usize::MAX), format!("{words:?}"));
            assert_eq!(text(&rmp_serde::to_vec(&list).unwrap(), usize::MAX), format!("{list:?}"));
            let map: std::collections::BTreeMap<_, _> = list.iter().enumerate().collect();
            assert_eq!(text(&rmp_serde::to_vec(&map).unwrap(), usize::MAX), format!("{map:?}"));
        }
    }

    #[test]
    fn it_is_cut_between_two_characters() {
        let payload = rmp_serde::to_vec(&"ä".repeat(1000)).unwrap();
        assert_eq!(text(&payload, 4), "\"ä ..");
        for most in 0..20 {
            assert!(text(&payload, most).len() <= most + 3);
        }
        assert_eq!(text(&rmp_serde::to_vec(&1234567).unwrap(), 3), "123 ..");
    }

    #[test]
    fn what_is_no_messagepack_is_shown_as_bytes() {
        assert!(text(&[0xc1, 0xff], 1000).ends_with(": c1ff"), "{}", text(&[0xc1, 0xff], 1000));
        assert!(text(&[0x92, 0x01], 1000).ends_with(": 9201"));
        assert_eq!(text(&[], 1000), "not MessagePack (it ends at byte 0 in the middle of a value): ");
    }
}
