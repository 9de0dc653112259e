//! From the command line to the loop: configuration, descriptors, segment, listeners, privileges.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use log::{info, warn};
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::accept::Admission;
use super::hangups::Hangups;
use super::housekeeping::Housekeeping;
use super::listeners::{self, ListenError};
use super::main_loop::{HANGUPS, MANAGEMENT, Main, SIGNALS, WORKERS};
use super::service::{PidFile, ServiceManager};
use crate::config::{self, Config, Errors, Loaded};
use crate::logging;
use crate::management::seed::{Entry, Keepers};
use crate::segment::{Dimensions, Secrets, Segment};
use crate::sys::signals::Signals;
use crate::sys::user::{self, Account};
use crate::sys::{clock, descriptor_passing, descriptors, process, socket};

/// Entries of the client table for children of main that are no clients.
const CHILDREN_MAX: u32 = 64;

/// Why Howdah does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration has mistakes.
    #[error("{0}")]
    Configuration(Errors),
    /// It was started by root, which it must not stay.
    #[error("howdah does not run as root: set user = \"…\" in [howdah], or start it as another user")]
    Root,
    /// `user` cannot be become.
    #[error("cannot run as user {user:?}: {source}")]
    User {
        /// Who.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A file of the configuration cannot be used.
    #[error("cannot use {key} {path}: {source}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The system refuses something that always works.
    #[error("cannot {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::System { what, source }
}

/// Starts Howdah with the configuration in `path` and runs it to its end. `entry` is where its children begin.
///
/// # Errors
/// See [`BootError`]; nothing is left behind then.
pub fn run(path: &Path, entry: Entry) -> Result<(), BootError> {
    let loaded = config::load(path).map_err(BootError::Configuration)?;
    let account = account_to_become(&loaded.config)?;
    logging::start(&loaded.config.log).map_err(|source| BootError::File {
        key: "log.target",
        path: format!("{:?}", loaded.config.log.target),
        source,
    })?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let mut main = prepare(loaded, entry, account.as_ref())?;
    let names: Vec<&str> = main.listeners.iter().map(|l| l.name.as_str()).collect();
    info!("howdah {} listens on {}", env!("CARGO_PKG_VERSION"), names.join(", "));
    main.service.tell("READY=1\nSTATUS=serving clients");
    main.run().map_err(system("wait for events"))
}

fn account_to_become(config: &Config) -> Result<Option<Account>, BootError> {
    match (&config.user, user::is_root()) {
        (_, false) => Ok(None),
        (None, true) => Err(BootError::Root),
        (Some(name), true) => {
            let failed = |source| BootError::User { user: name.clone(), source };
            let account = user::find(name).map_err(failed)?;
            if account.uid == 0 { Err(BootError::Root) } else { Ok(Some(account)) }
        }
    }
}

fn prepare(loaded: Loaded, entry: Entry, account: Option<&Account>) -> Result<Main, BootError> {
    let config = loaded.config;
    // What children keep gets the lowest numbers.
    let signals = Rc::new(Signals::open().map_err(system("read signals"))?);
    let (to_main, from_workers) = descriptor_passing::message_pair().map_err(system("make a socket"))?;
    let from_workers = descriptors::move_to_own(from_workers).map_err(system("make a socket"))?;
    let dimensions = Dimensions {
        slots: config.max_connections,
        clients: config.max_clients + CHILDREN_MAX,
        pools: config.max_pools,
    };
    let segment = Segment::create(dimensions).map_err(system("make the shared segment"))?;
    let secrets = Secrets::create(dimensions).map_err(system("make the shared segment"))?;
    let header = segment.header();
    header.max_clients.store(config.max_clients, Relaxed);
    header.started_at_ms.store(clock::monotonic_ms(), Relaxed);
    header.main_pid.store(process::current_pid(), Release);
    raise_descriptor_limit(&config);

    let (mut poll, mut hangups) = (None, None);
    let mut opened = None;
    descriptors::among_own(|| {
        poll = Some(mio::Poll::new()?);
        hangups = Some(Hangups::new()?);
        opened = Some(open_files(&config, account));
        Ok(())
    })
    .map_err(system("make a poller"))?;
    let (Some(poll), Some(hangups), Some(opened)) = (poll, hangups, opened) else {
        return Err(system("make a poller")(io::ErrorKind::Other.into()));
    };
    let (listeners, management, pid_file) = opened?;
    if let Some(account) = account {
        let user = config.user.clone().unwrap_or_default();
        user::become_user(account).map_err(|source| BootError::User { user, source })?;
    }
    process::forbid_new_privileges().map_err(system("give up new privileges"))?;
    process::allow_core_dumps();

    let mut mock_key = [0u8; 32];
    process::random_bytes(&mut mock_key).map_err(system("get random bytes"))?;
    let service = ServiceManager::find();
    let main = Main {
        housekeeping: Housekeeping::new(service.watchdog),
        admission: Admission::new(config.max_clients, dimensions.clients),
        poll,
        config_text: loaded.text,
        config,
        segment,
        secrets,
        keepers: RefCell::new(Keepers::default()),
        hangups,
        signals,
        to_main,
        from_workers,
        listeners,
        management,
        pid_file,
        service,
        entry,
        children: HashMap::new(),
        sessions: HashMap::new(),
        ending: HashMap::new(),
        next_session: 0,
        disabled: super::pools::Disabled::default(),
        shutdown: None,
        mock_key,
    };
    main.register_own().map_err(system("register with the poller"))?;
    main.apply_configuration_first_time();
    Ok(main)
}

type Opened = (Vec<listeners::Listener>, std::os::fd::OwnedFd, Option<PidFile>);

fn open_files(config: &Config, account: Option<&Account>) -> Result<Opened, BootError> {
    let pid_file = match &config.pid_file {
        None => None,
        Some(path) => {
            let file =
                |source| BootError::File { key: "howdah.pid_file", path: path.display().to_string(), source };
            let pid_file = PidFile::create(path).map_err(file)?;
            if let Some(account) = account {
                user::give(path, account).map_err(file)?;
            }
            Some(pid_file)
        }
    };
    let opened = listen(config, account);
    if opened.is_err()
        && let Some(pid_file) = &pid_file
    {
        pid_file.remove();
    }
    let (listeners, management) = opened?;
    Ok((listeners, management, pid_file))
}

fn listen(
    config: &Config,
    account: Option<&Account>,
) -> Result<(Vec<listeners::Listener>, std::os::fd::OwnedFd), BootError> {
    let mut listeners = listeners::open_all(config, account)?;
    let path = &config.management_socket;
    let management = || {
        let fd = socket::listen_unix(path, 0o600, 16)?;
        if let Some(account) = account {
            user::give(path, account)?;
        }
        Ok(fd)
    };
    match management() {
        Ok(management) => Ok((listeners, management)),
        Err(source) => {
            listeners::close_all(&mut listeners);
            Err(BootError::File { key: "howdah.management_socket", path: path.display().to_string(), source })
        }
    }
}

/// Main holds one descriptor of each server connection, and a worker inherits them.
fn raise_descriptor_limit(config: &Config) {
    let wanted = u64::from(config.max_connections) + 512;
    let limit = descriptors::raise_limit(wanted);
    if limit < wanted {
        warn!(
            "max_connections = {} needs {wanted} open files, but the limit is {limit}: raise LimitNOFILE or ulimit -n",
            config.max_connections
        );
    }
}

impl Main {
    fn register_own(&self) -> io::Result<()> {
        let registry = self.poll.registry();
        let register = |fd: BorrowedFd<'_>, token: Token| {
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
        };
        registry.register(&mut SourceFd(&self.hangups.as_raw_fd()), HANGUPS, Interest::READABLE)?;
        register(self.signals.as_fd(), SIGNALS)?;
        register(self.from_workers.as_fd(), WORKERS)?;
        register(self.management.as_fd(), MANAGEMENT)?;
        self.register_listeners()
    }
}
