//! Finds the program of a Redis or Valkey server, or lets a package manager install it.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable with the server's program: read here, and set for the tests' harness.
pub(crate) const VARIABLE: &str = "REDIS_SERVER";

/// The names of the programs.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// The oldest version for the tests: they need functions and stream fields of Redis 7.0, which the first Valkey (7.2)
/// has, too.
const FLOOR: Version = Version { major: 7, minor: 0, patch: 0 };

/// A server's program that is new enough.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) path: PathBuf,
    product: String,
    version: Version,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.product, self.version, self.path.display())
    }
}

/// The server's program at `REDIS_SERVER`, else in `PATH`, else from a package manager.
///
/// A `REDIS_SERVER` that does not work is an error, because its user does not want to test with another program.
pub(crate) fn find_or_install() -> Result<Server, String> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        // The tests run in the folders of their packages, where a relative path names another file.
        let path = std::path::absolute(&path).unwrap_or_else(|_| path.into());
        return probe(&path).map_err(|why| format!("{VARIABLE}: {why}; correct it, or unset it to use PATH"));
    }
    let mut unfit = match find() {
        Ok(server) => return Ok(server),
        Err(unfit) => unfit,
    };
    let installed = install();
    if installed.is_ok() {
        match find() {
            Ok(server) => return Ok(server),
            Err(found) => unfit = found,
        }
    }
    let mut message = format!("there is no Redis {FLOOR} or later, and no Valkey, to test with");
    for why in unfit {
        message += &format!("\n  found: {why}");
    }
    match installed {
        Ok(by) => message += &format!("\n  {by} installed what it has, and that does not do"),
        Err(why) => message += &format!("\n  not installed: {why}"),
    }
    message += &format!(
        "\n  remedy: install Redis or Valkey so that `redis-server` is in PATH (Debian, Ubuntu: redis-server; Fedora: \
         valkey; Alpine, Arch: valkey; Homebrew: redis), or build it and set {VARIABLE}=/path/to/redis-server"
    );
    Err(message)
}

/// The first fit program in `PATH`, else the faults of those that are there.
fn find() -> Result<Server, Vec<String>> {
    let mut unfit = Vec::new();
    let path = env::var_os("PATH").unwrap_or_default();
    for directory in env::split_paths(&path).filter(|directory| directory.is_absolute()) {
        for program in PROGRAMS {
            let program = directory.join(program);
            if program.is_file() {
                match probe(&program) {
                    Ok(server) => return Ok(server),
                    Err(why) => unfit.push(why),
                }
            }
        }
    }
    Err(unfit)
}

/// Asks the program for its product and version.
fn probe(path: &Path) -> Result<Server, String> {
    let name = path.display();
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{name}`: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (product, version) =
        parse_version(&text).ok_or_else(|| format!("`{name}` does not say which version of Redis or Valkey it is"))?;
    if version < FLOOR {
        return Err(format!("`{name}` is {product} {version}, and {FLOOR} is the oldest that will do"));
    }
    Ok(Server { path: path.to_owned(), product: product.to_owned(), version })
}

/// Lets a package manager install a server; answers which one did.
fn install() -> Result<&'static str, String> {
    if cfg!(target_os = "macos") && run("brew", &["--version"]).is_some() {
        return shown(&["brew", "install", "redis"]).map(|()| "brew");
    }
    install_package("redis-server")
}

/// Lets apt-get install a package.
pub(crate) fn install_package(package: &str) -> Result<&'static str, String> {
    let root = || run("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    if run("apt-get", &["--version"]).is_some() {
        let sudo: &[&str] = if root() {
            &[]
        } else if run("sudo", &["--version"]).is_none() {
            return Err("apt-get needs root, and there is no sudo".to_owned());
        } else if io::stdin().is_terminal() {
            &["sudo"]
        } else {
            // No user is there to type a password.
            &["sudo", "-n"]
        };
        let apt = |args: &[&str]| shown(&[sudo, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat());
        // After a failed update the present lists may suffice.
        let updated = apt(&["update", "-q"]);
        let installed = apt(&["install", "-q", "-y", "--no-install-recommends", package]);
        return installed.map(|()| "apt-get").map_err(|why| match updated {
            Ok(()) => why,
            Err(update) => format!("{update}; {why}"),
        });
    }
    Err("there is neither apt-get nor brew".to_owned())
}

/// The output of the program; `None` if it does not exist or fails.
pub(crate) fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and shows it, so that nothing is installed unseen.
///
/// Its output goes to standard error: standard output belongs to the tests.
pub(crate) fn shown(command: &[&str]) -> Result<(), String> {
    let text = command.join(" ");
    eprintln!("+ {text}");
    let [program, args @ ..] = command else { return Ok(()) };
    match Command::new(program).args(args).stdout(io::stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{text}` failed ({status})")),
        Err(error) => Err(format!("cannot run `{text}`: {error}")),
    }
}

/// A server's version. The patch is only for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Product and version from the output of `--version`: `Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0`.
fn parse_version(text: &str) -> Option<(&'static str, Version)> {
    // The first Valkeys print `Server v=7.2.5`.
    let (before, after) = text.lines().find_map(|line| line.split_once(" v="))?;
    let product = match before.to_ascii_lowercase().as_str() {
        "redis server" => "Redis",
        "valkey server" | "server" => "Valkey",
        _ => return None,
    };
    // A mark such as `-rc1` may follow the three numbers.
    let number = |part: &str| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse::<u32>().ok()
    };
    let mut parts = after.split_whitespace().next()?.split('.');
    let (major, minor) = (number(parts.next()?)?, number(parts.next()?)?);
    let patch = parts.next().and_then(number).unwrap_or(0);
    Some((product, Version { major, minor, patch }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str)>) {
        let parsed = parse_version(text).map(|(product, version)| (product, version.to_string()));
        assert_eq!(parsed.as_ref().map(|(product, version)| (*product, version.as_str())), expected, "{text}");
    }

    #[test]
    fn versions_of_redis_and_valkey_are_understood() {
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n", Some(("Redis", "7.0.15")));
        check("Redis server v=8.0-rc1 sha=0:0\n", Some(("Redis", "8.0.0")));
        check("Valkey server v=8.1.3 sha=00000000:0 malloc=jemalloc-5.3.0\n", Some(("Valkey", "8.1.3")));
        check("Server v=7.2.5 sha=00000000:0\n", Some(("Valkey", "7.2.5")));
        check("a warning\nRedis server v=255.255.255 sha=0:1\n", Some(("Redis", "255.255.255")));
    }

    #[test]
    fn other_programs_are_not_a_server() {
        for text in ["", "v=7.0.0", "redis-cli 7.0.15", "Redis server v=", "Redis server v=seven", "Kvrocks v=7.0.0"] {
            check(text, None);
        }
    }

    #[test]
    fn the_floor_is_the_first_fit_version() {
        let fit = |text: &str| parse_version(text).unwrap().1 >= FLOOR;
        assert!(fit("Redis server v=7.0.0"));
        assert!(fit("Redis server v=10.0.0"));
        assert!(!fit("Redis server v=6.2.14"));
    }
}
