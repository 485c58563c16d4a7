//! `dead ls`, `show`, `replay` and `discard`.

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
