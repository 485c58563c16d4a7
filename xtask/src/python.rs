//! Finds a Python with redis-py and msgpack, which plays other programs in the tests, or one that drives a browser; or makes one.

use std::env;
use std::path::{Path, PathBuf};

use crate::redis::{install_package, run, shown};

/// The variable with the Python: read here, and set for the tests' harness.
pub(crate) const VARIABLE: &str = "REDIS_PYTHON";

/// The Python at `REDIS_PYTHON`, else one with both packages on this machine, else a new one under `target`.
///
/// It is an error if the Python of the variable does not work, or if there is none at all. Tests that do not run must
/// not look as if they had passed.
pub(crate) fn find_or_install() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if fits(&path) {
            Ok(path)
        } else {
            Err(format!("{VARIABLE}: `{} -c 'import redis, msgpack'` fails; correct it, or unset it", path.display()))
        };
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
    let made = place.join("bin/python");
    let system = Path::new("/usr/bin/python3");
    for python in [made.as_path(), Path::new("python3"), system] {
        if fits(python) {
            return Ok(python.to_owned());
        }
    }
    let of_its_own = make(&place, &["redis", "msgpack"]);
    if of_its_own.is_ok() && fits(&made) {
        return Ok(made);
    }
    let installed = install_package("python3-redis").and_then(|_| install_package("python3-msgpack"));
    if installed.is_ok() && fits(system) {
        return Ok(system.to_owned());
    }
    let why =
        |result: Result<(), String>| result.err().unwrap_or_else(|| "it does not import redis and msgpack".to_owned());
    Err(format!(
        "there is no Python with redis-py and msgpack to test with\n  not made in {}: {}\n  python3-redis, python3-msgpack: {}\n  \
         remedy: install them (Debian, Ubuntu: python3-redis python3-msgpack; pip: redis msgpack), or set \
         {VARIABLE}=/path/to/python3",
        place.display(),
        why(of_its_own),
        why(installed.map(drop))
    ))
}

fn fits(python: &Path) -> bool {
    python
        .to_str()
        .is_some_and(|python| run(python, &["-c", "import msgpack, redis; redis.Redis.xreadgroup"]).is_some())
}

/// A Python with playwright, which drives the browser that looks at the console.
pub(crate) fn with_playwright() -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python-browser");
    let made = place.join("bin/python");
    let drives = |python: &Path| {
        python.to_str().is_some_and(|python| run(python, &["-c", "import playwright.sync_api"]).is_some())
    };
    if let Some(python) = [made.as_path(), Path::new("python3")].into_iter().find(|python| drives(python)) {
        return Ok(python.to_owned());
    }
    make(&place, &["playwright"])?;
    Ok(made)
}

/// A separate Python with these packages, so that the system's stays untouched.
fn make(place: &Path, packages: &[&str]) -> Result<(), String> {
    let place = place.to_str().ok_or("its path is not UTF-8")?;
    shown(&["python3", "-m", "venv", "--clear", place])?;
    let python = format!("{place}/bin/python");
    let install = [&*python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    shown(&[&install[..], packages].concat())
}
