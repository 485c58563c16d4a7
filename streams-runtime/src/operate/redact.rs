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

    /// Puts back what this has hidden in an edited value, from the value of before.
    ///
    /// # Errors
    /// When a hidden field stands in another place than before.
    pub(super) fn restore(&self, edited: &mut Value, before: &Value) -> Result<(), String> {
        match edited {
            Value::Object(fields) => fields.iter_mut().try_for_each(|(name, value)| {
                let old = before.get(name);
                match old {
                    _ if !self.hides(name) || *value != HIDDEN => self.restore(value, old.unwrap_or(&Value::Null)),
                    Some(old) => {
                        old.clone_into(value);
                        Ok(())
                    }
                    None => Err(format!("the value of `{name}` is hidden, and was not here before: give its value")),
                }
            }),
            Value::Array(items) => {
                // With an item more or less nobody could say which is which.
                let same = before.as_array().filter(|before| before.len() == items.len());
                let old = |index: usize| same.and_then(|before| before.get(index)).unwrap_or(&Value::Null);
                items.iter_mut().enumerate().try_for_each(|(index, item)| self.restore(item, old(index)))
            }
            _ => Ok(()),
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

    #[test]
    fn hidden_fields_of_an_edited_value_keep_their_values() {
        let redact = Redact::new(["card"]);
        let before = json!({ "card": 1, "of": [{ "card": { "n": 2 }, "ok": 3 }, { "card": 4 }], "x": "***" });
        let mut edited = json!({ "card": "***", "of": [{ "card": "***", "ok": 5 }, { "card": 6 }], "x": "***" });
        redact.restore(&mut edited, &before).unwrap();
        assert_eq!(edited, json!({ "card": 1, "of": [{ "card": { "n": 2 }, "ok": 5 }, { "card": 6 }], "x": "***" }));
        for mut moved in [json!({ "of": [{ "card": "***" }] }), json!({ "new": { "card": "***" } })] {
            assert!(redact.restore(&mut moved, &before).unwrap_err().contains("`card` is hidden"));
        }
    }
}
