//! A real Redis server on a private port, which ends with the test that started it, also when that is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, net, thread};

use tempfile::TempDir;

/// How long a server may take to start on a machine that is busy with a build.
const START: Duration = Duration::from_secs(20);
/// How many databases a server has: tests that share a server take one each.
const DATABASES: u32 = 1024;

/// Runs the server until the standard input ends, which it does when the test process is gone, however it went.
const WATCHDOG: &str = r#"trap '' INT HUP; "$@" & server=$!; read -r _; kill -9 $server; wait $server"#;

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    password: Option<String>,
    socket_only: bool,
    args: Vec<String>,
}

impl Options {
    /// With a password for the default user.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.args(["--requirepass", password])
    }

    /// With one more user, in the words of `ACL SETUSER`, such as `app on >secret ~* +@all`.
    #[must_use]
    pub fn user(self, rules: &str) -> Self {
        let mut words = vec!["--user"];
        words.extend(rules.split(' '));
        self.args(words)
    }

    /// On a unix socket alone.
    #[must_use]
    pub fn socket_only(mut self) -> Self {
        self.socket_only = true;
        self
    }

    /// With arguments of `redis-server`; it persists nothing unless they say so.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Starts the server and waits until it takes connections.
    ///
    /// # Panics
    /// When there is no `redis-server` or it does not start.
    pub fn start(self) -> RedisServer {
        // Between the choice of a port and its use another process may take it.
        for _ in 0..10 {
            if let Some(server) = self.try_start() {
                return server;
            }
        }
        panic!("no port found for redis-server in ten attempts");
    }

    fn try_start(&self) -> Option<RedisServer> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = if self.socket_only { 0 } else { free_port() };
        let watchdog = self.spawn(dir.path(), port);
        let options = self.clone();
        let server = RedisServer { options, watchdog, dir, port, databases: AtomicU32::new(0) };
        server.wait_until_ready().then_some(server)
    }

    fn spawn(&self, dir: &Path, port: u16) -> Child {
        let path = |name: &str| dir.join(name).to_str().expect("a path in UTF-8").to_owned();
        Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(binary())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", &path("")])
            .args(["--unixsocket", &path("redis.sock"), "--logfile", &path("log")])
            .args(["--databases", &DATABASES.to_string()])
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("stderr")).expect("a file in the temporary directory"))
            .spawn()
            .expect("sh")
    }
}

/// A Redis server of a test.
#[derive(Debug)]
pub struct RedisServer {
    options: Options,
    watchdog: Child,
    dir: TempDir,
    port: u16,
    databases: AtomicU32,
}

impl RedisServer {
    /// A server of its own, for tests that change or break the server.
    pub fn start() -> Self {
        Options::default().start()
    }

    /// A server that all tests of this process share, for tests that need a database alone: [`database`](Self::database).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The URL of its first database.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The URL of a database that nobody else was given.
    ///
    /// # Panics
    /// When there is none left.
    pub fn database(&self) -> String {
        let database = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(database < DATABASES, "more than {DATABASES} databases are in use");
        self.url_of(database)
    }

    fn url_of(&self, database: u32) -> String {
        let log_in = self.options.password.as_ref().map_or_else(String::new, |password| format!(":{password}@"));
        if self.port == 0 {
            let pass = self.options.password.as_ref().map_or_else(String::new, |password| format!("&pass={password}"));
            return format!("redis+unix://{}?db={database}{pass}", self.socket().display());
        }
        format!("redis://{log_in}127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port; 0 when there is only the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The unix socket, which every server has.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Where the server keeps its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A plain connection to a database, as any other client has one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn client(url: &str) -> redis::Connection {
        redis::Client::open(url).and_then(|client| client.get_connection()).expect("a connection to the test's server")
    }

    /// Makes this server the replica of another one, and waits until it follows.
    ///
    /// # Panics
    /// When it does not.
    pub fn follow(&self, primary: &Self) {
        if let Some(password) = &primary.options.password {
            self.run::<()>(&format!("CONFIG SET masterauth {password}"));
        }
        self.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
        let started = Instant::now();
        while !self.run::<String>("INFO replication").contains("master_link_status:up") {
            assert!(started.elapsed() < START, "the replica does not follow");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a command in the first database, in words: `server.run("CONFIG SET maxmemory 1mb")`.
    ///
    /// # Panics
    /// When it fails.
    pub fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        run(&self.url(), command)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // Its standard input ends here, and with it the watchdog ends the server.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }

    /// Starts it again after [`Self::kill`], on the same port and files; answers before it takes connections.
    ///
    /// # Panics
    /// When its log cannot be begun anew.
    pub fn start_again(&mut self) {
        fs::write(self.dir.path().join("log"), "").expect("the server's log");
        self.watchdog = self.options.spawn(self.dir.path(), self.port);
    }

    /// Waits until it takes connections, after [`Self::start_again`].
    ///
    /// # Panics
    /// When it does not, or another process has its port by now.
    pub fn wait_until_back(&self) {
        assert!(self.wait_until_ready(), "another process has port {}", self.port);
    }

    /// Sends the server a signal: after `STOP` it is silent until `CONT`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        // From its log: a server that stands still cannot be asked.
        let log = fs::read_to_string(self.dir.path().join("log")).expect("the server's log");
        let pid = log.split_once("pid=").and_then(|(_, rest)| rest.split(',').next()).expect("the server's process");
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {pid}");
    }

    /// Deletes everything.
    pub fn flush(&self) {
        self.run::<()>("FLUSHALL");
    }

    /// Waits until the server takes connections; false when another process has its port.
    fn wait_until_ready(&self) -> bool {
        let started = Instant::now();
        loop {
            let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            let log = read("log");
            // Its own word: whoever answers on the port may be somebody else.
            if log.contains("Ready to accept connections") || log.contains("ready to accept connections") {
                return true;
            }
            if log.contains("Failed listening on port") || log.contains("Could not create server TCP") {
                return false;
            }
            assert!(started.elapsed() < START, "redis-server did not start:\n{}{log}", read("stderr"));
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command in a database, in words without quotes.
///
/// # Panics
/// When it fails.
fn run<T: redis::FromRedisValue>(url: &str, command: &str) -> T {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap_or_default());
    words.for_each(|word| {
        cmd.arg(word);
    });
    cmd.query(&mut RedisServer::client(url)).unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn free_port() -> u16 {
    let listener = net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("the port's address").port()
}

fn binary() -> PathBuf {
    let named = env::var_os("REDIS_SERVER").map(PathBuf::from);
    let on_path = || {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|dir| dir.join("redis-server")).find(|file| file.is_file())
    };
    named
        .filter(|file| file.is_file())
        .or_else(on_path)
        .expect("no redis-server found; run `cargo xtask test`, which installs one")
}
