//! The tool refuses names that are not there, command lines that mean nothing, servers that are not there.

use streams_tests::{Ca, RedisServer, TlsProxy};

use crate::tool::{Shop, Tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_name_is_an_error_that_names_the_nearest() {
    let Shop { tool, app, .. } = Shop::open().await;
    for args in [
        &["tail", "payuots"][..],
        &["get", "payuots", "1-1"],
        &["dead", "ls", "payuots", "bank"],
        &["dead", "show", "payuots", "bank"],
        &["dead", "replay", "payuots", "bank", "--all"],
        &["dead", "discard", "payuots", "bank", "--all"],
        &["schema", "ls", "payuots"],
        &["schema", "show", "payuots", "Payout"],
        &["schema", "diff", "payuots", "Payout"],
        &["groups", "payuots"],
        &["info", "payuots"],
        &["owners", "payuots", "bank"],
        &["reset", "payuots", "bank", "--to", "earliest"],
        &["resume", "payuots", "bank"],
        &["pause", "payuots", "bank"],
        &["remove", "payuots", "bank"],
        &["trim", "payuots", "--consumed"],
        &["publish", "payuots", "Payout", "{}"],
    ] {
        let said = tool.refused(args, 1);
        assert!(said.contains("stream `payuots` here, perhaps `payouts` is meant"), "{args:?}: {said}");
    }
    for args in [
        &["dead", "ls", "payouts", "bnak"][..],
        &["dead", "show", "payouts", "bnak"],
        &["dead", "replay", "payouts", "bnak", "--all"],
        &["dead", "discard", "payouts", "bnak", "--all"],
        &["owners", "payouts", "bnak"],
        &["reset", "payouts", "bnak", "--to", "earliest", "--yes"],
        &["resume", "payouts", "bnak", "--yes"],
        &["pause", "payouts", "bnak", "--yes"],
        &["remove", "payouts", "bnak", "--yes"],
    ] {
        let said = tool.refused(args, 1);
        assert!(said.contains("perhaps `bank` is meant"), "{args:?}: {said}");
    }
    assert!(tool.refused(&["ls", "payuots"], 1).contains("perhaps `payouts` is meant"));
    for args in [&["check", "--stream", "payuots"][..], &["check", "--group", "bnak"]] {
        let said = tool.refused(args, 2);
        assert!(said.starts_with("CRITICAL: ") && said.contains("is meant"), "{args:?}: {said}");
    }
    let _ = app.shutdown().await;
}

#[test]
fn a_command_line_that_means_nothing_ends_with_2() {
    let tool = Tool::new(RedisServer::shared().database());
    for (args, says) in [
        (&["tial"][..], "unrecognized subcommand"),
        (&["tail", "a b"], "invalid stream name `a b`"),
        (&["tail", "trades", "--from", "soon"], "expected an entry id, `earliest`"),
        (&["tail", "trades", "--where", "price"], "expected a condition such as"),
        (&["tail", "trades", "--format", "%x"], "stands for nothing"),
        (&["tail", "trades", "-f", "-o", "json"], "say -o ndjson with -f"),
        (&["dead", "ls", "a", "b", "--cause", "luck"], "`luck` is no cause of a dead letter"),
        (&["dead", "ls", "a", "b", "--older", "soon"], "expected a length of time"),
        (&["tail", "trades", "--namespace", "a:b"], "invalid namespace name `a:b`"),
        (&["tail", "trades", "--url", "http://x"], "URL"),
        (&["top"], "top needs a terminal"),
    ] {
        let said = tool.refused(args, 2);
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn a_key_with_its_namespace_is_told_from_a_name() {
    let tool = Tool::new(RedisServer::shared().database());
    let said = tool.refused(&["tail", "eu:trades", "--namespace", "eu"], 1);
    assert!(said.contains("its namespace is set already: say `trades`"), "{said}");
}

#[test]
fn servers_are_found_by_url_by_profile_or_not_at_all() {
    let mut tool = Tool::new(String::new());
    assert!(tool.refused(&["tail", "trades"], 2).contains("nothing says where the server is: set REDIS_URL"));
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("streams");
    std::fs::create_dir(&folder).unwrap();
    let url = RedisServer::shared().database();
    let text = format!("[default]\nurl = \"{url}\"\n[away]\nurl = \"redis://:hunter2@127.0.0.1:1/\"\n");
    std::fs::write(folder.join("config.toml"), text).unwrap();
    tool.variables.push(("XDG_CONFIG_HOME".to_owned(), home.path().to_str().unwrap().to_owned()));
    assert!(tool.refused(&["tail", "trades"], 1).contains("no program has declared a stream `trades` here"));
    assert!(tool.refused(&["tail", "trades", "--profile", "awya"], 2).contains("perhaps `away` is meant"));
    let away = tool.refused(&["tail", "trades", "--profile", "away"], 1);
    assert!(away.contains("127.0.0.1:1") && !away.contains("hunter2"), "{away}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_by_the_variables_of_programs_or_by_a_profile() {
    let server = RedisServer::shared();
    let (ca, clients) = (Ca::new(), Ca::new());
    let proxy = TlsProxy::start(ca.sign(&["localhost"]).serve(Some(&clients), false), server.port());
    let mut tool = Tool::new(format!("rediss://localhost:{}/", proxy.port()));
    assert_eq!(tool.run(&["ls"]).code, 1, "nobody trusts the server");
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let (certificate, key) = clients.sign(&["me"]).write(dir.path(), "me");
    let files = [("STREAMS_TLS_CA", &ca_file), ("STREAMS_TLS_CERT", &certificate), ("STREAMS_TLS_KEY", &key)];
    let set = |(name, path): (&str, &std::path::PathBuf)| (name.to_owned(), path.to_str().unwrap().to_owned());
    tool.variables = files.map(set).to_vec();
    tool.ok(&["ls"]);
    tool.variables.pop();
    assert!(tool.refused(&["ls"], 2).contains("belong together"));
    let folder = dir.path().join("streams");
    std::fs::create_dir(&folder).unwrap();
    let text = format!(
        "[safe]\nurl = \"{}\"\ntls_ca = {ca_file:?}\ntls_cert = {certificate:?}\ntls_key = {key:?}\n",
        tool.url
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
    tool.variables = vec![set(("XDG_CONFIG_HOME", &dir.path().to_path_buf()))];
    tool.ok(&["ls", "--profile", "safe"]);
}
