//! Conditions on entries, such as `price>100`, `event=Trade` or `buyer.name~ada`.
//!
//! A condition is a place, an operator (`=` `!=` `>` `<` `>=` `<=` `~`) and a value. The place is a field of the payload
//! by its dotted path (`lines.0.sku`), `event`, `id` (the event's id), or `header.NAME`; `payload.event` is the field of
//! that name. Numbers are compared as numbers, anything else as text, and `~` means that the text holds the value.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Is,
    IsNot,
    Above,
    Below,
    AtLeast,
    AtMost,
    Holds,
}

/// In the order in which they are looked for: the longer ones first.
const OPS: [(&str, Op); 7] = [
    ("!=", Op::IsNot),
    (">=", Op::AtLeast),
    ("<=", Op::AtMost),
    ("=", Op::Is),
    (">", Op::Above),
    ("<", Op::Below),
    ("~", Op::Holds),
];

/// A condition on an entry in the form of [`payload::entry`](crate::payload::entry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    path: Vec<String>,
    op: Op,
    value: String,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = OPS.iter().filter_map(|(sign, op)| text.find(sign).map(|at| (at, *sign, *op)));
        // `min_by_key` keeps the first of two signs at one place, which is the longer.
        let Some((at, sign, op)) = found.min_by_key(|(at, ..)| *at).filter(|(at, ..)| *at > 0) else {
            return Err("expected a condition such as `price>100`, `event=Trade` or `buyer.name~ada`".to_owned());
        };
        let place = text[..at].trim();
        let path = match place {
            "event" => vec!["event".to_owned()],
            "id" => vec!["event_id".to_owned()],
            _ => match place.split_once('.') {
                Some(("header", name)) => vec!["headers".to_owned(), name.to_owned()],
                Some(("payload", rest)) => payload_path(rest),
                _ => payload_path(place),
            },
        };
        Ok(Self { path, op, value: text[at + sign.len()..].trim().to_owned() })
    }
}

fn payload_path(path: &str) -> Vec<String> {
    std::iter::once("payload").chain(path.split('.')).map(str::to_owned).collect()
}

impl Condition {
    /// Whether the entry meets it; a field that is not there meets `!=` alone.
    pub(crate) fn meets(&self, entry: &Value) -> bool {
        let mut value = entry;
        for step in &self.path {
            let next = match value {
                Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                other => other.get(step),
            };
            match next {
                Some(next) => value = next,
                None => return self.op == Op::IsNot,
            }
        }
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let order = compare(&text, &self.value, value.is_number());
        match self.op {
            Op::Is => order == Ordering::Equal,
            Op::IsNot => order != Ordering::Equal,
            Op::Above => order == Ordering::Greater,
            Op::Below => order == Ordering::Less,
            Op::AtLeast => order != Ordering::Less,
            Op::AtMost => order != Ordering::Greater,
            Op::Holds => text.contains(&self.value),
        }
    }
}

/// Whole numbers are compared exactly.
fn compare(text: &str, value: &str, is_number: bool) -> Ordering {
    if is_number {
        if let (Ok(a), Ok(b)) = (text.parse::<i128>(), value.parse::<i128>()) {
            return a.cmp(&b);
        }
        if let (Ok(a), Ok(b)) = (text.parse::<f64>(), value.parse::<f64>()) {
            return a.total_cmp(&b);
        }
    }
    text.cmp(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_met_by_what_they_say() {
        let entry = json!({
            "event": "Trade", "event_id": "t-1", "headers": { "tenant": "a" },
            "payload": { "price": 100.5, "n": u64::MAX, "symbol": "BTC-USD", "of": [{ "sku": "x" }], "event": "own", "t": true },
        });
        for (text, met) in [
            ("event=Trade", true),
            ("event!=Trade", false),
            ("payload.event=own", true),
            ("id=t-1", true),
            ("header.tenant=a", true),
            ("header.none=a", false),
            ("header.none!=a", true),
            ("price>100", true),
            ("price >= 100.5", true),
            ("price<100.5", false),
            ("price<=100.5", true),
            ("price>9", true),
            ("n=18446744073709551615", true),
            ("n<18446744073709551615", false),
            ("symbol~USD", true),
            ("symbol~EUR", false),
            ("of.0.sku=x", true),
            ("of.1.sku=x", false),
            ("t=true", true),
            ("symbol=a=b", false),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().meets(&entry), met, "{text}");
        }
        for bad in ["", "price", "=1", ">"] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
    }
}
