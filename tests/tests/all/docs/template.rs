//! The template of a service, made as `cargo generate` makes it: its placeholders are filled in, and its tests pass.

use std::fs;
use std::path::Path;

use streams_tests::UserCrate;

/// Copies the files below a folder, with the placeholders filled in.
fn instantiate(from: &Path, below: &str, made: &UserCrate, fill: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            instantiate(&entry.path(), &format!("{name}/"), made, fill);
        } else if name != "cargo-generate.toml" {
            made.write(&name, &fill(&fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

#[test]
fn a_service_from_the_template_passes_its_tests() {
    let template = UserCrate::workspace().join("template");
    let asked = fs::read_to_string(template.join("cargo-generate.toml")).unwrap();
    assert!(asked.contains("[placeholders.streams]"));

    let streams = UserCrate::workspace().display().to_string();
    let filled =
        [("{{project-name}}", "bookshop-service"), ("{{crate_name}}", "bookshop_service"), ("{{streams}}", &streams)];
    let fill = |text: &str| {
        let text = filled.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value));
        assert!(!text.contains("{{"), "cargo generate would take it as a placeholder: {text}");
        text
    };
    let made = UserCrate::empty();
    instantiate(&template, "", &made, &fill);
    made.fetch();
    made.test_all(&[]).unwrap();
    for stream in ["orders", "invoices"] {
        assert!(made.path(&format!("schemas/bookshop-service-{stream}.lock.json")).exists(), "{stream}");
    }
    let formatted = made.cargo(&["fmt", "--check"], &[]);
    assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stdout));
}
