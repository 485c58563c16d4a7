//! Shared delivery as the scripts take and answer it; `super` sends.

use std::time::Duration;

use redis::{ScriptInvocation, Value};
use streams_core::EntryId;
use streams_core::broker::{
    Become, BrokerError, BrokerErrorKind, Crew, Delivered, Freed, Full, Hand, Haul, Joined, Life, Lost, Settle,
    Settled, Take, Took,
};
use streams_core::keys::GroupKey;

use super::parse::{self, Answer, Parsed, Unexpected};
use super::{limit, on, scripts};
use crate::broker::{BELL_LENGTH, check_owner};
use crate::clock::millis;

/// Who has what nobody has in hand.
const NOBODY: &str = "_free";
/// The most events that others are said to wait for.
const MOST_NEEDED: usize = 10;
/// The most ends that one script is told: some milliseconds of the server's time.
pub(super) const MOST_ENDS: usize = 500;

/// A wait in milliseconds that Lua can reckon with; longer ones are longer than anybody waits.
pub(super) fn exact(wait: Duration) -> u64 {
    millis(wait).min(1 << 50)
}

/// The keys that a shared group or a work queue has besides stream and state; an ordered group has none.
pub(super) fn keys(invocation: &mut ScriptInvocation<'_>, group: &GroupKey) {
    if group.is_shared() {
        invocation.key(group.waiting()).key(group.needs()).key(group.failed());
    } else if group.is_queue() {
        invocation.key(group.waiting());
    }
}

pub(super) fn take_script(group: &GroupKey, take: &Take) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::TAKE, group);
    invocation
        .key(group.waiting())
        .key(group.needs())
        .key(group.failed())
        .arg(&take.holder.owner)
        .arg(take.holder.epoch)
        .arg(limit(take.count))
        .arg(take.most_waiting)
        .arg(exact(take.longest_wait))
        .arg(u8::from(take.go_on))
        .arg(u8::from(take.in_hand.is_some()))
        .arg(take.takes.len());
    for (name, version) in &take.takes {
        invocation.arg(name).arg(*version);
    }
    for id in take.in_hand.iter().flatten() {
        invocation.arg(id.to_string());
    }
    invocation
}

pub(super) fn took(mut answer: Answer) -> Parsed<Took> {
    Ok(match answer.word.as_str() {
        "entries" => {
            let waiting = answer.number()?;
            let due = wait(&answer.text()?)?;
            let lost = parse::array(answer.value()?)?.into_iter().map(parse::text).collect::<Parsed<Vec<_>>>()?;
            let lost = if lost.is_empty() { None } else { Some(loss(&lost.join(" "))?) };
            let entries = parse::array(answer.value()?)?.into_iter().map(delivered).collect::<Parsed<_>>()?;
            Took::Entries(Haul { entries, waiting, due, lost })
        }
        "lost" => Took::Lost { found: answer.number()? == 1, lost: loss(&answer.text()?)? },
        "fenced" => Took::Fenced,
        "missing" => Took::Missing,
        "vanished" => Took::Vanished { at: answer.id()? },
        "ahead" => Took::Ahead { at: answer.id()?, last: answer.id()? },
        "changed" => Took::Changed { at: answer.id()? },
        _ => return Err(Unexpected("what came of asking for entries")),
    })
}

/// `[entry, failed attempts, crashes]`.
fn delivered(value: Value) -> Parsed<Delivered> {
    let mut parts = parse::array(value)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    let entry = parse::entry(part())?;
    let mut count = || parse::number(part()).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    Ok(Delivered { entry, failed: count()?, crashes: count()? })
}

/// `1 1767225600000-0 1767225600009-3 12`: whether deleted, from, to, how many.
pub(super) fn loss(text: &str) -> Parsed<Lost> {
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(Unexpected("a loss"));
    let deleted = word()? == "1";
    let mut id = || word()?.parse::<EntryId>().map_err(|_| Unexpected("an entry id"));
    let (from, to) = (id()?, id()?);
    let count = words.next().and_then(|count| count.parse().ok()).ok_or(Unexpected("a number of entries"))?;
    Ok(Lost { deleted, from, to, count })
}

/// Milliseconds, or nothing.
pub(super) fn wait(text: &str) -> Parsed<Option<Duration>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(|ms| Some(Duration::from_millis(ms))).map_err(|_| Unexpected("milliseconds"))
}

/// Ends as scripts take them: at most [`MOST_ENDS`] at a time, and letters apart, because a full server refuses those.
pub(super) fn settle_scripts(group: &GroupKey, settle: &Settle) -> Vec<ScriptInvocation<'static>> {
    let is_dead = |(_, end): &&(EntryId, Become)| matches!(end, Become::Dead(_));
    let (dead, others): (Vec<_>, Vec<_>) = settle.ends.iter().partition(is_dead);
    let others = others.chunks(MOST_ENDS).map(|ends| settle_script(&scripts::SETTLE, group, settle, ends));
    let dead = dead.chunks(MOST_ENDS).map(|ends| settle_script(&scripts::SETTLE_WITH_DEAD, group, settle, ends));
    others.chain(dead).collect()
}

fn settle_script(
    script: &'static redis::Script,
    group: &GroupKey,
    settle: &Settle,
    ends: &[&(EntryId, Become)],
) -> ScriptInvocation<'static> {
    let mut invocation = on(script, group);
    invocation
        .key(group.waiting())
        .key(group.needs())
        .key(group.failed())
        .key(group.dead())
        .key(group.partition().bell())
        .arg(&settle.holder.owner)
        .arg(settle.holder.epoch)
        .arg(settle.dead_bounds.count)
        .arg(millis(settle.dead_bounds.age))
        .arg(BELL_LENGTH);
    let ids = || ends.iter().map(|(id, _)| *id);
    for bound in [ids().min(), ids().max()] {
        invocation.arg(bound.unwrap_or_default().to_string());
    }
    for (id, end) in ends {
        invocation.arg(id.to_string());
        match end {
            Become::Done => invocation.arg("done").arg(0),
            Become::PassedOver { name } => invocation.arg("passed").arg(1).arg(name),
            Become::Again { failed, after } => invocation.arg("again").arg(2).arg(*failed).arg(exact(*after)),
            Become::Charged { crashes } => invocation.arg("charged").arg(1).arg(*crashes),
            Become::Back { crashes } => invocation.arg("back").arg(1).arg(*crashes),
            Become::Needs { name, version, crashes } => {
                invocation.arg("needs").arg(3).arg(*crashes).arg(name).arg(*version)
            }
            Become::Dead(fields) => {
                invocation.arg("dead").arg(fields.len() * 2);
                let pairs = fields.iter();
                pairs.fold(&mut invocation, |all, (name, value)| all.arg(name.as_slice()).arg(value.as_slice()))
            }
        };
    }
    invocation
}

/// Adds what a script answered about some of the ends; false when the caller is no consumer.
pub(super) fn settled(mut answer: Answer, all: &mut Settled) -> Parsed<bool> {
    match answer.word.as_str() {
        "fenced" => return Ok(false),
        "settled" => {}
        _ => return Err(Unexpected("what came of settling")),
    }
    all.lost.extend(ids(answer.value()?)?);
    all.declared.extend(ids(answer.value()?)?);
    if let Value::Array(full) = answer.value()? {
        let mut parts = full.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let (count, oldest) = (parse::number(part())?, parse::text(part())?);
        let oldest = if oldest.is_empty() { None } else { Some(parse_id(&oldest)?) };
        all.full = Some(Full { count, oldest });
    }
    all.kept.extend(ids(answer.value()?)?);
    Ok(true)
}

fn ids(value: Value) -> Parsed<Vec<EntryId>> {
    parse::array(value)?.into_iter().map(parse::id).collect()
}

pub(super) fn parse_id(text: &str) -> Parsed<EntryId> {
    text.parse().map_err(|_| Unexpected("an entry id"))
}

pub(super) fn crew_script(group: &GroupKey) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::CREW, group);
    invocation.key(group.waiting()).key(group.needs()).arg(MOST_NEEDED);
    invocation
}

pub(super) fn crew(mut answer: Answer) -> Parsed<Option<Crew>> {
    match answer.word.as_str() {
        // Of the other mode: no shared group of this name.
        "missing" | "mode" => return Ok(None),
        "crew" => {}
        _ => return Err(Unexpected("a look at a group")),
    }
    let (at, seen) = (answer.id()?, answer.text()?);
    let seen = if seen.is_empty() { None } else { Some(seen.parse().map_err(|_| Unexpected("an ordinal"))?) };
    let (resume, reset) = (answer.number()?, answer.number()?);
    let (pending, oldest) = (answer.number()?, answer.text()?);
    let oldest = if oldest.is_empty() { None } else { Some(parse_id(&oldest)?) };
    let waiting = answer.number()?;
    let due = wait(&answer.text()?)?;
    let needed = parse::events(&answer.text()?);
    let mut consumers = parse::array(answer.value()?)?.into_iter().map(hand).collect::<Parsed<Vec<_>>>()?;
    consumers.sort_by(|a, b| a.owner.cmp(&b.owner));
    Ok(Some(Crew { consumers, pending, oldest, waiting, due, at, seen, needed, resume, reset }))
}

/// `[name, in hand, ours, what the state says of it]`, or `[name, in hand, foreign, milliseconds of silence]`.
fn hand(value: Value) -> Parsed<Hand> {
    let mut parts = parse::array(value)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    let (owner, pending, whose, says) =
        (parse::lossy(part())?, parse::number(part())?, parse::text(part())?, parse::text(part())?);
    let life = match (whose.as_str(), says.as_str()) {
        ("ours", "dead") => Life::Dead,
        ("ours", says) => {
            let mut numbers = says.split(' ').map(str::parse);
            let mut number = || numbers.next().and_then(Result::ok).ok_or(Unexpected("a consumer's beat"));
            Life::Beats { epoch: number()?, beat: number()?, lease_for: Duration::from_millis(number()?) }
        }
        (_, silent) => Life::Foreign { silent: wait(silent)?.unwrap_or_default() },
    };
    Ok(Hand { owner, pending, life })
}

pub(super) fn free_script(group: &GroupKey, owner: &str, seen: &Life, count: usize) -> ScriptInvocation<'static> {
    let (says, silent) = match seen {
        Life::Beats { epoch, beat, lease_for } => (format!("{epoch} {beat} {}", millis(*lease_for)), 0),
        Life::Dead => ("dead".to_owned(), 0),
        Life::Foreign { silent } => ("foreign".to_owned(), millis(*silent)),
    };
    let mut invocation = on(&scripts::FREE, group);
    invocation
        .key(group.waiting())
        .key(group.partition().bell())
        .arg(owner)
        .arg(says)
        .arg(silent)
        .arg(limit(count))
        .arg(BELL_LENGTH);
    invocation
}

pub(super) fn freed(mut answer: Answer) -> Parsed<Freed> {
    Ok(match answer.word.as_str() {
        "some" => Freed::Some(answer.number()?),
        "all" => Freed::All(answer.number()?),
        "contended" => Freed::Contended,
        _ => return Err(Unexpected("what came of giving back")),
    })
}

/// Refuses a token that stands for nobody.
pub(super) fn check_token(owner: &str) -> Result<(), BrokerError> {
    check_owner(owner)?;
    if owner == NOBODY {
        let message = format!("no consumer is called `{NOBODY}`: that is who has what nobody has in hand");
        return Err(BrokerError::new(BrokerErrorKind::Refused, message));
    }
    Ok(())
}

pub(super) fn joined(mut answer: Answer) -> Parsed<Joined> {
    Ok(match answer.word.as_str() {
        "member" => Joined::Member { epoch: answer.number()? },
        "missing" => Joined::Missing,
        "vanished" => Joined::Vanished { at: answer.id()? },
        "mode" => Joined::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of joining")),
    })
}
