//! Services as processes on a real Redis: start, signals, exit codes, `kill -9`, takeovers, and what they say.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streams_runtime::broker::Redis;
use streams_runtime::{App, DeadLetter, Publisher, Stopped, consumer, consumers};
use streams_tests::jobs::{Does, Job};
use streams_tests::{Options, Program, RedisServer};

/// A database and the worker that will run on it.
struct Site {
    url: String,
    envs: Vec<(&'static str, &'static str)>,
}

impl Site {
    fn new(envs: &[(&'static str, &'static str)]) -> Self {
        Self { url: RedisServer::shared().database(), envs: envs.to_vec() }
    }

    fn worker(&self) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command.env("REDIS_URL", &self.url).envs(self.envs.iter().copied());
        Program::start(&mut command)
    }

    /// A worker that owns its group.
    fn owner(&self) -> Program {
        let worker = self.worker();
        worker.logs("owning group=\"work\"");
        worker
    }

    /// Two workers once it has settled which of them owns the group: the owner first.
    fn pair(&self) -> (Program, Program) {
        let (one, other) = (self.worker(), self.worker());
        let settled = "the members have settled members=2 groups=1 partitions=1 share=";
        one.logs(settled);
        other.logs(settled);
        let owns = one.errors().contains(&format!("{settled}1"));
        let (owner, standby) = if owns { (one, other) } else { (other, one) };
        owner.logs("owning group=\"work\"");
        standby.logs("waiting for the lease of another process");
        (owner, standby)
    }

    async fn publish(&self, n: u64, does: Option<Does>) {
        let publisher = Publisher::connect(&self.url).await.unwrap();
        publisher.publish(&Job { n, does }).await.unwrap();
    }

    fn state(&self, field: &str) -> String {
        redis::cmd("HGET")
            .arg("streams:{jobs}:work")
            .arg(field)
            .query(&mut RedisServer::client(&self.url))
            .expect("the state of the group")
    }
}

const SHORT_DEADLINE: (&str, &str) = ("STREAMS_SHUTDOWN_DEADLINE", "200ms");
const BLOCKS_APART: (&str, &str) = ("WORKER_BLOCKS", "apart");
const ONE_THREAD: (&str, &str) = ("WORKER_THREADS", "1");

#[tokio::test]
async fn a_service_says_what_it_runs_handles_and_stops_with_0_on_sigterm_and_sigint() {
    let site = Site::new(&[]);
    for (n, signal) in [(1, "TERM"), (2, "INT")] {
        let mut worker = site.worker();
        site.publish(n, None).await;
        worker.says(&format!("end {n}"));
        worker.logs("jobs -> work: `work` takes `Job` [tests/src/bin/worker.rs:");
        worker.logs("streams on redis://127.0.0.1:");
        worker.signal(signal);
        assert_eq!(worker.code(), Some(0), "{}", worker.errors());
        assert_eq!(site.state("owner"), "");
    }
    let worker = site.owner();
    site.publish(3, None).await;
    worker.says("end 3");
    assert_eq!(worker.output(), "begin 3\nend 3\n", "nothing is repeated after a stop");
}

#[tokio::test]
async fn another_process_takes_over_within_a_second_of_a_stop_though_the_lease_is_ten() {
    let site = Site::new(&[("STREAMS_LEASE", "10s")]);
    let (mut one, other) = site.pair();
    let stopped = Instant::now();
    one.signal("TERM");
    other.logs("owning group=\"work\"");
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    assert_eq!(one.code(), Some(0));
}

#[tokio::test]
async fn another_process_takes_over_after_the_lease_of_one_that_was_killed() {
    let site = Site::new(&[("STREAMS_LEASE", "1500ms")]);
    let (mut one, other) = site.pair();
    site.publish(1, Some(Does::Wait(60_000))).await;
    one.says("begin 1");
    let killed = Instant::now();
    one.signal("KILL");
    assert_eq!(one.code(), None);
    other.says("begin 1");
    let waited = killed.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_millis(3500), "{waited:?}");
}

#[tokio::test]
async fn a_handler_past_the_deadline_is_dropped_and_the_exit_code_is_2() {
    let site = Site::new(&[SHORT_DEADLINE]);
    let mut worker = site.owner();
    site.publish(1, Some(Does::Wait(60_000))).await;
    worker.says("begin 1");
    let before = site.state("at");
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(2));
    assert!(worker.errors().contains("run() returned Aborted { handlers: 1 }"), "{}", worker.errors());
    assert_eq!((site.state("owner"), site.state("at")), (String::new(), before));
}

#[tokio::test]
async fn a_handler_that_never_yields_makes_the_exit_code_3_and_the_lease_stays() {
    let site = Site::new(&[SHORT_DEADLINE, ONE_THREAD]);
    let mut worker = site.owner();
    site.publish(1, Some(Does::Block(50_000))).await;
    worker.says("begin 1");
    let owner = site.state("owner");
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(3));
    assert!(!owner.is_empty());
    assert_eq!(site.state("owner"), owner);
}

#[tokio::test]
async fn blocking_work_that_a_handler_left_behind_ends_at_the_deadline_with_the_exit_code_2() {
    for threads in ["1", "2"] {
        let envs = [("STREAMS_SHUTDOWN_DEADLINE", "2s"), ("STREAMS_TIMEOUT", "200ms"), BLOCKS_APART];
        let site = Site::new(&[&envs[..], &[("WORKER_THREADS", threads)]].concat());
        let mut worker = site.owner();
        site.publish(1, Some(Does::Block(600_000))).await;
        worker.logs("took longer than its timeout of 200ms");
        let stopped = Instant::now();
        worker.signal("TERM");
        assert_eq!(worker.code(), Some(2), "{}", worker.errors());
        assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
        assert_eq!(site.state("owner"), "", "the lease was given back before");
        assert!(worker.errors().contains("blocking work that handlers have begun is not over"), "{}", worker.errors());
    }
}

#[tokio::test]
async fn blocking_work_that_ends_before_the_deadline_is_waited_for() {
    for threads in ["1", "2"] {
        let envs = [("STREAMS_SHUTDOWN_DEADLINE", "60s"), ("STREAMS_TIMEOUT", "200ms"), BLOCKS_APART];
        let site = Site::new(&[&envs[..], &[("WORKER_THREADS", threads)]].concat());
        let mut worker = site.owner();
        site.publish(1, Some(Does::Block(2_000))).await;
        worker.logs("took longer than its timeout of 200ms");
        worker.signal("TERM");
        assert_eq!(worker.code(), Some(0), "{}", worker.errors());
    }
}

#[tokio::test]
async fn a_clean_stop_has_one_closing_line() {
    let site = Site::new(&[]);
    let mut worker = site.owner();
    site.publish(1, None).await;
    worker.says("end 1");
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(0));
    let errors = worker.errors();
    let closing: Vec<_> = errors.lines().filter(|line| line.contains("stopped: every handler finished")).collect();
    assert!(closing.len() == 1 && closing[0].contains("INFO"), "{errors}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let site = Site::new(&[ONE_THREAD]);
        let mut worker = site.owner();
        site.publish(1, Some(Does::Block(50_000))).await;
        worker.says("begin 1");
        worker.signal(signal);
        worker.logs("a second signal ends the process at once");
        worker.signal(signal);
        assert_eq!(worker.code(), Some(code));
    }
}

#[tokio::test]
async fn a_handler_that_blocks_the_only_thread_for_five_leases_keeps_its_lease() {
    let site = Site::new(&[ONE_THREAD, ("STREAMS_LEASE", "1s")]);
    let (one, other) = site.pair();
    let epoch = site.state("epoch");
    site.publish(1, Some(Does::Block(5000))).await;
    one.says("end 1");
    site.publish(2, None).await;
    one.says("end 2");
    assert_eq!((site.state("epoch"), other.output()), (epoch, String::new()));
}

#[tokio::test]
async fn a_process_without_a_lease_does_not_go_on_after_it_was_stopped_and_continued() {
    let site = Site::new(&[("STREAMS_LEASE", "1s")]);
    let (one, other) = site.pair();
    site.publish(1, None).await;
    one.says("end 1");
    one.signal("STOP");
    for n in 2..=3 {
        site.publish(n, None).await;
        other.says(&format!("end {n}"));
    }
    one.signal("CONT");
    one.logs("the lease is lost");
    assert_eq!(one.output(), "begin 1\nend 1\n");
}

#[tokio::test]
async fn a_flush_under_an_owner_halts_it_before_anything_later_is_handled() {
    let site = Site::new(&[("STREAMS_LEASE", "1s")]);
    let worker = site.owner();
    site.publish(1, None).await;
    worker.says("end 1");
    redis::cmd("FLUSHDB").exec(&mut RedisServer::client(&site.url)).unwrap();
    worker.logs("the server emptied");
    site.publish(2, None).await;
    let mut anew = site.worker();
    anew.says("end 2");
    assert!(!worker.output().contains("begin 2"), "{}", worker.output());
    anew.signal("TERM");
    assert_eq!(anew.code(), Some(0));
}

#[test]
fn a_service_that_cannot_start_says_why_ends_with_1_and_never_shows_the_password() {
    let server = Options::default().password("right").start();
    let port = server.port();
    let closed = RedisServer::start().port();
    for (url, said) in [
        (format!("redis://:CANARY@127.0.0.1:{port}/"), "the server refused to log in"),
        (format!("redis://127.0.0.1:{port}/"), "the server asks for a password"),
        (format!("redis://:CANARY@127.0.0.1:{closed}/"), "connection refused"),
        ("http://:CANARY@127.0.0.1/".to_owned(), "the Redis URL has no scheme that is known"),
        ("redis://:CANARY@127.0.0.1/nought".to_owned(), "its database is not a number"),
        ("redis://:CANARY@/%zz".to_owned(), "the Redis URL"),
        ("rediss://:CANARY@127.0.0.1/#insecure".to_owned(), "ends in #insecure"),
        (format!("redis://:CANARY@127.0.0.1:{}/", RedisServer::shared().port()), "the server"),
    ] {
        let mut worker = Program::start(Command::new(env!("CARGO_BIN_EXE_worker")).env("REDIS_URL", &url));
        assert_eq!(worker.code(), Some(1), "{url}");
        let everything = worker.output() + &worker.errors();
        assert!(everything.contains(said), "{url}: {everything}");
        assert!(!everything.contains("CANARY"), "{url}: {everything}");
        let lines: Vec<_> = everything.lines().collect();
        assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "a cause is shown twice: {everything}");
    }
}

#[test]
fn every_bad_variable_is_named_at_once_and_the_exit_code_is_1() {
    let mut worker = Program::start(
        Command::new(env!("CARGO_BIN_EXE_worker"))
            .env("STREAMS_LEASE", "soon")
            .env("STREAMS_GROUPS", "nobody")
            .env("STREAMS_MAX_ATTEMPTS", "0")
            .env("STREAMS_NAMESPACE", "a:b"),
    );
    assert_eq!(worker.code(), Some(1));
    for word in ["STREAMS_LEASE is `soon`", "no consumer is in group `nobody`", "`max_attempts` is 0", "`a:b`"] {
        assert!(worker.errors().contains(word), "{word}: {}", worker.errors());
    }
}

#[test]
fn without_a_url_a_debug_build_warns_and_a_release_build_refuses() {
    let mut worker = Program::start(&mut Command::new(env!("CARGO_BIN_EXE_worker")));
    if cfg!(debug_assertions) {
        worker.logs("no REDIS_URL is set: using the embedded broker");
        worker.signal("TERM");
        assert_eq!(worker.code(), Some(0));
    } else {
        assert_eq!(worker.code(), Some(1));
        assert!(worker.errors().contains("set REDIS_URL, or STREAMS_BROKER=embedded"), "{}", worker.errors());
    }
}

/// An app that is started without reading the environment.
fn starter(envs: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    let mut worker = Program::start(command.env("WORKER_STARTS", "1").envs(envs.iter().copied()));
    let code = worker.code();
    (code, worker.output() + &worker.errors())
}

#[test]
fn an_app_that_does_not_read_the_environment_does_not_start_where_it_names_a_server() {
    for (variable, value) in [
        ("REDIS_URL", "redis://:CANARY@127.0.0.1:1/"),
        ("STREAMS_BROKER", "embedded"),
        ("STREAMS_NAMESPACE", "staging"),
    ] {
        for quiet in [&[][..], &[("WORKER_SILENT", "1")]] {
            let (code, said) = starter(&[&[(variable, value)], quiet].concat());
            assert_eq!(code, Some(1), "{said}");
            let words =
                format!("{variable} is set, and this app does not read the environment; call `.from_environment()`");
            assert!(said.contains(&words) && !said.contains("CANARY"), "{said}");
        }
    }
    let (_, said) = starter(&[("REDIS_URL", "redis://127.0.0.1:1/"), ("STREAMS_LEASE", "1s")]);
    assert!(said.contains("REDIS_URL, STREAMS_LEASE are set, and"), "{said}");
}

#[test]
fn an_app_that_does_not_read_the_environment_says_so_of_its_broker_whoever_listens() {
    let said =
        "no broker is given, and the environment is not read: using the embedded broker, which forgets everything";
    for quiet in [&[][..], &[("WORKER_SILENT", "1")]] {
        let (code, told) = starter(quiet);
        if cfg!(debug_assertions) {
            assert_eq!((code, told.matches(said).count()), (Some(0), 1), "{told}");
        } else {
            assert!(code == Some(1) && told.contains("or `.from_environment()` and set REDIS_URL"), "{told}");
        }
        // Variables of the tests and of Kubernetes are no mistake.
        let of_others =
            [("STREAMS_LOCK", "required"), ("STREAMS_SERVICE_HOST", "10.0.0.1"), ("STREAMS_PORT", "tcp://10.0.0.1:80")];
        assert_eq!(starter(&[&of_others[..], quiet].concat()).0, code);
    }
}

#[test]
fn a_service_beside_a_service_of_kubernetes_that_is_called_streams_starts() {
    let site = Site::new(&[
        ("STREAMS_SERVICE_HOST", "10.0.0.1"),
        ("STREAMS_SERVICE_PORT", "6379"),
        ("STREAMS_PORT", "tcp://10.0.0.1:6379"),
        ("STREAMS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("STREAMS_PORT_6379_TCP_ADDR", "10.0.0.1"),
    ]);
    let mut worker = site.owner();
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn a_service_that_is_told_to_use_redis_does_not_start_without_a_url() {
    let mut worker = Program::start(Command::new(env!("CARGO_BIN_EXE_worker")).env("STREAMS_BROKER", "redis"));
    assert_eq!(worker.code(), Some(1));
    assert!(worker.errors().contains("but nothing says where: set REDIS_URL"), "{}", worker.errors());
}

#[tokio::test]
async fn dead_letters_are_listed_by_the_page_decoded_and_discarded() {
    let site = Site::new(&[("STREAMS_MAX_ATTEMPTS", "1")]);
    let worker = site.owner();
    for n in 1..=5 {
        site.publish(n, (n != 3).then_some(Does::Fail)).await;
    }
    let mut add = redis::cmd("XADD");
    add.arg("jobs").arg("*").arg("event").arg("Job").arg("payload").arg("{not this}").arg("tenant").arg("a");
    add.exec(&mut RedisServer::client(&site.url)).unwrap();
    worker.logs("cause=\"decode\"");

    let broker = Arc::new(Redis::open(&site.url).unwrap());
    let app = App::with(consumers![look]).broker(broker).start().await.unwrap();
    let letters = app.dead_letters::<Job>("work");
    let wait_for_the_last = async {
        while letters.list(None, 9).await.unwrap().len() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait_for_the_last).await.expect("five dead letters");
    let mut pages = Vec::new();
    while let page = letters.list(pages.last().map(DeadLetter::id), 2).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 2);
        pages.extend(page);
    }
    let jobs: Vec<_> = pages.iter().map(|letter| letter.decode().ok().map(|job| job.n)).collect();
    assert_eq!(jobs, [Some(1), Some(2), Some(4), Some(5), None]);
    assert_eq!((pages[0].consumer(), pages[0].cause(), pages[0].reason()), ("work", "handler", "job 1 fails"));
    assert_eq!(pages[4].original().payload(), Some(b"{not this}".as_slice()));
    assert_eq!(pages[4].original().headers().get("tenant"), Some("a"));
    let ids: Vec<_> = pages.iter().take(3).map(DeadLetter::id).collect();
    assert_eq!(letters.discard(&ids).await.unwrap(), 3);
    assert_eq!(letters.discard(&ids).await.unwrap(), 0);
    assert_eq!(letters.list(None, 9).await.unwrap().len(), 2);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

/// For an app that only looks.
#[consumer(group = "look", start = "latest")]
async fn look(_: Job) {}

#[test]
fn a_variable_that_is_not_text_is_no_reason_to_panic() {
    let site = Site::new(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.env("REDIS_URL", &site.url).env("SOMEBODY_ELSES", OsStr::from_bytes(&[0xff, 0xfe]));
    let mut worker = Program::start(&mut command);
    worker.logs("owning group=\"work\"");
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(0));
}

#[test]
fn an_event_that_another_client_adds_with_nothing_but_its_name_and_payload_is_handled() {
    let site = Site::new(&[]);
    let worker = site.owner();
    // A map of one pair: n = 7.
    let payload: &[u8] = &[0x81, 0xa1, b'n', 0x07];
    let mut add = redis::cmd("XADD");
    add.arg("jobs").arg("*").arg("event").arg("Job").arg("payload").arg(payload);
    add.exec(&mut RedisServer::client(&site.url)).unwrap();
    worker.says("end 7");
}

#[tokio::test]
async fn the_group_that_tools_see_follows_the_checkpoint() {
    let site = Site::new(&[]);
    let mut worker = site.owner();
    for n in 1..=5 {
        site.publish(n, None).await;
    }
    worker.says("end 5");
    worker.signal("TERM");
    assert_eq!(worker.code(), Some(0));
    let groups: redis::streams::StreamInfoGroupsReply =
        redis::cmd("XINFO").arg("GROUPS").arg("jobs").query(&mut RedisServer::client(&site.url)).unwrap();
    let group = &groups.groups[0];
    assert_eq!((group.name.as_str(), group.lag, group.pending), ("work", Some(0), 0));
    assert_eq!(group.last_delivered_id, site.state("at"));
}
