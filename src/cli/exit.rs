//! How `howdah-cli` ends.

use crate::management::client::ClientError;
use crate::segment::OpenError;

/// Exit codes. Scripts rely on them: a number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The daemon refused; nothing was changed.
    Refused = 1,
    /// The command line, or the file given with `-c`, is wrong; nothing was sent.
    Usage = 2,
    /// The daemon cannot be reached: not running, another socket, no permission.
    Unreachable = 3,
    /// What answered is no howdah, or one of another version.
    Protocol = 4,
    /// The daemon did not answer in time; whether it did what was asked is not known.
    Timeout = 5,
    /// The result cannot be written (a full disk; a closed pipe is no error).
    Output = 6,
}

impl Exit {
    /// All codes.
    pub const ALL: [Exit; 7] = [
        Exit::Done,
        Exit::Refused,
        Exit::Usage,
        Exit::Unreachable,
        Exit::Protocol,
        Exit::Timeout,
        Exit::Output,
    ];

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Refused => "refused",
            Exit::Usage => "usage",
            Exit::Unreachable => "unreachable",
            Exit::Protocol => "protocol",
            Exit::Timeout => "timeout",
            Exit::Output => "output",
        }
    }
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What is wrong; one line.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure with a hint, which may be empty.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), hint: hint.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let exit = match e {
            ClientError::Request(_) => Exit::Usage,
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Timeout { .. } => Exit::Timeout,
            ClientError::Closed { .. }
            | ClientError::Broken { .. }
            | ClientError::OtherVersion { .. }
            | ClientError::Malformed { .. } => Exit::Protocol,
        };
        Failure::new(exit, e.to_string(), e.hint())
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Self {
        let hint = "howdah-cli and howdah are to be of the same version; see `howdah-cli --version`";
        Failure::new(Exit::Protocol, e.to_string(), hint)
    }
}
