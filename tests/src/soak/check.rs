//! Judges what the journal says; pure, so that histories made by hand can show that it would see what it looks for.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::{Mark, Record};

/// The rules for one group.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Its name.
    pub group: &'static str,
    /// How many events a crash may repeat.
    pub batch: u64,
    /// Whether the group gives up on this event, after this many attempts.
    pub gives_up: fn(u64) -> Option<u32>,
}

/// The result of judging one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Broken promises, in words.
    pub violations: Vec<String>,
    /// How many events each new beginning repeated, those that repeated none included.
    pub repeats: Vec<u64>,
    /// Events that were begun and whose end no process wrote down, because it was gone by then.
    pub interrupted: u64,
}

/// Judges the history of one group.
///
/// `lost` says how often each process reported that it had lost this group's lease: so often it may begin again
/// from the checkpoint. `dead` are the events in the group's dead letters with their attempts, in their order.
pub fn check(
    records: &[Record],
    rules: &Rules,
    events: u64,
    lost: &BTreeMap<u32, u64>,
    dead: &[(u64, u32)],
) -> Findings {
    let mut findings = Findings::default();
    let mut wrong = Vec::new();
    let mut settled = BTreeSet::new();
    let mut highest_begun = 0;
    let mut begun_again: BTreeMap<u32, u64> = BTreeMap::new();
    // The call before, and how it ended.
    let mut before: Option<(&Record, Option<Mark>)> = None;
    for record in records.iter().filter(|record| record.group == rules.group) {
        let (n, attempt) = (record.n, record.attempt);
        let is_over = |mark, n, attempt| match mark {
            Mark::Done => true,
            Mark::Failed => (rules.gives_up)(n).is_some_and(|attempts| attempt >= attempts),
            _ => false,
        };
        if record.mark != Mark::Begun {
            match &mut before {
                Some((call, end @ None)) if (call.life, call.n, call.attempt) == (record.life, n, attempt) => {
                    *end = Some(record.mark);
                }
                _ => wrong.push(format!("`{record}`: it ends without having begun")),
            }
            if is_over(record.mark, n, attempt) {
                settled.insert(n);
            }
            continue;
        }
        let goes_on = before.as_ref().is_some_and(|(call, end)| {
            let next = call.life == record.life
                && n == call.n + 1
                && end.is_some_and(|end| is_over(end, call.n, call.attempt));
            let again =
                call.life == record.life && n == call.n && *end == Some(Mark::Failed) && attempt == call.attempt + 1;
            next || again
        });
        if !goes_on {
            // A new owner begins: at the checkpoint, which is below everything that is not settled.
            findings.interrupted += u64::from(before.as_ref().is_some_and(|(_, end)| end.is_none()));
            if before.as_ref().is_some_and(|(call, _)| call.life == record.life) {
                *begun_again.entry(record.life).or_default() += 1;
            }
            if let Some(skipped) = (1..n).rev().take_while(|n| !settled.contains(n)).last() {
                wrong.push(format!("`{record}`: it begins above event {skipped}, which is not settled"));
            }
            let repeated = (highest_begun + 1u64).saturating_sub(n);
            findings.repeats.push(repeated);
            if repeated > rules.batch {
                wrong.push(format!("`{record}`: {repeated} events are repeated, and {} is the bound", rules.batch));
            }
        }
        highest_begun = highest_begun.max(n);
        before = Some((record, None));
    }
    for (life, times) in begun_again {
        let reported = lost.get(&life).copied().unwrap_or(0);
        if times > reported {
            wrong.push(format!(
                "process {life}: `{}` went back or out of order {times} times, but lost its lease {reported} times",
                rules.group
            ));
        }
    }
    let unsettled: Vec<_> = (1..=events).filter(|n| !settled.contains(n)).collect();
    if let Some(first) = unsettled.first() {
        wrong.push(format!("`{}`: {} events are not settled, the first is {first}", rules.group, unsettled.len()));
    }
    let expected: Vec<_> = (1..=events).filter_map(|n| (rules.gives_up)(n).map(|attempts| (n, attempts))).collect();
    if dead != expected {
        wrong.push(format!("`{}`: its dead letters are {dead:?}, expected were {expected:?}", rules.group));
    }
    findings.violations = wrong;
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { group: "g", batch: 3, gives_up: |n| (n == 4).then_some(2) };

    /// A history in lines of `life mark n attempt`, with `bd` for a call that is done.
    fn judge(history: &str, lost: &[(u32, u64)], dead: &[(u64, u32)]) -> Findings {
        let mut records = Vec::new();
        for call in history.split(',').map(str::trim) {
            let words: Vec<_> = call.split(' ').collect();
            for mark in words[1].chars() {
                let line = format!("0 {} g {mark} {} {}", words[0], words[2], words.get(3).unwrap_or(&"1"));
                records.push(Record::parse(&line).unwrap());
            }
        }
        check(&records, &RULES, 5, &lost.iter().copied().collect(), dead)
    }

    fn sees(history: &str, violation: &str) {
        let violations = judge(history, &[], &[(4, 2)]).violations;
        assert!(violations.iter().any(|found| found.contains(violation)), "{violations:?}");
    }

    #[test]
    fn a_good_history_is_good() {
        let good = "1 bd 1, 1 bf 2, 1 bd 2 2, 1 b 3, 2 bd 1, 2 bd 2 2, 2 bd 3, 2 bf 4, 2 bf 4 2, 2 bd 5";
        let found = judge(good, &[], &[(4, 2)]);
        assert_eq!((found.violations, found.repeats, found.interrupted), (vec![], vec![0, 3], 1));
    }

    #[test]
    fn an_event_that_was_left_out_is_seen() {
        sees("1 bd 1, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5", "above event 2");
        sees("1 bd 1, 1 bd 2, 2 bf 4, 2 bf 4 2, 2 bd 5", "above event 3");
        sees("1 b 1, 2 bd 2, 2 bd 3, 2 bf 4, 2 bf 4 2, 2 bd 5", "above event 1");
        sees("1 bd 1, 1 bd 2, 1 bd 3, 1 bf 4, 1 bf 4 2", "1 events are not settled, the first is 5");
    }

    #[test]
    fn an_event_that_failed_and_was_passed_by_is_seen() {
        sees("1 bd 1, 1 bf 2, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5", "above event 2");
        sees("1 bd 1, 1 bd 2, 1 bd 3, 1 bf 4, 1 bd 5", "above event 4");
    }

    #[test]
    fn an_order_that_is_broken_inside_a_life_is_seen() {
        sees("1 bd 1, 1 bd 2, 1 bd 1, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5", "went back or out of order");
        sees("1 b 1, 1 bd 2, 1 bd 1, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5", "above event 1");
    }

    #[test]
    fn going_back_after_a_lost_lease_is_allowed_as_often_as_it_was_lost() {
        let history = "1 bd 1, 1 bd 2, 1 bd 2, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5";
        assert_eq!(judge(history, &[(1, 1)], &[(4, 2)]).violations, Vec::<String>::new());
        assert_eq!(judge(history, &[(2, 1)], &[(4, 2)]).violations.len(), 1);
    }

    #[test]
    fn more_repeats_than_a_batch_are_seen() {
        sees(
            "1 bd 1, 1 bd 2, 1 bd 3, 1 b 4, 2 bd 1, 2 bd 2, 2 bd 3, 2 bf 4, 2 bf 4 2, 2 bd 5",
            "4 events are repeated",
        );
    }

    #[test]
    fn two_handlers_at_once_are_seen() {
        sees("1 b 1, 1 b 2, 1 d 1, 1 d 2, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5", "ends without having begun");
    }

    #[test]
    fn dead_letters_that_are_missing_doubled_or_too_many_are_seen() {
        let history = "1 bd 1, 1 bd 2, 1 bd 3, 1 bf 4, 1 bf 4 2, 1 bd 5";
        for dead in [&[][..], &[(4, 2), (4, 2)], &[(3, 1), (4, 2)], &[(4, 1)]] {
            assert_eq!(judge(history, &[], dead).violations.len(), 1, "{dead:?}");
        }
        assert_eq!(judge(history, &[], &[(4, 2)]).violations, Vec::<String>::new());
    }
}
