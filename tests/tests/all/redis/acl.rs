//! Users with the least rights. Each program lives its whole life with the rules that `Acl` writes for it, and may do no more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Connection, Value};
use streams_core::Retention;
use streams_core::broker::{Groups, Reset};
use streams_core::keys::{SnapshotKey, StreamKey};
use streams_runtime::broker::{Acl, Redis};
use streams_runtime::{
    Admin, App, BoxError, Config, Context, DeadLetters, Outcome, Phase, Publisher, Running, Snapshots, Start, State,
    Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Lab, Options, RedisServer, until};

/// With more partitions than one digit has.
#[stream_event(stream = "acl-orders", key = customer, partitions = 11)]
#[derive(Debug, Clone, PartialEq)]
struct Order {
    customer: String,
    n: u64,
}

#[stream_event(stream = "acl-bills", retention = "consumed", durability = "replicas(1)")]
#[derive(Debug, Clone, PartialEq)]
struct Bill {
    n: u64,
}

/// Work that processes share.
#[stream_event(stream = "acl-mails", key = customer, partitions = 2, retention = "consumed")]
#[derive(Debug, Clone, PartialEq)]
struct Mail {
    customer: String,
    n: u64,
}

#[consumer(group = "ship", max_attempts = 1)]
async fn ship(order: Order, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, order.n).await
}

#[consumer(group = "books")]
async fn book(bill: Bill, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, bill.n).await
}

#[consumer(group = "send", delivery = "queue", max_attempts = 2, backoff = "10ms")]
async fn send(mail: Mail, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, mail.n).await
}

const NAMESPACE: Option<&str> = Some("eu");

/// A server with a user for each role.
struct Site {
    server: RedisServer,
}

impl Site {
    fn new() -> Self {
        let site = Self { server: Options::default().args(["--repl-diskless-sync-delay", "0"]).start() };
        let publisher = Acl::new().publish::<Order>(NAMESPACE).and_then(|acl| acl.publish::<Bill>(NAMESPACE));
        let publisher = publisher.and_then(|acl| acl.publish::<Mail>(NAMESPACE)).unwrap();
        let consumer = Acl::new().consume::<Order>(NAMESPACE, "ship");
        let consumer = consumer.and_then(|acl| acl.consume::<Bill>(NAMESPACE, "books")).unwrap();
        let sharer = Acl::new().share::<Mail>(NAMESPACE, "send").unwrap();
        let operator = Acl::new().operate::<Order>(NAMESPACE).and_then(|acl| acl.operate::<Bill>(NAMESPACE));
        let operator = operator.and_then(|acl| acl.operate::<Mail>(NAMESPACE)).unwrap();
        let follower = Acl::new().follow::<Order>(NAMESPACE, "totals").unwrap();
        let users = [
            ("publisher", publisher),
            ("consumer", consumer),
            ("sharer", sharer),
            ("follower", follower),
            ("operator", operator),
        ];
        for (user, acl) in users {
            // Said twice it is the same.
            for _ in 0..2 {
                site.server.run::<()>(&format!("ACL SETUSER {user} on >secret {acl}"));
            }
        }
        site
    }

    fn url(&self, user: &str) -> String {
        format!("redis://{user}:secret@127.0.0.1:{}", self.server.port())
    }

    fn broker(&self, user: &str) -> Arc<Redis> {
        Arc::new(Redis::open(&self.url(user)).unwrap())
    }

    async fn app(&self, lab: &Lab, protocol: &str) -> Running {
        let broker = Redis::open(&(self.url("consumer") + protocol)).unwrap();
        let app = App::with(consumers![ship, book]).state(lab.clone()).namespace("eu").broker(Arc::new(broker));
        // A reset is noticed when the lease is renewed.
        app.config(Config::new().lease(Duration::from_secs(3))).start().await.unwrap()
    }

    /// A process that shares the work.
    async fn worker(&self, lab: &Lab, protocol: &str) -> Running {
        let broker = Redis::open(&(self.url("sharer") + protocol)).unwrap();
        let app = App::with(consumers![send]).state(lab.clone()).namespace("eu").broker(Arc::new(broker));
        app.config(Config::new().lease(Duration::from_secs(3))).start().await.unwrap()
    }

    /// Everything that the server ever refused somebody.
    fn refusals(&self) -> Vec<Value> {
        self.server.run("ACL LOG")
    }
}

/// The sum of the orders.
type Total = Arc<Mutex<u64>>;

#[consumer(group = "totals", delivery = "broadcast")]
async fn total(order: Order, State(total): State<Total>) {
    *total.lock().unwrap() += order.n;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_a_copy_lives_with_the_least_rights() {
    let site = Site::new();
    let publisher = Publisher::connect(&site.url("publisher")).await.unwrap().with_namespace("eu").unwrap();
    for receipt in publisher.publish_all((1..=50).map(|n| Order { customer: format!("customer {n}"), n })).await {
        receipt.unwrap();
    }
    for protocol in ["", "?protocol=resp3"] {
        let sum = Total::default();
        let every = Snapshots::every(Duration::from_millis(100));
        let broker = Arc::new(Redis::open(&(site.url("follower") + protocol)).unwrap());
        let app = App::with(consumers![total]).state(sum.clone()).snapshots("totals", every, sum.clone());
        let app = app.namespace("eu").broker(broker).start().await.unwrap();
        app.caught_up().await.unwrap();
        assert_eq!(*sum.lock().unwrap(), 50 * 51 / 2);
        until(|| site.server.run::<bool>("EXISTS streams:{eu:totals}:_snapshot")).await;
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
    assert_eq!(site.refusals(), [], "nothing was asked for that the user may not do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_live_with_the_least_rights() {
    let site = Site::new();
    let replica = RedisServer::start();
    replica.follow(&site.server);

    let publisher = Publisher::connect(&site.url("publisher")).await.unwrap().with_namespace("eu").unwrap();
    let order = |n: u64| Order { customer: format!("customer {n}"), n };
    let (lab, second) = (Lab::default(), Lab::default());
    lab.script("ship", 7, [Act::Give(Outcome::dead_letter("because"))]);
    let app = site.app(&lab, "").await;
    let standby = site.app(&second, "?protocol=resp3").await;
    until(|| standby.status().groups.iter().all(|group| matches!(group.phase, Phase::StandingBy { .. }))).await;

    for receipt in publisher.publish_all((0..50).map(order)).await {
        receipt.unwrap();
    }
    for n in 0..3 {
        publisher.publish(&Bill { n }).await.unwrap();
    }
    lab.called("ship", 50).await;
    lab.called("books", 3).await;
    app.settled().await.unwrap();
    assert_eq!(app.dead_letters::<Order>("ship").list(None, 9).await.unwrap().len(), 1);
    assert_eq!(app.shutdown().await, Stopped::Clean);

    until(|| standby.status().groups.iter().all(|group| matches!(group.phase, Phase::Owning { .. }))).await;
    publisher.publish(&order(50)).await.unwrap();
    second.called("ship", 1).await;

    let admin = Admin::on(site.broker("operator"), NAMESPACE).unwrap();
    assert_eq!(admin.reset("acl-orders", "ship", Start::Earliest).await.unwrap().len(), 11);
    admin.reset("acl-bills", "books", Start::Ago(Duration::from_secs(3600))).await.unwrap();
    second.called("ship", 52).await;
    second.called("books", 3).await;
    let letters = DeadLetters::<Order>::on(site.broker("operator"), NAMESPACE, "ship").unwrap();
    let all = letters.list(None, 9).await.unwrap();
    let calls = second.calls("ship").len();
    assert_eq!(letters.replay(&[all[0].id()]).await.unwrap().moved, 1);
    // Noticed when the lease is renewed.
    second.called("ship", calls + 1).await;
    assert_eq!(admin.resume("acl-orders", "ship").await.unwrap().len(), 11);
    assert_eq!(letters.discard(&[all[0].id()]).await.unwrap(), 0);
    // A server that was started anew knows no script, and a group that is gone is made anew.
    site.server.run::<()>("SCRIPT FLUSH");
    site.server.run::<()>("XGROUP DESTROY eu:acl-orders.10 ship");
    admin.reset("acl-orders", "ship", Start::Latest).await.unwrap();
    publisher.publish(&order(51)).await.unwrap();
    second.called("ship", calls + 2).await;
    standby.settled().await.unwrap();
    assert_eq!(standby.shutdown().await, Stopped::Clean);
    assert_eq!(site.refusals(), [], "nothing was refused by the way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_share_work_live_with_the_least_rights() {
    let site = Site::new();
    let publisher = Publisher::connect(&site.url("publisher")).await.unwrap().with_namespace("eu").unwrap();
    let mail = |n: u64| Mail { customer: format!("customer {n}"), n };
    let (lab, second) = (Lab::default(), Lab::default());
    for lab in [&lab, &second] {
        lab.script("send", 7, [Act::Give(Outcome::dead_letter("because"))]);
        lab.script("send", 8, [Act::Fail]);
    }
    let gone = site.worker(&lab, "").await;
    for receipt in publisher.publish_all((0..50).map(mail)).await {
        receipt.unwrap();
    }
    // One of them fails once, and comes again.
    lab.called("send", 51).await;
    gone.settled().await.unwrap();
    // A process is gone without a word, and another one reclaims its entries in flight.
    lab.script("send", 50, [Act::Hang]);
    publisher.publish(&mail(50)).await.unwrap();
    lab.called("send", 52).await;
    drop(gone);
    let app = site.worker(&second, "?protocol=resp3").await;
    second.called("send", 1).await;
    app.settled().await.unwrap();

    let admin = Admin::on(site.broker("operator"), NAMESPACE).unwrap();
    let letters = DeadLetters::<Mail>::on(site.broker("operator"), NAMESPACE, "send").unwrap();
    let all = letters.list(None, 9).await.unwrap();
    let calls = second.calls("send").len();
    assert_eq!(letters.replay(&[all[0].id()]).await.unwrap().moved, 1);
    second.called("send", calls + 1).await;
    assert_eq!(admin.resume("acl-mails", "send").await.unwrap().len(), 2);
    site.server.run::<()>("SCRIPT FLUSH");
    site.server.run::<()>("XGROUP DESTROY eu:acl-mails.1 send");
    assert_eq!(admin.reset("acl-mails", "send", Start::Latest).await.unwrap().len(), 2);
    for n in 60..70 {
        publisher.publish(&mail(n)).await.unwrap();
    }
    second.called("send", calls + 11).await;
    assert_eq!(app.shutdown().await, Stopped::Clean);
    assert_eq!(site.refusals(), [], "nothing was refused by the way");
}

#[tokio::test]
async fn an_operator_with_the_rules_of_before_looks_after_ordered_groups() {
    let server = RedisServer::start();
    let orders = StreamKey::new(None, "orders", 1);
    let before = Acl::new().operate_on(&orders).to_string().replace("+hdel ", "").replace("+xpending ", "");
    server.run::<()>(&format!("ACL SETUSER operator on >secret {before}"));
    let group = orders.partition(0).group("ship");
    let broker = Redis::open(&server.url()).unwrap();
    broker.create(&group, Start::Earliest).await.unwrap();
    let operator = Redis::open(&server.url().replace("redis://", "redis://operator:secret@")).unwrap();
    assert!(operator.resume(&group).await.unwrap());
    assert!(matches!(operator.reset(&group, Some(0), Start::Latest).await.unwrap(), Reset::Done { .. }));
}

#[tokio::test]
async fn rules_may_stand_in_the_file_of_the_server() {
    let acl = Acl::new().publish::<Order>(None).and_then(|acl| acl.operate::<Bill>(None)).unwrap();
    let server = Options::default().user(&format!("feed on >secret {acl}")).start();
    let url = format!("redis://feed:secret@127.0.0.1:{}", server.port());
    let publisher = Publisher::connect(&url).await.unwrap();
    publisher.publish(&Order { customer: "a".to_owned(), n: 1 }).await.unwrap();
    let error = publisher.publish(&Bill { n: 1 }).await.unwrap_err().to_string();
    assert!(error.contains("NOPERM"), "{error}");
}

/// Commands, in words; `~` stands for a space within a word.
fn run(client: &mut Connection, command: &str) -> Result<Value, redis::RedisError> {
    let mut words = command.split(' ').map(|word| word.replace('~', " "));
    let mut cmd = redis::cmd(&words.next().unwrap());
    words.for_each(|word| {
        cmd.arg(word);
    });
    cmd.query(client)
}

#[test]
fn roles_may_do_nothing_else() {
    const STATE: &str = "streams:{eu:acl-orders.3}:ship";
    let site = Site::new();
    let admin = &mut RedisServer::client(&site.server.url());
    let streams =
        ["eu:acl-orders.3", "eu:acl-bills", "eu:acl-orders.0x", "acl-orders.3", "us:acl-orders.3", "eu:acl-mails.1"];
    for stream in streams {
        run(admin, &format!("XADD {stream} * event Order")).unwrap();
        run(admin, &format!("HSET streams:{{{stream}}}:other mode ordered")).unwrap();
        run(admin, &format!("XADD streams:{{{stream}}}:ship:dead * event Order")).unwrap();
    }
    let anybody = [
        "KEYS *",
        "SCAN 0",
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET *",
        "ACL WHOAMI",
        "CLIENT LIST",
        "SHUTDOWN NOSAVE",
        "MONITOR",
        "EVAL return~1 0",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "SELECT 1",
        "SET eu:acl-orders.3 x",
        "DEL eu:acl-orders.3",
        "UNLINK eu:acl-orders.3",
        "RENAME eu:acl-orders.3 x",
        "EXPIRE eu:acl-orders.3 1",
        "DUMP eu:acl-orders.3",
        "COPY eu:acl-orders.3 x",
        "XTRIM us:acl-orders.3 MAXLEN 0",
        "XDEL eu:acl-orders.3 1-1",
        "XSETID eu:acl-orders.3 1-1",
        "XGROUP DESTROY us:acl-orders.3 ship",
        "XREADGROUP GROUP ship x STREAMS eu:acl-orders.3 >",
        "XRANGE us:acl-orders.3 - +",
        "XRANGE acl-orders.3 - +",
        "XRANGE eu:acl-orders.0x - +",
        "XADD us:acl-orders.3 * a b",
        "XADD eu:acl-orders.0x * a b",
        "XADD eu:acl-orders * a b",
        "XINFO STREAM us:acl-orders.3",
        "PUBLISH a b",
        "HSET streams:{us:acl-orders}:_stream paused:ship x",
        "HGETALL streams:{us:acl-orders.3}:other",
    ];
    let publisher = [
        "XGROUP DESTROY eu:acl-orders.3 ship",
        "HSET streams:{eu:acl-orders}:_stream partitions 3",
        "XACK eu:acl-orders.3 ship 1-1",
        "XRANGE eu:acl-orders.3 - +",
        "XREVRANGE eu:acl-orders.3 + -",
        "XREAD STREAMS eu:acl-orders.3 0",
        "XLEN eu:acl-orders.3",
        "XGROUP CREATE eu:acl-orders.3 mine 0",
        "HGETALL streams:{eu:acl-orders.3}:other",
        "HGET streams:{eu:acl-orders.3}:other mode",
        "HSET streams:{eu:acl-bills}:other at 9-9",
        "XRANGE streams:{eu:acl-orders.3}:ship:dead - +",
        "XADD streams:{eu:acl-orders.3}:ship:dead * a b",
        "XADD streams:{eu:acl-orders.3}:_bell * a b",
        "EVALSHA 0 1 eu:acl-orders.3",
        "CLIENT UNBLOCK 1",
        "WAITAOF 0 0 1",
    ];
    let consumer = [
        "XGROUP DESTROY eu:acl-orders.3 ship",
        "HSET streams:{eu:acl-orders}:_stream paused:ship x",
        "HSET streams:{eu:acl-orders}:_stream partitions 3",
        "XACK eu:acl-orders.3 ship 1-1",
        "XCLAIM eu:acl-orders.3 ship x 0 1-1",
        "XGROUP DELCONSUMER eu:acl-orders.3 ship x",
        "ZADD streams:{eu:acl-orders.3}:ship:waiting 1 a",
        "HGET streams:{eu:acl-orders.3}:ship mode",
        "XADD eu:acl-orders.3 * a b",
        "XTRIM eu:acl-orders.3 MAXLEN 0",
        "HGETALL streams:{eu:acl-orders.3}:other",
        "HSET streams:{eu:acl-orders.3}:other a b",
        "XDEL streams:{eu:acl-orders.3}:ship:dead 1-1",
        "DEL streams:{eu:acl-orders.3}:ship",
        "XRANGE streams:{eu:acl-orders.3}:other:dead - +",
        "XADD streams:{eu:acl-orders.3}:other:dead * a b",
        "WAIT 0 1",
    ];
    let sharer = [
        "HSET streams:{eu:acl-mails}:_stream paused:send x",
        "XADD eu:acl-mails.1 * a b",
        "XRANGE eu:acl-orders.3 - +",
        "XREADGROUP GROUP ship x STREAMS eu:acl-orders.3 >",
        "XCLAIM eu:acl-orders.3 ship x 0 1-1",
        "XGROUP DESTROY eu:acl-mails.1 send",
        "XDEL eu:acl-mails.1 1-1",
        "XTRIM eu:acl-orders.3 MAXLEN 0",
        "DEL streams:{eu:acl-mails.1}:send",
        "HSET streams:{eu:acl-mails.1}:other a b",
        "ZADD streams:{eu:acl-mails.1}:other:waiting 1 a",
        "HSET streams:{eu:acl-mails.1}:other:failed 1-1 1",
        "DEL streams:{eu:acl-mails.1}:other:waiting",
        "ZADD streams:{eu:acl-orders.3}:ship:waiting 1 a",
        "XDEL streams:{eu:acl-mails.1}:send:dead 1-1",
        "XADD streams:{eu:acl-mails.1}:other:dead * a b",
        "WAIT 0 1",
    ];
    let operator = [
        "XTRIM eu:acl-orders.3 MAXLEN 0",
        "XADD eu:acl-orders.3 * a b",
        "XADD streams:{eu:acl-orders.3}:ship:dead * a b",
        "WAIT 0 1",
        "DEL streams:{eu:acl-orders}:_stream",
        "DEL streams:{eu:acl-orders.3}:_bell",
        "CLIENT UNBLOCK 1",
        "XREAD STREAMS eu:acl-orders.3 0",
        "XACK eu:acl-orders.0x ship 1-1",
        "XCLAIM eu:acl-mails.1 send x 0 1-1",
        "ZADD streams:{eu:acl-mails.1}:send:waiting 1 a",
    ];
    let roles = [("publisher", &publisher[..]), ("consumer", &consumer), ("sharer", &sharer), ("operator", &operator)];
    for (user, more) in roles {
        let client = &mut RedisServer::client(&site.url(user));
        for command in anybody.iter().chain(more) {
            match run(client, command) {
                Err(error) if error.code() == Some("NOPERM") || error.to_string().contains("unknown command") => {}
                other => panic!("{user} may {command}: {other:?}"),
            }
        }
        // A script does not get round it, as it runs with the rights of who calls it.
        let (stream, state) = match user {
            "publisher" => continue,
            "sharer" => ("eu:acl-mails.1", "streams:{eu:acl-mails.1}:send"),
            _ => ("eu:acl-orders.3", STATE),
        };
        for inside in ["DEL", "XDEL", "XADD"] {
            let script = format!("return~redis.call('{inside}',KEYS[1],'MAXLEN','0','*','a','b')");
            let Value::BulkString(hash) = run(client, &format!("SCRIPT LOAD {script}")).unwrap() else { panic!() };
            let hash = String::from_utf8(hash).unwrap();
            let error = run(client, &format!("EVALSHA {hash} 1 {stream}")).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("can't") || said.contains("permission"), "{user} {inside}: {error}");
        }
        run(client, &format!("HSET {state} mode ordered")).unwrap();
        let all = run(client, &format!("XRANGE {stream} - +")).unwrap();
        assert!(matches!(all, Value::Array(all) if all.len() == 1));
    }
}

#[test]
fn the_guide_shows_the_rules_as_they_are_printed() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let guide = std::fs::read_to_string(&path).unwrap();
    let trades = StreamKey::new(None, "trades", 1);
    let day = Retention::Age(Duration::from_secs(24 * 3600));
    for (user, acl) in [
        ("feed", Acl::new().publish_to(&trades, day, None)),
        ("risk", Acl::new().consume_from(&trades, "risk").unwrap()),
        ("mail", Acl::new().share_from(&trades, "mail").unwrap()),
        ("prices", Acl::new().follow_from(&trades, "prices").unwrap().save(&SnapshotKey::new(None, "prices"))),
        ("operator", Acl::new().operate_on(&trades)),
        ("observer", Acl::new().observe(None).unwrap()),
    ] {
        let line = format!("ACL SETUSER {user} on >PASSWORD {acl}");
        assert!(guide.lines().any(|shown| shown == line), "docs/security.md does not show this line:\n{line}");
    }
}
