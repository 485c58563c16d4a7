//! The names of this program and its machine, for notes and records that other programs and people read.

/// The longest name.
const MAX_NAME: usize = 100;

/// The executable's name, as it was called.
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name().unwrap_or(&called).to_string_lossy().into_owned();
    if name.is_empty() { "a program without a name".to_owned() } else { short(&name) }
}

/// The machine's name where the system says it in a file; in a container that is the container's or the pod's.
pub(crate) fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| short(name.trim())).unwrap_or_default()
}

/// Both, for people.
pub(crate) fn of_program() -> String {
    match host() {
        host if host.is_empty() => program(),
        host => format!("{}@{host}", program()),
    }
}

fn short(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}
