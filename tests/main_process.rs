//! What main promises: one thread, no wait on anything, no wake-ups while idle, no root.
//!
//! A second thread makes fork undefined; a main that connects, resolves or waits stops the whole pool for one dead
//! server; one that wakes up every so often drains batteries and cgroup budgets of machines with hundreds of pools.

mod support;

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use support::{PATIENCE, Pooler, Postgres, RawClient, eventually, process};

#[test]
fn no_process_of_the_daemon_has_a_second_thread() {
    let pooler = Pooler::with("[servers.main]\nhost = \"localhost\"").start();
    let clients: Vec<RawClient> = (0..3).map(|_| pooler.login().raw()).collect();
    let processes = pooler.processes();
    assert!(processes.len() >= 4, "main and three workers: {processes:?}");
    for pid in processes {
        assert_eq!(process::threads(pid), 1, "process {pid}");
    }
    drop(clients);
    pooler.stop();
}

/// An address that swallows packets: its queue of connections is full, so the kernel answers nothing.
struct Swallower {
    port: u16,
    _listener: std::os::fd::OwnedFd,
    _fill: Vec<TcpStream>,
}

impl Swallower {
    fn new() -> Self {
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("binds");
        listen(&listener, Backlog::new(0).expect("zero is a backlog")).expect("listens");
        let port = getsockname::<SockaddrIn>(listener.as_raw_fd()).expect("bound").port();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            fill.push(stream);
        }
        Self { port, _listener: listener, _fill: fill }
    }
}

#[test]
fn ping_answers_at_once_while_the_server_swallows_packets() {
    let swallower = Swallower::new();
    let toml = "[timeouts]\nconnect_timeout = \"3s\"\nserver_idle_timeout = \"1s\"\n\
                [[pools]]\ndatabase = \"postgres\"\nuser = \"postgres\"\nmin_size = 3\nvalidation = \"background 1s\"\n\
                [[pools]]\nuser = \"*\"\n";
    let pooler = Pooler::with(toml).server_port(swallower.port).start();
    let mut clients: Vec<RawClient> = (0..10)
        .map(|_| {
            let mut client = RawClient::connect(pooler.port());
            client.send_startup(&pooler.login().user("stranger"));
            client
        })
        .collect();
    for _ in 0..20 {
        let begin = Instant::now();
        pooler.cli(&["ping"]).ok();
        let taken = begin.elapsed();
        assert!(taken < Duration::from_secs(1), "{taken:?}");
    }
    for client in &mut clients {
        let error = client.finish_log_in(None).expect_err("there is no server");
        assert_eq!(error.code, "08006", "{error:?}");
    }
    let begin = Instant::now();
    pooler.stop();
    assert!(begin.elapsed() < Duration::from_secs(5), "stopping waits for no server: {:?}", begin.elapsed());
}

#[test]
fn ping_answers_at_once_while_the_server_says_nothing() {
    // It accepts, and then nothing comes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let pooler = Pooler::with("[timeouts]\nconnect_timeout = \"2s\"").server_port(port).start();
    let mut client = RawClient::connect(pooler.port());
    client.send_startup(&pooler.login());
    let (_server, _) = listener.accept().expect("the worker connects");
    for _ in 0..10 {
        let begin = Instant::now();
        pooler.cli(&["ping"]).ok();
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(client.finish_log_in(None).expect_err("the time is over").code, "08006");
    pooler.stop();
}

#[test]
fn nothing_wakes_up_while_nothing_happens() {
    let pooler = Pooler::start();
    let mut clients: Vec<RawClient> = (0..5).map(|_| pooler.login().raw()).collect();
    clients[1].run("begin");
    clients[2].run("listen nothing");
    pooler.login().raw().terminate();
    let switches = || -> Vec<(i32, u64)> {
        pooler.processes().into_iter().map(|pid| (pid, process::voluntary_switches(pid))).collect()
    };
    let mut last = Vec::new();
    eventually("six processes have gone to sleep", || {
        let now = switches();
        std::mem::replace(&mut last, now.clone()) == now && now.len() == 6
    });
    // What the last session set in motion may still settle; six seconds of silence must come nevertheless.
    let mut silent_since = Instant::now();
    eventually("six seconds in which nobody woke up", || {
        let now = switches();
        if std::mem::replace(&mut last, now.clone()) != now {
            silent_since = Instant::now();
        }
        silent_since.elapsed() > Duration::from_secs(6)
    });
    drop(clients);
    pooler.stop();
}

#[test]
fn mains_own_memory_stays_small() {
    let pooler = Pooler::start();
    let clients: Vec<RawClient> = (0..20).map(|_| pooler.login().raw()).collect();
    drop(clients);
    pooler.wait_until_quiet();
    let rollup =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pooler.main_pid())).expect("main runs");
    let dirty: u64 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:")?.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a number of KiB");
    assert!(dirty < 2048, "main has {dirty} KiB of its own, which every fork pays for");
    pooler.stop();
}

#[test]
fn workers_keep_nothing_of_mains() {
    let pooler = Pooler::start();
    let idle: Vec<RawClient> = (0..5).map(|_| pooler.login().raw()).collect();
    idle.into_iter().for_each(RawClient::terminate);
    pooler.wait_until_quiet();
    let mut client = pooler.login().raw();
    assert_eq!(client.value("select 1"), "1");
    let fds = process::open_fds(pooler.worker_of(&client));
    let sockets = fds.iter().filter(|to| to.starts_with("socket:")).count();
    assert!(sockets <= 4, "the client, its server connection, what leads to main: {fds:#?}");
    client.terminate();
    pooler.stop();
}

#[test]
fn root_is_given_up_and_never_used() {
    let Some(uid) = support::unprivileged_user() else {
        eprintln!("SKIPPED: only root can test how root is given up");
        return;
    };
    let pooler = Pooler::with("").started_by_root().start();
    let client = pooler.login().raw();
    for pid in pooler.processes() {
        assert_eq!(
            process::status_field(pid, "Uid")
                .as_deref()
                .map(str::split_whitespace)
                .map(|mut ids| ids.all(|id| id == uid.to_string())),
            Some(true)
        );
        let groups = process::status_field(pid, "Groups").unwrap_or_default();
        assert!(!groups.split_whitespace().any(|group| group == "0"), "groups of {pid}: {groups}");
        for capability in ["CapEff", "CapPrm"] {
            assert_eq!(
                process::status_field(pid, capability).as_deref(),
                Some("0000000000000000"),
                "{capability} of {pid}"
            );
        }
    }
    drop(client);
    pooler.stop();
    let (status, log) =
        Pooler::with("").with_root_for_ever().try_start().err().expect("root without a user is refused");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    assert!(log.contains("root"), "{log}");
}

#[test]
fn what_is_in_the_way_is_one_clear_line() {
    let first = Pooler::start();
    let toml = format!("[howdah]\nport = {}\n", first.port());
    let (status, log) = Pooler::with(&toml).try_start().err().expect("the port is taken");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    assert!(log.contains(&first.port().to_string()), "it names the address: {log}");
    assert_eq!(log.trim_end().lines().count(), 1, "one line: {log}");
    let toml = format!("[howdah]\npid_file = \"{}\"\n", first.dir().join("howdah.pid").display());
    let (status, log) = Pooler::with(&toml).try_start().err().expect("the pid file is another's");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    assert!(log.contains("howdah.pid"), "it names the file: {log}");
    let toml = format!("[howdah]\nmanagement_socket = \"{}\"\n", first.management_socket().display());
    let (status, log) = Pooler::with(&toml).try_start().err().expect("the management socket is another's");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    assert!(log.contains("howdah.sock"), "it names the socket: {log}");
    first.cli(&["ping"]).ok();
    assert_eq!(first.login().psql("select 1").ok(), "1");
    first.stop();
}

#[test]
fn several_addresses_are_served_at_once() {
    let other = support::Port::take();
    let toml = format!(
        "[howdah]\nlisten_addresses = [\"127.0.0.1\", \"[::1]:{0}\", \"127.0.0.1:{0}\"]\n{1}",
        other.number(),
        "[[hba]]\ntype = \"host\"\naddress = \"all\"\nmethod = \"trust\"\n"
    );
    let pooler = Pooler::with(&toml).start();
    for (host, port) in [("127.0.0.1", pooler.port()), ("127.0.0.1", other.number()), ("::1", other.number())]
    {
        let mut login = pooler.login().host(host);
        login.port = port;
        assert_eq!(login.psql("select 1").ok(), "1", "{host}:{port}");
    }
    pooler.stop();
}

/// systemd's end of sd_notify(3).
fn notifications() -> (UnixDatagram, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = UnixDatagram::bind(dir.path().join("notify")).expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out above zero");
    for path in [dir.path().to_owned(), dir.path().join("notify")] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("our own");
    }
    (socket, dir)
}

fn next_notification(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).expect("the daemon tells");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn the_service_manager_is_told() {
    let (socket, dir) = notifications();
    let path = dir.path().join("notify").display().to_string();
    let mut pooler = Pooler::with("").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").start();
    let until = |word: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = next_notification(&socket);
            if told.lines().any(|line| line.starts_with(word)) {
                return told;
            }
            assert!(Instant::now() < deadline, "{word} was not told");
        }
    };
    until("READY=1");
    until("WATCHDOG=1");
    pooler.signal(Signal::SIGHUP);
    let told = until("RELOADING=1");
    assert!(told.contains("MONOTONIC_USEC="), "systemd wants the time with it: {told}");
    until("READY=1");
    pooler.signal(Signal::SIGTERM);
    until("STOPPING=1");
    assert!(pooler.wait(PATIENCE).success());
}

#[test]
fn a_fresh_daemon_has_touched_no_server() {
    let database = Postgres::shared().database();
    let pooler = Pooler::start();
    pooler.cli(&["status"]).ok();
    assert_eq!(Postgres::shared().backends(&database), 0);
    assert_eq!(pooler.number("/slots/connections"), 0);
    pooler.stop();
}
