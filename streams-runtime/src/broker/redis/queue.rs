//! Work queues on a server: the arguments and the answers of their scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{ScriptInvocation, Value};
use streams_core::EntryId;
use streams_core::broker::{
    Acked, Acks, Again, BrokerError, BrokerErrorKind, Chunk, Cursor, Damage, Events, Fetch, Fetched, Full, Holder,
    Item, Joined, Judged, Left, Life, Lost, New, Pass, Queue, QueueState, Range, Reclaimed, Reply, Unacked, Until,
};
use streams_core::keys::GroupKey;

use super::call::{Call, Effect, unexpected};
use super::line::Connection;
use super::parse::{self, Answer, Parsed, Unexpected};
use super::scripts;
use super::server::{Redis, ask, error_text, limit, mode, on, texts, yes};
use crate::broker::checks::{BELL_LENGTH, check_acks, check_owner};
use crate::clock::millis;

/// The score below all ids of the waiting set: an id has this plus its milliseconds.
const BY_ID: i64 = -(1 << 52);
/// The score of the waiting set's stamp is this plus its number.
const BY_STAMP: f64 = -9_007_199_254_740_992.0;
/// The most events that an answer names as needed.
const MOST_NEEDED: usize = 10;
/// The most entries that one call gives out or releases, because they pass through the server's memory.
const MOST_ENTRIES: i64 = 100_000;

impl Queue for Redis {
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined> {
        Box::pin(async move {
            check_owner(owner)?;
            let call = Call::on(group, "joining a work queue", Effect::Idempotent);
            let mut script = on(&scripts::JOIN, group);
            script.arg(owner).arg(millis(lease_for)).arg(mode(group));
            match ask(&self.commands, call, script, joined).await? {
                Some(joined) => Ok(joined),
                None => {
                    let message = format!("{call}: `{owner}` was found dead; a consumer joins with a fresh token");
                    Err(BrokerError::new(BrokerErrorKind::Refused, message))
                }
            }
        })
    }

    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched> {
        let call = Call::on(group, "fetching entries", Effect::Idempotent);
        // Its reply may be large.
        Box::pin(ask(&self.reads, call, fetch_script(group, fetch), fetched))
    }

    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked> {
        Box::pin(async move {
            check_acks(acks)?;
            let call = Call::on(group, "acknowledging entries", Effect::Idempotent);
            ask(&self.commands, call, ack_script(group, acks), acked).await
        })
    }

    fn pass<'a>(&'a self, group: &'a GroupKey, token: &'a str, pass: &'a Pass) -> Reply<'a, bool> {
        Box::pin(ask(
            &self.commands,
            Call::on(group, "moving a cursor", Effect::Once),
            pass_script(group, token, pass),
            yes,
        ))
    }

    fn mend<'a>(
        &'a self,
        group: &'a GroupKey,
        token: &'a str,
        damage: &'a Damage,
        halts: Option<&'a Lost>,
    ) -> Reply<'a, bool> {
        let call = Call::on(group, "mending a waiting set", Effect::Once);
        Box::pin(ask(&self.commands, call, mend_script(group, token, damage, halts), yes))
    }

    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>> {
        let call = Call::on(group, "looking at a work queue", Effect::Read);
        Box::pin(ask(&self.commands, call, queue_script(group), queue))
    }

    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, most: usize) -> Reply<'a, Reclaimed> {
        let call = Call::on(group, "reclaiming entries", Effect::Once);
        Box::pin(ask(&self.commands, call, reclaim_script(group, owner, seen, most), reclaimed))
    }
}

/// A wait in milliseconds that Lua can compute with exactly; longer ones are cut.
fn exact(wait: Duration) -> u64 {
    millis(wait).min(1 << 50)
}

/// The key of a work queue besides stream and state; an ordered group has none.
pub(super) fn keys(invocation: &mut ScriptInvocation<'_>, group: &GroupKey) {
    if group.is_queue() {
        invocation.key(group.waiting());
    }
}

/// `None` if the caller was found dead.
fn joined(answer: &mut Answer) -> Parsed<Option<Joined>> {
    Ok(Some(match answer.word.as_str() {
        "dead" => return Ok(None),
        "member" => Joined::Member { epoch: answer.number()? },
        "missing" => Joined::Missing,
        "vanished" => Joined::Vanished { at: answer.id()? },
        "mode" => Joined::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of joining")),
    }))
}

/// `1 1767225600000-0 1767225600009-3 12`: whether deleted, from, to, count.
fn loss(text: &str) -> Parsed<Lost> {
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(Unexpected("a loss"));
    let deleted = word()? == "1";
    let mut id = || word()?.parse::<EntryId>().map_err(|_| Unexpected("an entry id"));
    let (from, to) = (id()?, id()?);
    let count = words.next().and_then(|count| count.parse().ok()).ok_or(Unexpected("a number of entries"))?;
    Ok(Lost { deleted, from, to, count })
}

/// Nothing if the text is empty.
fn some<T>(text: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Parsed<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn number(text: &str) -> Parsed<u64> {
    text.parse().map_err(|_| Unexpected("a number"))
}

fn wait(text: &str) -> Parsed<Duration> {
    number(text).map(Duration::from_millis)
}

fn parse_id(text: &str) -> Parsed<EntryId> {
    text.parse().map_err(|_| Unexpected("an entry id"))
}

fn fetch_script(group: &GroupKey, fetch: &Fetch) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::FETCH, group);
    invocation
        .key(group.waiting())
        .arg(&fetch.holder.owner)
        .arg(fetch.holder.epoch)
        .arg(fetch.call)
        .arg(limit(fetch.count).min(MOST_ENTRIES))
        .arg(fetch.most_waiting)
        .arg(exact(fetch.longest_wait))
        .arg(u8::from(fetch.go_on))
        .arg(u8::from(fetch.mirror));
    match &fetch.new {
        New::Nothing => invocation.arg("nothing").arg("").arg("").arg("").arg(""),
        New::Read { judged: None } => invocation.arg("read").arg("").arg("").arg("").arg(""),
        New::Read { judged: Some(Judged { at, next }) } => {
            invocation.arg("read").arg(at.to_string()).arg(next.to_string()).arg("").arg("")
        }
        New::Known { from, to, to_event, number } => {
            invocation.arg("known").arg(from.to_string()).arg(to.to_string()).arg(to_event).arg(*number)
        }
    };
    invocation.arg(limit(fetch.bytes)).arg(&fetch.takes);
    invocation
}

fn fetched(answer: &mut Answer) -> Parsed<Fetched> {
    Ok(match answer.word.as_str() {
        "chunk" => {
            let (at, waiting) = (answer.id()?, answer.number()?);
            let due = some(&answer.text()?, wait)?;
            let (lost, number) = (some(&answer.text()?, loss)?, answer.number()?);
            let again = parse::array(answer.value()?)?.into_iter().map(again).collect::<Parsed<_>>()?;
            let new = parse::entries(answer.value()?)?;
            Fetched::Chunk(Chunk { again, new, number, at, waiting, due, lost })
        }
        "unsure" => {
            let (at, at_event, seen) = (answer.id()?, answer.text()?, answer.text()?);
            Fetched::Unsure(Cursor { at, at_event, seen: some(&seen, number)? })
        }
        "lost" => Fetched::Lost { found: answer.number()? == 1, lost: loss(&answer.text()?)? },
        "apart" => Fetched::Damaged(damage(answer)?),
        "fenced" => Fetched::Fenced,
        "missing" => Fetched::Missing,
        _ => return Err(Unexpected("what came of fetching")),
    })
}

/// `[entry, failed attempts, crashes]`.
fn again(value: Value) -> Parsed<Again> {
    let mut parts = parse::array(value)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    let entry = parse::entry(part())?;
    let mut count = || parse::number(part()).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    Ok(Again { entry, failed: count()?, crashes: count()? })
}

fn damage(answer: &mut Answer) -> Parsed<Damage> {
    Ok(Damage { recorded: answer.number()?, found: answer.number()? })
}

fn ack_script(group: &GroupKey, acks: &Acks) -> ScriptInvocation<'static> {
    // Dead letters take memory: on a full server they wait.
    let script = if acks.dead.is_empty() { &scripts::ACK } else { &scripts::ACK_WITH_DEAD };
    let mut invocation = on(script, group);
    invocation
        .key(group.waiting())
        .key(group.dead())
        .key(group.partition().bell())
        .arg(&acks.holder.owner)
        .arg(acks.holder.epoch)
        .arg(acks.call)
        .arg(acks.dead_bounds.count)
        .arg(millis(acks.dead_bounds.age))
        .arg(BELL_LENGTH)
        .arg(acks.passed_over.join(" "))
        .arg(acks.chunks.len())
        .arg(acks.back.len())
        .arg(acks.dead.len())
        .arg(error_text(acks.error.as_ref()));
    for (call, left) in &acks.chunks {
        invocation.arg(*call).arg(record(left));
    }
    for wait in &acks.back {
        invocation.arg(wait.id.to_string()).arg(wait.failed).arg(wait.crashes);
        match &wait.until {
            Until::After(after) => invocation.arg(exact(*after)).arg(""),
            Until::Needs { name, version } => invocation.arg(0).arg(format!("{name}@{version}")),
        };
    }
    for fields in &acks.dead {
        invocation.arg(fields.len() * 2).arg(fields);
    }
    invocation
}

/// The record of a chunk, in the form of the state; empty if none of its entries is in flight.
fn record(left: &Left) -> String {
    let range = left.range.as_ref().filter(|range| range.number > 0);
    let mut words = match range {
        None if left.again.is_empty() => return String::new(),
        None => "0 - - -".to_owned(),
        Some(Range { after, to, number, except }) => {
            let except = if except.is_empty() { "-".to_owned() } else { texts(except).join(",") };
            format!("{number} {after} {to} {except}")
        }
    };
    for Item { id, failed, crashes, charged } in &left.again {
        words += &format!(" {id}:{failed}:{crashes}:{}", u8::from(*charged));
    }
    words
}

fn acked(answer: &mut Answer) -> Parsed<Acked> {
    Ok(match answer.word.as_str() {
        "done" => Acked::Done,
        "full" => {
            let (count, oldest) = (answer.number()?, answer.text()?);
            Acked::Full(Full { count, oldest: some(&oldest, parse_id)? })
        }
        "declared" => Acked::Declared { names: answer.text()?.split(' ').map(str::to_owned).collect() },
        "apart" => Acked::Damaged(damage(answer)?),
        "fenced" => Acked::Fenced,
        _ => return Err(Unexpected("what came of acknowledging")),
    })
}

/// A loss, in the form of the state: `1 1767225600000-0 1767225600009-3 12`.
fn loss_text(lost: Option<&Lost>) -> String {
    let text = |lost: &Lost| format!("{} {} {} {}", u8::from(lost.deleted), lost.from, lost.to, lost.count);
    lost.map_or_else(String::new, text)
}

fn pass_script(group: &GroupKey, token: &str, Pass { from, to, halts }: &Pass) -> ScriptInvocation<'static> {
    let ordinal = |cursor: &Cursor| cursor.seen.map_or_else(String::new, |seen| seen.to_string());
    let mut invocation = on(&scripts::PASS, group);
    invocation
        .arg(token)
        .arg(from.at.to_string())
        .arg(ordinal(from))
        .arg(to.at.to_string())
        .arg(&to.at_event)
        .arg(ordinal(to))
        .arg(loss_text(halts.as_ref()));
    invocation
}

fn mend_script(group: &GroupKey, token: &str, damage: &Damage, halts: Option<&Lost>) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::MEND, group);
    invocation.key(group.waiting()).arg(token).arg(damage.recorded).arg(damage.found).arg(loss_text(halts));
    invocation
}

fn queue_script(group: &GroupKey) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::QUEUE, group);
    invocation.key(group.waiting());
    invocation
}

fn queue(answer: &mut Answer) -> Parsed<Option<QueueState>> {
    match answer.word.as_str() {
        "missing" => return Ok(None),
        "queue" => {}
        _ => return Err(Unexpected("a look at a work queue")),
    }
    let fields = fields(answer.value()?)?;
    let (waiting, lowest) = (answer.number()?, some(&answer.text()?, parse_id)?);
    let (due, found) = (some(&answer.text()?, wait)?, some(&answer.text()?, number)?);
    let text = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let count = |name: &str| some(text(name), number).map(Option::unwrap_or_default);
    // By epoch: the entries in flight, and the loss found among them.
    let mut in_flight: BTreeMap<&str, (u64, Option<Lost>)> = BTreeMap::new();
    let mut oldest = lowest.map(to_the_millisecond);
    for (field, text) in &fields {
        if let Some((epoch, _)) = field.strip_prefix("chunk:").and_then(|chunk| chunk.split_once('.')) {
            let (number, first) = flight(text)?;
            in_flight.entry(epoch).or_default().0 += number;
            oldest = oldest.into_iter().chain(first).min();
        } else if let Some(epoch) = field.strip_prefix("lost:") {
            in_flight.entry(epoch).or_default().1 = some(text, loss)?;
        }
    }
    let mut consumers = Vec::new();
    for (field, says) in &fields {
        let Some(owner) = field.strip_prefix("consumer:") else { continue };
        let mut words = says.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let first = word();
        let epoch = if first == "dead" { word() } else { first };
        let (in_flight, lost) = in_flight.remove(epoch).unwrap_or_default();
        let life = if first == "dead" {
            Life::Dead { lost }
        } else {
            Life::Beats { epoch: number(epoch)?, beat: number(word())?, lease_for: wait(word())? }
        };
        consumers.push(Unacked { owner: owner.to_owned(), in_flight, life });
    }
    // Chunks whose consumers' fields were deleted.
    consumers.extend(in_flight.into_iter().map(|(epoch, (in_flight, lost))| Unacked {
        owner: format!("orphan/{epoch}"),
        in_flight,
        life: Life::Dead { lost },
    }));
    consumers.sort_by(|a, b| a.owner.cmp(&b.owner));
    let cursor =
        Cursor { at: parse_id(text("at"))?, at_event: text("at_event").to_owned(), seen: some(text("seen"), number)? };
    let needed = needed(text("needed"));
    let damage = found.map(|found| Damage { recorded: waiting, found });
    let (resume, reset) = (count("resume")?, count("reset")?);
    Ok(Some(QueueState { consumers, waiting, due, oldest, cursor, needed, resume, reset, damage }))
}

pub(super) fn fields(value: Value) -> Parsed<BTreeMap<String, String>> {
    parse::pairs(value)?.into_iter().map(|(name, value)| Ok((parse::lossy(name)?, parse::lossy(value)?))).collect()
}

/// The first id of a millisecond, because the waiting set is in order only by milliseconds.
fn to_the_millisecond(id: EntryId) -> EntryId {
    EntryId::new(id.ms, 0)
}

/// How many entries of a chunk are in flight, and an id at or below the first of them.
pub(super) fn flight(record: &str) -> Parsed<(u64, Option<EntryId>)> {
    let mut words = record.split(' ');
    let mut word = || words.next().ok_or(Unexpected("a chunk"));
    let number: u64 = word()?.parse().map_err(|_| Unexpected("a chunk"))?;
    let after = word()?;
    let mut first = if number == 0 { None } else { Some(parse_id(after)?.next()) };
    let (_to, _except) = (word()?, word()?);
    let mut items = 0;
    for item in words {
        let id = item.split(':').next().map(parse_id).transpose()?;
        first = first.into_iter().chain(id).min();
        items += 1;
    }
    Ok((number + items, first))
}

/// `Trade@2=0 Order@1=1`: each event with its lowest version.
fn needed(text: &str) -> Events {
    let mut events = Events::new();
    for (name, version) in text.split(' ').filter_map(|event| event.split_once('=')?.0.split_once('@')) {
        let Ok(version) = version.parse() else { continue };
        let lowest = events.entry(name.to_owned()).or_insert(version);
        *lowest = version.min(*lowest);
    }
    events.into_iter().take(MOST_NEEDED).collect()
}

fn reclaim_script(group: &GroupKey, owner: &str, seen: &Life, count: usize) -> ScriptInvocation<'static> {
    let says = match seen {
        Life::Beats { epoch, beat, lease_for } => format!("{epoch} {beat} {}", millis(*lease_for)),
        Life::Dead { lost: None } => "dead".to_owned(),
        Life::Dead { lost } => format!("dead {}", loss_text(lost.as_ref())),
    };
    giving_back(group, owner, &says, limit(count).clamp(1, MOST_ENTRIES))
}

/// The call of a consumer that leaves: it releases all that it still has in flight.
pub(super) fn leave_script(group: &GroupKey, holder: &Holder) -> ScriptInvocation<'static> {
    giving_back(group, &holder.owner, &holder.epoch.to_string(), i64::MAX)
}

fn giving_back(group: &GroupKey, owner: &str, seen: &str, most: i64) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::RECLAIM, group);
    invocation.key(group.waiting()).key(group.partition().bell()).arg(owner).arg(seen).arg(most).arg(BELL_LENGTH);
    invocation
}

fn reclaimed(answer: &mut Answer) -> Parsed<Reclaimed> {
    Ok(match answer.word.as_str() {
        "some" => Reclaimed::Some { entries: answer.number()?, lost: some(&answer.text()?, loss)? },
        "all" => Reclaimed::All { entries: answer.number()? },
        "contended" => Reclaimed::Contended,
        "apart" => Reclaimed::Damaged(damage(answer)?),
        _ => return Err(Unexpected("what came of giving back")),
    })
}

/// Up to where a work queue has settled everything; `None` when it is gone, or when its waiting set differs from the
/// state. All is read at one moment, because entries move between the waiting set and chunks.
pub(super) async fn settled(redis: &Redis, group: &GroupKey) -> Result<Option<EntryId>, BrokerError> {
    let call = Call::on(group, "HGETALL", Effect::Read);
    let mut look = redis::pipe();
    look.atomic().cmd("HGETALL").arg(group.state());
    // The ids have scores below zero, and the stamp is below them.
    let lowest = look.cmd("ZRANGEBYSCORE").arg(group.waiting()).arg(BY_ID).arg("(0");
    lowest.arg("LIMIT").arg(0).arg(1);
    look.cmd("ZCARD").arg(group.waiting()).cmd("ZSCORE").arg(group.waiting()).arg("stamp");
    let look = &look;
    let run = |mut connection: Connection| async move {
        connection.check_transactions().await?;
        look.query_async::<(Value, Value, u64, Option<f64>)>(&mut connection).await
    };
    let (state, lowest, size, stamp) = redis.commands.run(call, run).await?;
    settled_of(state, lowest, size, stamp).map_err(unexpected(call))
}

/// Up to where a work queue has settled everything, from its state and its waiting set's first id, size and stamp, all
/// of one moment. `None` when it has no state, or when entries wait and the set differs from the state.
fn settled_of(state: Value, lowest: Value, size: u64, stamp: Option<f64>) -> Parsed<Option<EntryId>> {
    let fields = fields(state)?;
    let Some(at) = fields.get("at") else { return Ok(None) };
    let says = fields.get("waits").map_or("0 0", String::as_str).split_once(' ').ok_or(Unexpected("a stamp"))?;
    let recorded: f64 = says.0.parse().map_err(|_| Unexpected("a stamp"))?;
    let waits: u64 = says.1.parse().map_err(|_| Unexpected("a number of entries"))?;
    let is_recorded = size == waits.saturating_mul(2).saturating_add(1) && stamp == Some(BY_STAMP + recorded);
    // While no entry waits, nothing in the set counts.
    if waits > 0 && !is_recorded {
        return Ok(None);
    }
    let mut settled = parse_id(at)?;
    for (_, record) in fields.iter().filter(|(field, _)| field.starts_with("chunk:")) {
        settled = flight(record)?.1.map_or(settled, |first| first.previous().min(settled));
    }
    if let Some(lowest) = parse::array(lowest)?.into_iter().next() {
        settled = to_the_millisecond(parse::id(lowest)?).previous().min(settled);
    }
    Ok(Some(settled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_is_in_flight_and_where_that_begins() {
        let id = |ms| EntryId::new(ms, 0);
        let item = |ms, charged| Item { id: id(ms), failed: 1, crashes: 2, charged };
        let range = Range { after: id(4), to: id(9), number: 3, except: vec![id(6), id(7)] };
        for (range, again, text, first) in [
            (None, vec![], "", None),
            (Some(Range { number: 0, ..range.clone() }), vec![], "", None),
            (Some(range.clone()), vec![], "3 4-0 9-0 6-0,7-0", Some(EntryId::new(4, 1))),
            (None, vec![item(3, true)], "0 - - - 3-0:1:2:1", Some(id(3))),
            (Some(range), vec![item(8, false)], "3 4-0 9-0 6-0,7-0 8-0:1:2:0", Some(EntryId::new(4, 1))),
        ] {
            assert_eq!(record(&Left { range, again }), text);
            if !text.is_empty() {
                assert_eq!(flight(text).unwrap().1, first, "{text}");
            }
        }
        assert_eq!(flight("3 4-0 9-0 6-0,7-0 8-0:1:2:0").unwrap().0, 4);
        assert!(flight("3").is_err());
    }

    #[test]
    fn of_a_needed_event_the_lowest_version_counts() {
        assert_eq!(needed("Trade@3=1 Trade@2=0 Order@1=2"), Events::from([("Trade".into(), 2), ("Order".into(), 1)]));
        assert_eq!(needed(""), Events::new());
    }
}
