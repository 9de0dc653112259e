//! What a service manager wants: the pid file, and systemd's notifications.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

/// The pid file, locked as long as main lives: a lock of a process that was killed is gone, whatever the file says.
pub struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PidFile {
    /// Writes main's process id.
    ///
    /// # Errors
    /// Another Howdah holds the file, or it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
            if e == nix::errno::Errno::EWOULDBLOCK {
                io::Error::new(io::ErrorKind::AddrInUse, "another howdah is running with it")
            } else {
                e.into()
            }
        })?;
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(PidFile { path: path.to_owned(), _lock: lock })
    }

    /// Removes the file.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The service manager, if there is one: sd_notify(3).
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// How often it wants a sign of life.
    pub watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Finds it by `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    #[must_use]
    pub fn find() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let name = name.into_string().ok()?;
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name).ok()?,
                None => SocketAddr::from_pathname(&name).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        });
        let watched =
            std::env::var("WATCHDOG_PID").ok().is_none_or(|pid| pid == std::process::id().to_string());
        let usec = std::env::var("WATCHDOG_USEC").ok().and_then(|usec| usec.parse().ok());
        let watchdog =
            usec.filter(|_| watched && socket.is_some()).map(|usec: u64| Duration::from_micros(usec / 2));
        ServiceManager { socket, watchdog }
    }

    /// Tells it something, if it is there.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(state.as_bytes());
        }
    }
}
