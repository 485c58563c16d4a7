use streams_core::stream_event;

mod text {
    pub fn serialize<S: serde::Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(_: D) -> Result<u64, D::Error> {
        Ok(0)
    }
}

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(with = "text")]
    price: u64,
}

fn main() {}
