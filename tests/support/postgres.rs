//! PostgreSQL clusters for tests.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::{Login, Port, guardian, run};

/// The one place that knows how to create, start and stop a cluster.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/lib/postgres.sh")
}

/// A running PostgreSQL with the users `postgres` (trust), `md5_user`, `scram_user` and `plain_user` (each with its
/// authentication method, the password being the name with `_secret`).
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    /// Some iff this cluster belongs to one test alone.
    private: Option<Port>,
    /// Some iff it is shared: held while this process lives.
    _in_use: Option<Flock<File>>,
}

static SHARED: OnceLock<Postgres> = OnceLock::new();

impl Postgres {
    /// The cluster that all test processes of a run share: never stop it, give each test a database of its own.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::join)
    }

    /// A cluster for one test, which may stop, kill and restart it.
    pub fn private() -> Self {
        let port = Port::take();
        let dir = std::env::temp_dir().join(format!("howdah-pg-{}-{}", std::process::id(), port.number()));
        guardian::watch_postgres(&dir);
        create(&dir, port.number());
        Self { dir, port: port.number(), private: Some(port), _in_use: None }
    }

    /// Joins the shared cluster, starting it if no other test process has: see `linger.sh` for its end.
    fn join() -> Self {
        let home = std::env::temp_dir().join(format!("howdah-test-{}", tag()));
        std::fs::create_dir_all(&home).expect("the temporary folder can be written");
        let open = |name: &str| {
            let file = OpenOptions::new().create(true).append(true).open(home.join(name));
            file.expect("a lock file can be opened")
        };
        let lock = |name: &str, how| {
            Flock::lock(open(name), how).unwrap_or_else(|(_, error)| panic!("{name}: {error}"))
        };
        let start = lock("start.lock", FlockArg::LockExclusive);
        let in_use = lock("users.lock", FlockArg::LockShared);
        let dir = home.join("cluster");
        let port_file = home.join("port");
        let running = std::fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok());
        let port = match running {
            Some(port) if answers(port) => port,
            _ => {
                // What a killed run may have left.
                call(&["destroy"], &dir, &[]);
                let port = Port::take();
                create(&dir, port.number());
                std::fs::write(&port_file, port.number().to_string()).expect("the port can be noted");
                linger(&home);
                port.number()
            }
        };
        drop(start);
        Self { dir, port, private: None, _in_use: Some(in_use) }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// A login straight to it, as `postgres`.
    pub fn login(&self) -> Login {
        Login::to(self.port)
    }

    /// Runs SQL as `postgres` in the database `postgres` and returns the output, columns parted by `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.login().psql(sql).ok()
    }

    /// Creates a database that no other test uses.
    pub fn database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{count}", std::process::id());
        self.sql(&format!("drop database if exists {name} with (force)"));
        self.sql(&format!("create database {name} template template0"));
        name
    }

    /// How many backends serve clients in this database.
    pub fn backends(&self, database: &str) -> u32 {
        let count = self.sql(&format!(
            "select count(*) from pg_stat_activity where datname = '{database}' and backend_type = 'client backend' \
             and pid <> pg_backend_pid()"
        ));
        count.parse().expect("count(*) is a number")
    }

    /// Whether this backend exists.
    pub fn has_backend(&self, pid: i32) -> bool {
        self.sql(&format!("select count(*) from pg_stat_activity where pid = {pid}")) != "0"
    }

    /// Stops it: `fast` or `immediate`.
    pub fn stop(&self, mode: &str) {
        assert!(self.private.is_some(), "the shared cluster is never stopped");
        call(&["stop"], &self.dir, &[mode]);
    }

    /// Starts it again.
    pub fn start(&self) {
        call(&["start"], &self.dir, &[]);
    }

    /// Restarts it as after a crash: every backend ends at once, no goodbye.
    pub fn restart_immediately(&self) {
        self.stop("immediate");
        self.start();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.private.is_some() {
            call(&["destroy"], &self.dir, &[]);
            guardian::forget_postgres(&self.dir);
        }
    }
}

/// One shared cluster for each checkout and user: runs of two checkouts on one machine do not disturb each other.
fn tag() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
    format!("{}-{:08x}", nix::unistd::getuid(), hasher.finish() & 0xffff_ffff)
}

fn answers(port: u16) -> bool {
    Login::to(port).psql("select 1").code == 0
}

fn create(dir: &Path, port: u16) {
    call(&["create"], dir, &[&port.to_string()]);
    let hba = "\
local all,replication all trust
host all,replication md5_user 127.0.0.1/32 md5
host all,replication scram_user 127.0.0.1/32 scram-sha-256
host all,replication plain_user 127.0.0.1/32 password
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
";
    std::fs::write(dir.join("data/pg_hba.conf"), hba).expect("pg_hba.conf can be written");
    call(&["start"], dir, &[]);
    Login::to(port)
        .psql(
            "create role stranger login;
             create role scram_user login password 'scram_user_secret';
             create role plain_user login password 'plain_user_secret';
             set password_encryption = md5;
             create role md5_user login password 'md5_user_secret';",
        )
        .ok();
}

#[track_caller]
fn call(verb: &[&str], dir: &Path, rest: &[&str]) {
    let mut command = Command::new("bash");
    command.arg(script()).args(verb).arg(dir).args(rest);
    run(Duration::from_secs(120), &command).ok();
}

/// Starts the script that ends the shared cluster after its last user.
fn linger(home: &Path) {
    let status = Command::new("setsid")
        .args(["--fork", "bash"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/linger.sh"))
        .arg(script())
        .arg(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("linger.sh can be started");
    assert!(status.success(), "setsid: {status}");
}
