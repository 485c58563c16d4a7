//! The Lua scripts that change a group's state, and their answers; the rules they keep are in `scripts/*.lua`.

use std::sync::LazyLock;

use redis::Script;

/// A script behind its flags and what all of them share.
macro_rules! script {
    ($flags:literal, $name:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                "#!lua",
                $flags,
                "\n",
                include_str!("scripts/prelude.lua"),
                include_str!(concat!("scripts/", $name, ".lua"))
            ))
        })
    };
}

pub(super) static CREATE: LazyLock<Script> = script!("", "create");
// A full server must not stop commits: without them it fills with what nobody may trim.
pub(super) static ACQUIRE: LazyLock<Script> = script!(" flags=allow-oom", "acquire");
pub(super) static COMMIT: LazyLock<Script> = script!(" flags=allow-oom", "commit");
pub(super) static RELEASE: LazyLock<Script> = script!(" flags=allow-oom", "release");
pub(super) static DECLARE_EVENTS: LazyLock<Script> = script!(" flags=allow-oom", "declare_events");
pub(super) static RENEW: LazyLock<Script> = script!(" flags=allow-oom", "renew");
// A process that is not counted any more loses its share.
pub(super) static ATTEND: LazyLock<Script> = script!(" flags=allow-oom", "attend");
// It only looks, so a replica or a server that refuses writes answers, too.
pub(super) static SNAPSHOT: LazyLock<Script> = script!(" flags=no-writes", "snapshot");
pub(super) static PAGE: LazyLock<Script> = script!(" flags=no-writes", "page");
pub(super) static RESET: LazyLock<Script> = script!("", "reset");
// Dead letters take room: on a full server they wait with their partition.
pub(super) static COMMIT_WITH_DEAD: LazyLock<Script> = script!("", "commit");

pub(super) static ADOPT: LazyLock<Script> = script!("", "adopt");
// An operator must get a group to go on, and letters that are moved take no more room than before.
pub(super) static RESUME: LazyLock<Script> = script!(" flags=allow-oom", "resume");
pub(super) static REPLAY: LazyLock<Script> = script!(" flags=allow-oom", "replay");
pub(super) static TAKE_REPLAY: LazyLock<Script> = script!(" flags=allow-oom", "take_replay");
pub(super) static END_REPLAY: LazyLock<Script> = script!(" flags=allow-oom", "end_replay");

// Work queues: whoever has entries in hand must get rid of them on a full server, too, and what they leave behind is bounded.
pub(super) static JOIN: LazyLock<Script> = script!(" flags=allow-oom", "join");
pub(super) static TAKE: LazyLock<Script> = script!(" flags=allow-oom", "take");
pub(super) static SETTLE: LazyLock<Script> = script!(" flags=allow-oom", "settle");
pub(super) static SETTLE_WITH_DEAD: LazyLock<Script> = script!("", "settle");
pub(super) static CREW: LazyLock<Script> = script!(" flags=no-writes", "crew");
pub(super) static FREE: LazyLock<Script> = script!(" flags=allow-oom", "free");
pub(super) static LEAVE: LazyLock<Script> = script!(" flags=allow-oom", "leave");
pub(super) static RESET_SHARED: LazyLock<Script> = script!("", "reset_shared");

/// Every script, to be loaded at first contact.
pub(super) fn all() -> [&'static Script; 24] {
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
        &RESUME,
        &REPLAY,
        &TAKE_REPLAY,
        &END_REPLAY,
        &JOIN,
        &TAKE,
        &SETTLE,
        &SETTLE_WITH_DEAD,
        &CREW,
        &FREE,
        &LEAVE,
        &RESET_SHARED,
    ]
}
