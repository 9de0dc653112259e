//! The built daemon, started with a configuration of the test's own.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use toml::Table;

use super::{
    Login, Outcome, PATIENCE, Port, Postgres, RawClient, eventually, guardian, holds_within, process, run,
    wire,
};

/// The numbers of the user that runs Howdah when the tests run as root: Debian's nobody and nogroup.
const NOBODY: u32 = 65_534;

/// The user that the daemon must run as when root runs the tests; `None`: the tests' own.
pub fn unprivileged_user() -> Option<u32> {
    nix::unistd::getuid().is_root().then_some(NOBODY)
}

/// What root has to do with it, when root runs the tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    /// Nothing: the unprivileged user starts it.
    None,
    /// Root starts it, and the configuration says whom to become.
    Starts,
    /// Root starts it, and the configuration does not say whom to become.
    Runs,
}

/// A daemon to be: its configuration and how to start it.
#[derive(Clone)]
pub struct Setup {
    overrides: Vec<String>,
    server_port: u16,
    users: String,
    root: Root,
    environment: Vec<(String, String)>,
}

/// A running daemon. Ends with this value, whatever happens.
pub struct Pooler {
    setup: Setup,
    dir: tempfile::TempDir,
    port: Port,
    main: Child,
    pid: i32,
    /// The process groups of all mains that ran: workers outlive a main that was killed.
    groups: Vec<i32>,
    ended: bool,
}

impl Setup {
    /// With other users in the users file: lines of `"name" "secret"`.
    pub fn users(mut self, users: &str) -> Self {
        self.users = users.into();
        self
    }

    /// In front of this PostgreSQL.
    pub fn server(self, postgres: &Postgres) -> Self {
        self.server_port(postgres.port())
    }

    /// In front of whatever listens on this port.
    pub fn server_port(mut self, port: u16) -> Self {
        self.server_port = port;
        self
    }

    /// Started by root, giving up root by itself (`user = "nobody"`); only when root runs the tests.
    pub fn started_by_root(mut self) -> Self {
        self.root = Root::Starts;
        self
    }

    /// Started by root with nobody to become, which must fail; only when root runs the tests.
    pub fn with_root_for_ever(mut self) -> Self {
        self.root = Root::Runs;
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With more TOML over what there is: tables are merged, everything else replaced.
    pub fn and(mut self, toml: &str) -> Self {
        self.overrides.push(toml.into());
        self
    }

    /// Starts it and waits until it accepts clients.
    #[track_caller]
    pub fn start(self) -> Pooler {
        match self.try_start() {
            Ok(pooler) => pooler,
            Err((status, log)) => panic!("howdah did not start ({status:?}):\n{log}"),
        }
    }

    /// Starts it; if it ends instead of accepting clients, gives its exit status and log.
    ///
    /// # Errors
    /// The status is `None` if it neither ended nor accepted in time.
    #[track_caller]
    pub fn try_start(self) -> Result<Pooler, (Option<ExitStatus>, String)> {
        let dir =
            tempfile::Builder::new().prefix("howdah-").tempdir().expect("a temporary folder can be made");
        guardian::watch_dir(dir.path());
        let port = Port::take();
        write_configuration(&self, dir.path(), port.number());
        let main = spawn(&self, dir.path());
        let pid = i32::try_from(main.id()).expect("a process id");
        let mut pooler = Pooler { setup: self, dir, port, main, pid, groups: vec![pid], ended: false };
        pooler.wait_until_ready()?;
        Ok(pooler)
    }

    fn configuration(&self, dir: &Path, port: u16) -> Table {
        let dir = dir.display();
        let user = if self.root == Root::Starts { "user = \"nobody\"" } else { "" };
        let base = format!(
            r#"
[howdah]
listen_addresses = ["127.0.0.1"]
port = {port}
unix_socket_directories = ["{dir}"]
max_connections = 20
max_clients = 200
management_socket = "{dir}/howdah.sock"
pid_file = "{dir}/howdah.pid"
users_file = "{dir}/users.txt"
{user}
[log]
level = "debug"
[timeouts]
wait_timeout = "30s"
[servers.main]
host = "127.0.0.1"
port = {server}
[[hba]]
type = "host"
database = "all"
user = "all"
address = "127.0.0.1/32"
method = "trust"
[[hba]]
type = "host"
database = "replication"
user = "all"
address = "127.0.0.1/32"
method = "trust"
[[hba]]
type = "local"
database = "all"
user = "all"
method = "trust"
[[pools]]
database = "*"
user = "*"
mode = "session"
"#,
            server = self.server_port,
        );
        let mut table: Table = base.parse().expect("the base configuration is TOML");
        for text in &self.overrides {
            merge(&mut table, text.parse().unwrap_or_else(|error| panic!("not TOML: {error}\n{text}")));
        }
        table
    }
}

/// Tables are merged, everything else is replaced.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn write_configuration(setup: &Setup, dir: &Path, port: u16) {
    let text = toml::to_string(&setup.configuration(dir, port)).expect("a table can be written");
    write_for_daemon(dir, &dir.join("howdah.toml"), &text);
    write_for_daemon(dir, &dir.join("users.txt"), &setup.users);
}

/// Writes a file that the daemon's user owns and nobody else reads, all at once as an editor does.
fn write_for_daemon(dir: &Path, path: &Path, text: &str) {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).expect("the temporary folder can be written");
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    if let Some(uid) = unprivileged_user() {
        chown(&draft, Some(uid), Some(uid)).expect("root may");
        chown(dir, Some(uid), Some(uid)).expect("root may");
    }
    std::fs::rename(&draft, path).expect("the same folder");
}

fn spawn(setup: &Setup, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("howdah.log"));
    let log = log.expect("the temporary folder can be written");
    let mut command = Command::new(daemon());
    command.arg("-c").arg(dir.join("howdah.toml")).current_dir(dir);
    command.envs(setup.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor can be duplicated")).stderr(log);
    command.process_group(0);
    if let (Some(uid), Root::None) = (unprivileged_user(), setup.root) {
        command.uid(uid).gid(uid);
    }
    let main = command.spawn().expect("howdah can be started");
    guardian::watch_group(i32::try_from(main.id()).expect("a process id"));
    main
}

/// The daemon's program, at a path that the unprivileged user can reach.
fn daemon() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| reachable(Path::new(env!("CARGO_BIN_EXE_howdah"))))
}

/// The command line program, at a path that the unprivileged user can reach.
fn cli_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| reachable(Path::new(env!("CARGO_BIN_EXE_howdah-cli"))))
}

/// `built` itself, or a copy in the temporary folder if it lies where the unprivileged user may not look.
fn reachable(built: &Path) -> PathBuf {
    let open_to_all = |path: &Path| std::fs::metadata(path).is_ok_and(|data| data.mode() & 0o001 != 0);
    if unprivileged_user().is_none() || built.ancestors().all(open_to_all) {
        return built.to_owned();
    }
    let changed = std::fs::metadata(built).expect("cargo built it").mtime_nsec();
    let name = built.file_name().expect("a program's path").to_string_lossy();
    let copy = std::env::temp_dir().join(format!("{name}-test-{changed}"));
    if !copy.exists() {
        let draft = copy.with_extension(std::process::id().to_string());
        std::fs::copy(built, &draft).expect("the temporary folder can be written");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).expect("our own file");
        std::fs::rename(&draft, &copy).expect("the same folder");
    }
    copy
}

impl Pooler {
    /// A daemon in front of the shared PostgreSQL, with this TOML over the tests' usual configuration.
    pub fn with(toml: &str) -> Setup {
        Setup {
            overrides: vec![toml.into()],
            server_port: Postgres::shared().port(),
            users: "\"md5_user\" \"md5_user_secret\"\n\"scram_user\" \"scram_user_secret\"\n\
                    \"plain_user\" \"plain_user_secret\"\n"
                .into(),
            root: Root::None,
            environment: Vec::new(),
        }
    }

    /// A daemon with the tests' usual configuration, running.
    #[track_caller]
    pub fn start() -> Self {
        Self::with("").start()
    }

    fn wait_until_ready(&mut self) -> Result<(), (Option<ExitStatus>, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.main.try_wait().expect("a child can be waited for") {
                return Err((Some(status), self.log()));
            }
            let management = std::os::unix::net::UnixStream::connect(self.management_socket());
            if process::listens(self.port()) && management.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err((None, self.log()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder with configuration, sockets and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("howdah.toml")
    }

    /// The socket that howdah-cli talks to.
    pub fn management_socket(&self) -> PathBuf {
        self.dir().join("howdah.sock")
    }

    /// A login through it, as `postgres`.
    pub fn login(&self) -> Login {
        Login::to(self.port())
    }

    /// Everything it logged up to now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("howdah.log")).unwrap_or_default()
    }

    /// Main's process id.
    pub fn main_pid(&self) -> i32 {
        self.pid
    }

    /// Main's living children.
    pub fn workers(&self) -> Vec<i32> {
        process::children(self.pid)
    }

    /// All living processes of the daemon, main first, also those that outlived main.
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = self.groups.iter().flat_map(|group| process::group(*group)).collect();
        all.sort_unstable();
        all
    }

    /// The process that serves this client.
    #[track_caller]
    pub fn worker_of(&self, client: &RawClient) -> i32 {
        let mut worker = None;
        eventually("a worker has the client's socket", || {
            let inode = process::socket_inode(self.port(), client.local_port());
            let holds = |pid: &i32| {
                let socket = format!("socket:[{}]", inode.unwrap_or(0));
                *pid != self.pid && process::open_fds(*pid).contains(&socket)
            };
            worker = self.processes().into_iter().find(holds);
            worker.is_some()
        });
        worker.expect("just found")
    }

    /// Kills a worker without a chance to clean up.
    pub fn kill_worker(&self, pid: i32) {
        process::kill(pid, Signal::SIGKILL);
    }

    /// Sends main a signal.
    pub fn signal(&self, signal: Signal) {
        process::kill(self.pid, signal);
    }

    /// Waits until no client is served, and everything of the last ones is cleaned up.
    #[track_caller]
    pub fn wait_until_quiet(&self) {
        eventually("all workers ended", || {
            self.workers().is_empty() && process::zombies(self.pid).is_empty()
        });
    }

    /// Waits until exactly so many clients are served, and everything of those that left is cleaned up.
    #[track_caller]
    pub fn wait_until_busy_with(&self, clients: usize) {
        eventually("the other workers ended", || self.workers().len() == clients);
    }

    /// Whether main runs.
    pub fn is_running(&mut self) -> bool {
        !self.ended && self.main.try_wait().expect("a child can be waited for").is_none()
    }

    /// Runs howdah-cli on its management socket.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(cli_program());
        command.arg("--socket").arg(self.management_socket()).args(arguments);
        run(Duration::from_secs(60), &command)
    }

    /// Runs howdah-cli and gives its answer as JSON.
    #[track_caller]
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let outcome = self.cli(&[&["--json"], arguments].concat());
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {outcome:?}"))
    }

    /// What `status details` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.cli_json(&["status", "details", "--all"])
    }

    /// A number of the status, by its path: `/slots/in_use`.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        let status = self.cli_json(&["status"]);
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {pointer} in {status:#}"))
    }

    /// How many clients wait for a server connection.
    #[track_caller]
    pub fn waiting(&self) -> u64 {
        self.number("/waiting/clients")
    }

    /// Connects a client that must wait for a server connection, and returns when it is in the queue.
    #[track_caller]
    pub fn queue_up(&self, login: &Login) -> RawClient {
        let before = self.waiting();
        let mut client = RawClient::connect(self.port());
        client.send_startup(login);
        eventually("the client is in the queue", || self.waiting() > before);
        client
    }

    /// Whether a new client is turned away because the daemon is about to stop: not accepted, or told so.
    pub fn turns_clients_away(&self) -> bool {
        let Ok(mut client) = RawClient::try_connect(self.port()) else { return true };
        // The connection may be closed before the startup message is sent.
        let _ = client.try_send(&wire::startup(wire::PROTOCOL_3_0, &[("user", "postgres")]));
        let (messages, closed) = client.read_to_end(Duration::from_secs(1));
        let told = RawClient::first_error(&messages).is_some_and(|error| error.code.starts_with("57P"));
        closed && (told || messages.is_empty())
    }

    /// Checks that `slots` clients have a server connection each at the same time, and that one more must wait.
    #[track_caller]
    pub fn assert_slots_usable(&self, login: &Login, slots: usize) {
        self.wait_until_quiet();
        let mut clients: Vec<RawClient> = (0..slots).map(|_| login.raw()).collect();
        for client in &mut clients {
            assert_eq!(client.value("select 'mine'"), "mine");
        }
        let backends: std::collections::BTreeSet<i32> =
            clients.iter().map(|client| client.process_id).collect();
        assert_eq!(backends.len(), slots, "each client has a server connection of its own");
        let mut waiting = self.queue_up(login);
        clients.pop().expect("there is one slot at least").terminate();
        waiting.finish_log_in(None).expect("served next");
        waiting.terminate();
        clients.into_iter().for_each(RawClient::terminate);
        self.wait_until_quiet();
    }

    /// As [`Self::assert_slots_usable`], while other clients stay and hold theirs.
    #[track_caller]
    pub fn assert_slots_usable_beside(&self, login: &Login, slots: usize) {
        let mut clients: Vec<RawClient> = (0..slots).map(|_| login.raw()).collect();
        for client in &mut clients {
            assert_eq!(client.value("select 'mine'"), "mine");
        }
        clients.into_iter().for_each(RawClient::terminate);
    }

    /// Main's descriptors when nobody is connected and no server connection is kept.
    #[track_caller]
    pub fn bare_descriptors(&self) -> usize {
        self.wait_until_quiet();
        self.cli(&["flush", "idle"]).ok();
        eventually("no server connection is left", || self.number("/slots/connections") == 0);
        // howdah-cli's own session is closed by main a moment after it has its answer.
        let mut last = usize::MAX;
        eventually("the number of main's descriptors settles", || {
            let now = process::open_fds(self.main_pid()).len();
            std::mem::replace(&mut last, now) == now
        });
        last
    }

    /// Writes the configuration anew with more TOML over it; nobody is told.
    pub fn rewrite(&mut self, toml: &str) {
        self.setup.overrides.push(toml.into());
        write_configuration(&self.setup, self.dir.path(), self.port.number());
    }

    /// Writes text to the configuration file, whatever it is.
    pub fn rewrite_raw(&self, text: &str) {
        write_for_daemon(self.dir(), &self.config_file(), text);
    }

    /// Writes the users file anew.
    pub fn rewrite_users(&mut self, users: &str) {
        self.setup.users = users.into();
        write_configuration(&self.setup, self.dir.path(), self.port.number());
    }

    /// Waits for main to end and gives its status.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.main.try_wait().expect("a child can be waited for") {
                self.ended = true;
                return status;
            }
            assert!(Instant::now() < deadline, "main still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills main alone, as the kernel would when memory runs out.
    pub fn kill_main(&mut self) {
        process::kill(self.pid, Signal::SIGKILL);
        let status = self.wait(PATIENCE);
        assert_eq!(status.signal(), Some(9), "killed");
    }

    /// Starts a new main with the same configuration and waits until it accepts.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.ended, "main runs still");
        self.main = spawn(&self.setup, self.dir.path());
        self.pid = i32::try_from(self.main.id()).expect("a process id");
        self.groups.push(self.pid);
        self.ended = false;
        if let Err((status, log)) = self.wait_until_ready() {
            panic!("howdah did not start again ({status:?}):\n{log}");
        }
    }

    /// Stops it as systemd does, and checks that it ends well and leaves nothing behind.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait(PATIENCE);
        assert!(status.success(), "main ended with {status}:\n{}", self.log());
        self.assert_nothing_left();
    }

    /// Checks that no process, socket or pid file outlived main.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let gone = holds_within(PATIENCE, || self.processes().is_empty());
        assert!(gone, "left behind: {}", describe(&self.processes()));
        for name in ["howdah.sock", "howdah.pid", &format!(".s.PGSQL.{}", self.port())] {
            assert!(!self.dir().join(name).exists(), "left behind: {name}");
        }
    }
}

fn describe(pids: &[i32]) -> String {
    pids.iter().fold(String::new(), |mut text, pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let _ = write!(text, "{pid} {} ", String::from_utf8_lossy(&command).replace('\0', " "));
        text
    })
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.groups.iter().for_each(|group| process::kill_group(*group, Signal::SIGKILL));
        if !self.ended {
            // Killed above; nothing is to be learned from its status.
            let _ = self.main.wait();
        }
        self.groups.iter().for_each(|group| guardian::forget_group(*group));
        guardian::forget_dir(self.dir.path());
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(200);
            eprintln!("--- the last lines of howdah's log ---");
            log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
        }
    }
}
