//! Compares the locks with those of an earlier commit: a published version may only grow.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::super::{Compat, compare};
use super::{form, read_layout};

/// Compares the locks in `manifest_dir/schemas` with those of the commit where this branch left `base`, such as
/// `origin/main`.
///
/// The generated tests call it when `STREAMS_LOCK_BASE` names a base. It runs `git`, which must be in `PATH`.
///
/// # Errors
/// A line per published version that is missing, broken or has lost a field; or the reason why `git` failed.
pub fn check_history(manifest_dir: impl AsRef<Path>, base: &str) -> Result<(), String> {
    let dir = manifest_dir.as_ref();
    let commit = git(dir, &["merge-base", "HEAD", base]).map_err(|error| {
        format!("{error}\nSTREAMS_LOCK_BASE must name a branch or commit that this clone has; a shallow clone lacks it (`git fetch --unshallow`)")
    })?;
    let commit = commit.trim();
    let mut problems = Vec::new();
    for name in
        git(dir, &["ls-tree", "--name-only", commit, "schemas/"])?.lines().filter(|name| name.ends_with(".lock.json"))
    {
        let then = git(dir, &["show", &format!("{commit}:./{name}")])?;
        let now = std::fs::read_to_string(dir.join(name)).ok();
        compare_files(name, &then, now.as_deref(), &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn git(dir: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(dir).args(args).output();
    let output = output.map_err(|error| format!("cannot run git: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Compares one lock with its earlier text.
fn compare_files(name: &str, then: &str, now: Option<&str>, problems: &mut Vec<String>) {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| format!("{name}: {error}"));
    let (then, now) = match (parse(then), now.map_or(Ok(Value::Null), parse)) {
        (Ok(then), Ok(now)) => (then, now),
        (then, now) => return problems.extend(then.err().into_iter().chain(now.err())),
    };
    for (event, versions) in then["events"].as_object().into_iter().flatten() {
        for (version, entry) in versions.as_object().into_iter().flatten() {
            if entry["published"] == true
                && let Err(problem) = compare_entries(entry, &now["events"][event][version])
            {
                problems.push(format!("{name}: published version {version} of `{event}` {problem}; restore it, and give the changed event the next version"));
            }
        }
    }
}

fn compare_entries(then: &Value, now: &Value) -> Result<(), String> {
    if now.is_null() {
        return Err("is gone".to_owned());
    }
    if now["published"] != true {
        return Err("is no longer marked as published".to_owned());
    }
    let layout = read_layout(then)?;
    if read_layout(now)? != layout {
        return Err("has another layout".to_owned());
    }
    let compat = then["compat"].as_str().and_then(Compat::from_word).unwrap_or(Compat::Full);
    let (old, new) = (form::to_schema(&then["schema"])?, form::to_schema(&now["schema"])?);
    let report = compare(old, new, layout, compat);
    if report.breaks() > 0 {
        return Err(format!("changed:{}\n", report.text()));
    }
    // A member that was removed since stays in the lock.
    if compat != Compat::None && !form::same(&form::merge(&then["schema"], &now["schema"]), &now["schema"]) {
        return Err("has lost fields or variants without a trace".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = r#"{ "format": 1, "stream": "s", "events": { "Trade": {
        "1": { "layout": "map", "published": true, "schema": { "struct": "Trade", "fields": [
            { "name": "a", "type": "u8" }, { "name": "b", "type": { "option": "u8" }, "optional": true }
        ] } },
        "2": { "layout": "map", "schema": { "struct": "Trade", "fields": [] } }
    } } }"#;

    #[track_caller]
    fn check(change: impl Fn(&str) -> String, expected: &[&str]) {
        let mut problems = Vec::new();
        compare_files("s.lock.json", THEN, Some(&change(THEN)), &mut problems);
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn published_versions_are_only_added_to() {
        check(str::to_owned, &[]);
        let added = r#"{ "name": "c", "type": "u8", "optional": true }, { "name": "b""#;
        check(|lock| lock.replace(r#"{ "name": "b""#, added), &[]);
        check(|lock| lock.replace(r#""optional": true }"#, r#""optional": true, "removed": true }"#), &[]);
        check(
            |lock| lock.replace(r#""name": "a", "type": "u8""#, r#""name": "a", "type": "u16""#),
            &["`a`: type changed"],
        );
        check(
            |lock| lock.replace(r#", { "name": "b", "type": { "option": "u8" }, "optional": true }"#, ""),
            &["has lost"],
        );
        check(|lock| lock.replace(r#""published": true, "#, ""), &["no longer marked"]);
        check(|lock| lock.replacen("map", "array", 1), &["another layout"]);
        check(|lock| lock.replace("Trade", "Fill"), &["version 1 of `Trade` is gone"]);
        check(|_| "{}".to_owned(), &["is gone"]);
        check(|_| "<<<<<<<".to_owned(), &["expected value"]);
    }

    #[test]
    fn a_version_that_is_not_published_may_change() {
        check(|lock| lock.replace(r#""2": { "layout": "map""#, r#""2": { "layout": "array""#), &[]);
    }
}
