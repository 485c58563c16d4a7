//! A payload as valid JSON: 64-bit integers exact, bytes as hexadecimal digits, fields hidden on request.

use serde_json::{Map, Value, json};
pub(crate) use streams_runtime::Redact;
use streams_runtime::{Entry, codec};

/// The payload as JSON.
///
/// # Errors
/// The reason why the bytes are no MessagePack.
pub(crate) fn decode(payload: &[u8]) -> Result<Value, String> {
    serde_json::from_str(&codec::json(payload)?).map_err(|error| error.to_string())
}

/// Two digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything of an entry, for programs.
pub(crate) fn entry(partition: u32, entry: &Entry, redact: &Redact) -> Value {
    let headers = entry.headers().iter().map(|(name, value)| {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = redact.named(&name, readable(value));
        (name, json!(value))
    });
    let mut value = json!({
        "id": entry.id.to_string(),
        "partition": partition,
        "time": crate::when::time(entry.id.ms),
        "event": entry.event().map(|(name, _)| name),
        "version": entry.event().map(|(_, version)| version),
        "event_id": entry.given_id(),
        "headers": Value::Object(headers.collect::<Map<_, _>>()),
        "bytes": entry.payload().map_or(0, <[u8]>::len),
        "payload": null,
    });
    let decoded = entry.payload().map(decode).transpose();
    match decoded {
        Ok(None) => {}
        Ok(Some(mut payload)) => {
            redact.value(&mut payload);
            value["payload"] = payload;
        }
        Err(fault) => {
            value["fault"] = json!(format!("the payload is no MessagePack: {fault}"));
            if redact.is_empty() {
                value["payload_hex"] = json!(entry.payload().map(hex));
            }
        }
    }
    value
}

/// A header's value as text, or its digits where it is none.
pub(crate) fn readable(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned)
}

/// The payload of an [`entry`] in one line.
pub(crate) fn line(entry: &Value) -> String {
    match (&entry["payload"], entry["fault"].as_str()) {
        (_, Some(fault)) => match entry["payload_hex"].as_str() {
            Some(hex) => format!("{fault}: {hex}"),
            None => fault.to_owned(),
        },
        (payload, None) => crate::text::json(payload),
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value as Pack;

    use super::*;

    fn packed(value: &Pack) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    #[test]
    fn numbers_are_exact_and_bytes_are_digits() {
        let value = Pack::Map(vec![
            ("u".into(), u64::MAX.into()),
            ("i".into(), i64::MIN.into()),
            ("f".into(), Pack::F32(0.1)),
            ("d".into(), Pack::F64(31.245270191439438)),
            ("n".into(), Pack::F64(f64::NAN)),
            ("b".into(), Pack::Binary(vec![0xc1, 0xff])),
            (7.into(), Pack::Ext(5, vec![1])),
        ]);
        let json = decode(&packed(&value)).unwrap();
        assert_eq!(
            json.to_string(),
            r#"{"7":{"ext":5,"hex":"01"},"b":"c1ff","d":31.245270191439438,"f":0.1,"i":-9223372036854775808,"n":"NaN","u":18446744073709551615}"#
        );
    }

    #[test]
    fn what_is_no_messagepack_or_too_deep_is_told() {
        assert!(decode(&[0xc1]).is_ok() || decode(&[0x92, 1]).is_err());
        assert_eq!(decode(&[1, 2]).unwrap_err(), "the event ends at byte 1, and 1 more follow");
        assert!(decode(&[0x91; 5_000]).is_err());
        assert!(decode(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err(), "a length that the bytes cannot have");
    }
}
