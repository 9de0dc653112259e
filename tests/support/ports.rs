//! Ports that belong to one test.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{Flock, FlockArg};

/// A port that no other test of this machine takes while this value lives, whether or not anything listens on it.
///
/// Binding port 0 and closing it again would give a port of the range that outgoing connections take theirs from: a
/// server that is restarted on it may find it taken by somebody's client. These lie below that range.
pub struct Port {
    number: u16,
    _lock: Flock<std::fs::File>,
}

impl Port {
    /// Takes one.
    pub fn take() -> Self {
        let folder = std::env::temp_dir().join("howdah-test-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let start = u16::try_from(std::process::id() % 11_000).expect("below 11,000");
        for step in 0..11_000 {
            let number = 20_000 + (start + step) % 11_000;
            let path = folder.join(number.to_string());
            let file = OpenOptions::new().create(true).append(true).mode(0o666).open(&path);
            let file = file.expect("a lock file can be opened");
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port between 20000 and 31000");
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
