//! The end of everything a test process started, however that process ends: see `guardian.sh`.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use super::postgres::script;

/// Held for the life of the test process: its end is the guardian's signal.
static GUARDIAN: OnceLock<Mutex<(Child, ChildStdin)>> = OnceLock::new();

fn start() -> Mutex<(Child, ChildStdin)> {
    let guardian = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/guardian.sh");
    let mut child = Command::new("setsid")
        .arg("bash")
        .arg(guardian)
        .arg(script())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the guardian can be started");
    let input = child.stdin.take().expect("its standard input is piped");
    Mutex::new((child, input))
}

fn tell(sign: char, kind: &str, what: &str) {
    let guardian = GUARDIAN.get_or_init(start);
    let mut guard = guardian.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    writeln!(guard.1, "{sign} {kind} {what}").expect("the guardian reads to the end");
}

/// A process group to kill.
pub fn watch_group(pgid: i32) {
    tell('+', "group", &pgid.to_string());
}

/// That group has ended.
pub fn forget_group(pgid: i32) {
    tell('-', "group", &pgid.to_string());
}

/// A PostgreSQL cluster to destroy.
pub fn watch_postgres(dir: &Path) {
    tell('+', "postgres", &dir.display().to_string());
}

/// That cluster was destroyed.
pub fn forget_postgres(dir: &Path) {
    tell('-', "postgres", &dir.display().to_string());
}

/// A folder to delete.
pub fn watch_dir(dir: &Path) {
    tell('+', "dir", &dir.display().to_string());
}

/// That folder was deleted.
pub fn forget_dir(dir: &Path) {
    tell('-', "dir", &dir.display().to_string());
}
