//! Fields whose values are shown to nobody.

use serde_json::{Value, json};

/// In the place of a hidden value.
const HIDDEN: &str = "***";

/// The names of fields and headers whose values are hidden, at any depth of a payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redact(Vec<String>);

impl Redact {
    /// Hides these; without a name nothing is hidden.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(names.into_iter().map(Into::into).filter(|name: &String| !name.is_empty()).collect())
    }

    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether the value of this field or header is hidden.
    pub fn hides(&self, name: &str) -> bool {
        self.0.iter().any(|hidden| hidden == name)
    }

    /// Hides the fields in a value.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if self.hides(name) {
                        *value = json!(HIDDEN);
                    } else {
                        self.value(value);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            _ => {}
        }
    }

    /// The value of a field or header, hidden or as it is.
    pub fn named(&self, name: &str, value: String) -> String {
        if self.hides(name) { HIDDEN.to_owned() } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_fields_are_hidden_at_any_depth() {
        let mut value = json!({ "card": 1, "of": [{ "card": { "n": 2 }, "ok": 3 }] });
        let redact = Redact::new(["card", ""]);
        redact.value(&mut value);
        assert_eq!(value, json!({ "card": "***", "of": [{ "card": "***", "ok": 3 }] }));
        assert_eq!(
            (redact.named("card", "1".to_owned()).as_str(), redact.named("x", "1".to_owned()).as_str()),
            ("***", "1")
        );
        assert!(Redact::new([""]).is_empty());
    }
}
