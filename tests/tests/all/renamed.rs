//! A program that depends on this crate by another name: the attributes find it in the manifest.

use streams_tests::UserCrate;

#[test]
fn a_dependency_with_another_name_needs_no_option() {
    let shop = UserCrate::new("renamed");
    let manifest = shop.read("Cargo.toml");
    shop.write("Cargo.toml", &manifest.replace("streams-core = {", "streams = { package = \"streams-core\","));
    shop.write(
        "src/lib.rs",
        r#"
use streams::{consumer, consumers, event_type, stream_event};

#[event_type]
pub struct Leg { pub quantity: u32 }

#[stream_event(stream = "trades", lock = false)]
pub struct Trade { pub leg: Leg }

#[consumer(group = "risk")]
pub async fn check(_trade: Trade) {}

pub fn listed() -> [streams::Registration; 1] { consumers![check] }
"#,
    );
    let errors = shop.check(&[]);
    assert_eq!(errors.len(), 0, "{errors:#?}");
}
