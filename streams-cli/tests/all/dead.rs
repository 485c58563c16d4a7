//! `dead ls`, `show`, `replay`, `edit` and `discard`.

use std::sync::atomic::Ordering;

use streams_runtime::DeadLetterFilter;

use crate::tool::{Shop, plain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_counted_by_reason_and_shown_decoded() {
    let Shop { tool, app, .. } = Shop::open().await;
    let kinds = tool.table(&["dead", "ls", "payouts", "bank"]);
    let expected = "\
LETTERS  CAUSE  CONSUMER  EVENT  OLDEST  NEWEST  EXAMPLE  REASON
#  handler  pay  Payout  #s  #s  #/#-#  account ben is closed
#  permanent  pay  Payout  #s  #s  #/#-#  negative";
    assert_eq!(plain(&kinds), expected, "{kinds}");
    let kinds = tool.json(&["dead", "ls", "payouts", "bank"]);
    assert_eq!((&kinds[0]["letters"], &kinds[0]["reason"]), (&2.into(), &"account ben is closed".into()));
    let each = tool.json(&["dead", "ls", "payouts", "bank", "--each", "--cause", "handler"]);
    assert_eq!(each.as_array().unwrap().len(), 2);
    let id = each[1]["id"].as_str().unwrap();
    let shown = tool.table(&["dead", "show", "payouts", "bank", id]);
    for line in [
        "consumer  pay",
        "cause     handler at attempt 2",
        "reason    account ben is closed",
        "header    tenant: a",
        "payload   {\"account\":\"ben\",\"cents\":200}",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let letters = tool.json(&["dead", "show", "payouts", "bank", "--redact", "account"]);
    assert_eq!((&letters[2]["payload"]["cents"], &letters[2]["payload"]["account"]), (&(-1).into(), &"***".into()));
    assert!(tool.refused(&["dead", "show", "payouts", "bank", "0/5-5"], 1).contains("has no dead letter 0/5-5"));
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_handled_again_or_thrown_away_when_somebody_says_so() {
    let Shop { tool, app, open } = Shop::open().await;
    let letters = app.admin().dead_letters("payouts", "bank").await.unwrap();
    let all = DeadLetterFilter::all();
    let replay = ["dead", "replay", "payouts", "bank"];
    for (args, code, says) in [
        (&[][..], 2, "which dead letters is `replay` meant for?"),
        (&["--all", "--cause", "handler"], 2, "say a filter or --all, not both"),
        (&["0/1-1", "--all"], 2, "say ids, or a filter or --all, not both"),
        (&["--all"], 2, "3 dead letters of group bank on payouts would be handled again: by this group alone"),
    ] {
        let said = tool.refused(&[&replay[..], args].concat(), code);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let dry = tool.table(&[&replay[..], &["--cause", "handler", "--limit", "1", "--dry-run"]].concat());
    assert!(dry.starts_with("1 dead letter of group bank") && dry.contains("nothing was changed"), "{dry}");
    assert_eq!(letters.count(&all).await.unwrap(), 3);
    open.store(true, Ordering::Relaxed);
    let one = tool.json(&[&replay[..], &["--cause", "handler", "--limit", "1", "--yes"]].concat());
    assert_eq!(one["replayed"], 1);
    let rest = tool.table(&[&replay[..], &["--match", "IS CLOSED", "--rate", "100", "--yes"]].concat());
    assert_eq!(rest, "1 dead letter sent to be handled again by group bank on payouts\n");
    while !letters.replaying(9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(letters.count(&all).await.unwrap(), 1, "the group has handled both");
    let last = letters.list(None, 9).await.unwrap()[0].id().to_string();
    let discard = ["dead", "discard", "payouts", "bank", &last];
    assert!(tool.refused(&discard, 2).contains("1 dead letter of group bank on payouts would be gone for good"));
    let gone = tool.table(&[&discard[..], &["-y"]].concat());
    assert_eq!(gone, "1 dead letter of group bank on payouts discarded\n");
    assert_eq!(letters.count(&all).await.unwrap(), 0);
    assert_eq!(tool.table(&["dead", "ls", "payouts", "bank"]), "group bank on payouts has no such dead letter\n");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_edited_by_field_or_whole_and_handled_again() {
    let Shop { tool, app, open } = Shop::open().await;
    let letters = app.admin().dead_letters("payouts", "bank").await.unwrap();
    let ids: Vec<_> = letters.list(None, 9).await.unwrap().iter().map(|letter| letter.id().to_string()).collect();
    let edit = |id: &'static str, args: &[&'static str]| [&["dead", "edit", "payouts", "bank", id], args].concat();
    let third: &'static str = ids[2].clone().leak();
    for (args, code, says) in [
        (edit(third, &[]), 2, "say --set FIELD=JSON or --payload JSON"),
        (edit(third, &["--set", "cents"]), 2, "expected a field, an equals sign and JSON"),
        (edit(third, &["--set", "cents=five"]), 2, "it is no JSON"),
        (edit(third, &["--set", "cents=1.5"]), 1, "`cents`: expected i64, found the number 1.5"),
        (edit(third, &["--set", "cent=5"]), 1, "there is no field `cent`, perhaps `cents` is meant"),
        (edit(third, &["--payload", "{}", "--set", "cents=5"]), 2, "cannot be used with"),
        (edit(third, &["--payload", "{}"]), 1, "the field `account` is missing"),
        (edit(third, &["--set", "cents=-1"]), 1, "the payload stays as it is: replay the letter without an edit"),
        (edit("0/5-5", &["--set", "cents=5"]), 1, "has no dead letter 0/5-5"),
        (edit(third, &["--set", "cents=5"]), 2, "say --yes to do it"),
    ] {
        let said = tool.refused(&args, code);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let exact = edit(third, &["--set", "cents=9223372036854775807", "--redact", "account"]);
    let dry = tool.table(&[&exact[..], &["--dry-run"]].concat());
    let expected = "\
dead letter ID of group bank on payouts would be handled again with another payload: by this group alone, after whatever followed it in the stream
  old: {\"account\":\"***\",\"cents\":-1}
  new: {\"account\":\"***\",\"cents\":9223372036854775807}
it fits Payout@1 as programs have recorded it
nothing was changed: this was a dry run
";
    assert_eq!(dry.replace(third, "ID"), expected);
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 3);
    open.store(true, Ordering::Relaxed);
    let edited = tool.json(&[&exact[..], &["--yes"]].concat());
    assert_eq!((&edited["edited"], &edited["changed"]), (&third.into(), &serde_json::json!(["cents"])), "{edited}");
    let first = edit(ids[0].clone().leak(), &["--payload", "-", "-y"]);
    let said = tool.fed(&first, "{\"account\": \"eve\",\n \"cents\": 7}");
    assert_eq!(said.code, 0, "{said:?}");
    while !letters.replaying(9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 1, "the group has handled both");
    let audit = tool.json(&["audit"]);
    let details: Vec<_> = audit.as_array().unwrap().iter().map(|line| line["detail"].as_str().unwrap()).collect();
    assert!(details.contains(&format!("dead letter {third} Payout: cents").as_str()), "{details:?}");
    assert!(!audit.to_string().contains("eve"), "values stay out of the audit: {audit}");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_wait_are_shown_and_a_replay_says_where_it_does_not_happen_yet() {
    let Shop { tool, app, .. } = Shop::open().await;
    let replay = ["dead", "replay", "payouts", "bank", "--match", "negative", "--yes"];
    let admin = app.admin();
    let _ = app.shutdown().await;
    admin.pause("payouts", "bank", "ada", "the bank is mended").await.unwrap();
    let waits = "nothing is handled again until `streams resume payouts bank`";
    let said = tool.table(&replay);
    assert!(said.starts_with("1 dead letter sent to be handled again") && said.contains(waits), "{said}");
    let kinds = tool.run(&["dead", "ls", "payouts", "bank", "-o", "table"]);
    assert!(kinds.out.contains("waits to be handled again\n") && kinds.out.contains("is closed"), "{kinds:?}");
    assert!(kinds.err.contains("paused since ") && kinds.err.contains(waits), "{kinds:?}");
    let kinds = tool.json(&["dead", "ls", "payouts", "bank"]);
    assert_eq!(
        (&kinds[0]["waits"], &kinds[1]["waits"], &kinds[1]["letters"]),
        (&false.into(), &true.into(), &1.into())
    );
    let each = tool.json(&["dead", "ls", "payouts", "bank", "--each"]);
    let waits: Vec<_> = each.as_array().unwrap().iter().map(|letter| letter["waits"].as_bool().unwrap()).collect();
    assert_eq!((waits, &each[2]["reason"]), (vec![false, false, true], &"negative".into()));
    let groups = tool.json(&["groups", "payouts"]);
    let bank = groups.as_array().unwrap().iter().find(|group| group["group"] == "bank").unwrap();
    assert_eq!((&bank["dead"], &bank["replays"]), (&2.into(), &1.into()));
    let owners = tool.table(&["owners", "payouts", "bank"]);
    let waits = "1 dead letter waits to be handled again until `streams resume payouts bank`";
    assert!(owners.contains(waits) && owners.contains("2 (1 to replay)"), "{owners}");
    let info = tool.table(&["info", "payouts"]);
    assert!(info.contains("2 dead letters and 1 that waits to be handled again"), "{info}");
    admin.resume("payouts", "bank").await.unwrap();
    let said = tool.table(&["dead", "replay", "payouts", "bank", "--match", "is closed", "--dry-run"]);
    assert!(said.contains("no process runs the group: nothing is handled again until one does"), "{said}");
}
