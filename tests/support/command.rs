//! Running programs with a limit of time.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + the signal's number if a signal ended it.
    pub code: i32,
    /// Standard output without the last line's end.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    fn new(command: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let outcome = Self { command, code, stdout: text(&output.stdout), stderr: text(&output.stderr) };
        assert!(code != 124 && code != 137, "out of time: {outcome:?}");
        outcome
    }

    /// The output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// The messages of a program that must have failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.stderr
    }
}

/// `timeout LIMIT program …`: coreutils ends the program and what it started.
fn limited(limit: Duration, command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg("--kill-after=5").arg(limit.as_secs().max(1).to_string());
    limited.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    limited
}

/// Runs `command` to its end; fails the test if it takes longer than `limit`.
#[track_caller]
pub fn run(limit: Duration, command: &Command) -> Outcome {
    let output = limited(limit, command).output().expect("coreutils' timeout can be run");
    Outcome::new(format!("{command:?}"), &output)
}

/// A program that runs beside the test.
pub struct Background {
    command: String,
    child: Option<Child>,
}

impl Background {
    /// Starts `command`, which ends by itself or after `limit`.
    pub fn start(limit: Duration, command: &Command) -> Self {
        let child = limited(limit, command).spawn().expect("coreutils' timeout can be run");
        Self { command: format!("{command:?}"), child: Some(child) }
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("taken by finish alone");
        child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Kills it at once: the program, not only `timeout`.
    pub fn kill(mut self) {
        if let Some(mut child) = self.child.take() {
            kill_with_children(&mut child);
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let child = self.child.take().expect("finish takes it once");
        let output = child.wait_with_output().expect("a child can be waited for");
        Outcome::new(std::mem::take(&mut self.command), &output)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_with_children(&mut child);
        }
    }
}

fn kill_with_children(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        for grandchild in super::process::children(pid) {
            super::process::kill(grandchild, nix::sys::signal::Signal::SIGKILL);
        }
    }
    // The child may have ended already; either way it is reaped below.
    let _ = child.kill();
    let _ = child.wait();
}
