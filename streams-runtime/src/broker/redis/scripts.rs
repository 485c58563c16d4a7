//! The Lua scripts that change a group's state, and their answers; the rules that they keep are in `scripts/*.lua`.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::LazyLock;

/// A script, and its text, to find lines in.
pub(super) struct Script(LazyLock<(redis::Script, String)>);

impl Script {
    fn source(&self) -> &str {
        &self.0.1
    }
}

impl Deref for Script {
    type Target = redis::Script;

    fn deref(&self) -> &redis::Script {
        &self.0.0
    }
}

/// A script behind its flags and the helpers that it uses.
macro_rules! script {
    ($flags:literal, $name:literal) => {
        Script(LazyLock::new(|| {
            let source = assembled($flags, include_str!(concat!("scripts/", $name, ".lua")));
            (redis::Script::new(&source), source)
        }))
    };
}

/// Puts before a script those helpers that it uses, directly or through others, because the server creates each one at
/// every call.
fn assembled(flags: &str, body: &str) -> String {
    const HELPERS: [&str; 2] = [include_str!("scripts/prelude.lua"), include_str!("scripts/waiting.lua")];
    let is_code = |line: &&str| !line.is_empty() && !line.trim_start().starts_with("--");
    let mut helpers: Vec<Vec<&str>> = Vec::new();
    for line in HELPERS.iter().flat_map(|helpers| helpers.lines()).filter(is_code) {
        match helpers.last_mut() {
            Some(helper) if !line.starts_with("local ") => helper.push(line),
            _ => helpers.push(vec![line]),
        }
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut lines: Vec<_> = body.lines().filter(is_code).collect();
    let mut used: HashSet<_> = lines.iter().flat_map(|line| line.split(|c| !is_word(c))).collect();
    for helper in helpers.into_iter().rev() {
        let declared = helper[0].split(['=', '(']).next().unwrap_or_default();
        if declared.split(|c| !is_word(c)).skip(1).any(|name| name != "function" && used.contains(name)) {
            used.extend(helper.iter().flat_map(|line| line.split(|c| !is_word(c))));
            lines.splice(..0, helper);
        }
    }
    format!("#!lua{flags}\n{}\n", lines.join("\n"))
}

pub(super) static CREATE: Script = script!("", "create");
// A full server must not stop commits, because without them nobody may trim it.
pub(super) static ACQUIRE: Script = script!(" flags=allow-oom", "acquire");
pub(super) static COMMIT: Script = script!(" flags=allow-oom", "commit");
pub(super) static RELEASE: Script = script!(" flags=allow-oom", "release");
pub(super) static DECLARE_EVENTS: Script = script!(" flags=allow-oom", "declare_events");
pub(super) static RENEW: Script = script!(" flags=allow-oom", "renew");
// A process that is no longer counted loses its share.
pub(super) static ATTEND: Script = script!(" flags=allow-oom", "attend");
// It only reads, so a replica or a server that refuses writes answers, too.
pub(super) static SNAPSHOT: Script = script!(" flags=no-writes", "snapshot");
pub(super) static PAGE: Script = script!(" flags=no-writes", "page");
pub(super) static RESET: Script = script!("", "reset");
// Dead letters take memory: on a full server their partition waits.
pub(super) static COMMIT_WITH_DEAD: Script = script!("", "commit");

pub(super) static ADOPT: Script = script!("", "adopt");
// An operator must be able to resume a group, and dead letters that are moved take no more memory than before.
pub(super) static REMOVE: Script = script!(" flags=allow-oom", "remove");
pub(super) static RESUME: Script = script!(" flags=allow-oom", "resume");
pub(super) static REPLAY: Script = script!(" flags=allow-oom", "replay");
// A letter with other fields may take more.
pub(super) static REPLAY_EDITED: Script = script!("", "replay");
pub(super) static TAKE_REPLAY: Script = script!(" flags=allow-oom", "take_replay");
pub(super) static END_REPLAY: Script = script!(" flags=allow-oom", "end_replay");

// Consumers must be able to settle entries in flight on a full server, too, and the memory that they use for it is
// bounded.
pub(super) static JOIN: Script = script!(" flags=allow-oom", "join");
pub(super) static FETCH: Script = script!(" flags=allow-oom", "fetch");
pub(super) static ACK: Script = script!(" flags=allow-oom", "ack");
pub(super) static ACK_WITH_DEAD: Script = script!("", "ack");
pub(super) static PASS: Script = script!(" flags=allow-oom", "pass");
pub(super) static MEND: Script = script!(" flags=allow-oom", "mend");
pub(super) static QUEUE: Script = script!(" flags=no-writes", "queue");
pub(super) static RECLAIM: Script = script!(" flags=allow-oom", "reclaim");

/// Every script, loaded at first contact.
pub(super) fn all() -> [&'static Script; 26] {
    [
        &CREATE,
        &ACQUIRE,
        &COMMIT,
        &COMMIT_WITH_DEAD,
        &RELEASE,
        &DECLARE_EVENTS,
        &RENEW,
        &ATTEND,
        &SNAPSHOT,
        &PAGE,
        &RESET,
        &ADOPT,
        &REMOVE,
        &RESUME,
        &REPLAY,
        &REPLAY_EDITED,
        &TAKE_REPLAY,
        &END_REPLAY,
        &JOIN,
        &FETCH,
        &ACK,
        &ACK_WITH_DEAD,
        &PASS,
        &MEND,
        &QUEUE,
        &RECLAIM,
    ]
}

/// The right that a user lacks, from the error of a script that needed it. Some servers name the command (`to run the
/// 'hget' command`), some the place (`script: <hash>, on @user_script:<line>.`).
pub(super) fn refused(error: &str) -> Option<String> {
    const SAID: [&str; 3] =
        ["can't run this command", "can't access at least one of the keys", "ACL failure in script"];
    SAID.iter().find(|said| error.contains(**said))?;
    let named = error.split_once("to run the '").and_then(|(_, rest)| rest.split('\'').next());
    if let Some(command) = named {
        return Some(format!("run {}", command.replace('|', " ").to_uppercase()));
    }
    let place = error.split_once("script: ").and_then(|(_, place)| place.rsplit_once(", on @user_script:"));
    let found = place.and_then(|(hash, line)| {
        let script = all().into_iter().find(|script| hash.ends_with(script.get_hash()))?;
        let line: usize = line.trim_end_matches('.').parse().ok()?;
        command(script.source().lines().nth(line.checked_sub(1)?)?)
    });
    Some(match found {
        Some(command) => format!("run {command}"),
        None if error.contains("access") => "use one of its keys".to_owned(),
        None => "run one of its commands".to_owned(),
    })
}

/// The command that a line of a script calls, with its subcommand.
fn command(line: &str) -> Option<String> {
    let (_, call) = line.split_once("call('")?;
    let mut words = call.split('\'');
    let name = words.next()?;
    let sub = words.nth(1).filter(|_| matches!(name, "XINFO" | "XGROUP"));
    Some(sub.map_or_else(|| name.to_owned(), |sub| format!("{name} {sub}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_the_helpers_that_it_uses_and_no_others() {
        let source = assembled(" flags=no-writes", "-- not id_before\nreturn {held_by(KEYS[1]), larger('1', '2')}\n");
        assert!(source.starts_with("#!lua flags=no-writes\nlocal function larger(a, b)\n"), "{source}");
        assert_eq!(source.matches("local function ").count(), 1, "{source}");
        let source = assembled("", "return page(KEYS[1], BY_ID)");
        for helper in ["local function larger(", "local function above(", "local BY_ID, ", "local function page("] {
            assert!(source.contains(helper), "{helper} in {source}");
        }
        assert!(!source.contains("wrong_type"), "{source}");
    }

    #[test]
    fn what_a_script_was_refused_is_found_by_its_line() {
        let line = ACQUIRE.source().lines().position(|line| line.contains("redis.call('XINFO', 'STREAM'")).unwrap() + 1;
        let hash = ACQUIRE.get_hash();
        let first = "ERR The user executing the script can't run this command or subcommand";
        let at = format!("{first} script: {hash}, on @user_script:{line}.");
        assert_eq!(refused(&at).as_deref(), Some("run XINFO STREAM"));
        let named = "ACL failure in script: User x has no permissions to run the 'client|info' command script: on @user_script:7.";
        assert_eq!(refused(named).as_deref(), Some("run CLIENT INFO"));
        assert_eq!(refused(first).as_deref(), Some("run one of its commands"));
        let key = "ACL failure in script: No permissions to access a key script: on @user_script:8.";
        assert_eq!(refused(key).as_deref(), Some("use one of its keys"));
        assert_eq!(refused("ERR value is not an integer script: 1, on @user_script:1."), None);
        assert_eq!(command("  if #redis.call('HGETALL', state) == 0 then"), Some("HGETALL".to_owned()));
    }
}
