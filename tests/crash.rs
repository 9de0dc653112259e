//! Whoever is killed, nothing is lost but his own.
//!
//! A worker that dies with a slot must not take the slot along: each lost one makes the pool smaller until nobody is
//! served. A descriptor that main keeps of a dead connection is a leak that ends at the limit of descriptors. A waiter
//! that was woken and died must pass the slot on. A main that dies must not cut the clients off.

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::wire;
use support::{Login, PATIENCE, Pooler, Postgres, RawClient, eventually, holds_within, process};

/// A daemon with a few slots, its own database, and main's descriptors before anything happened.
struct Victim {
    pooler: Pooler,
    login: Login,
    descriptors: usize,
    slots: usize,
}

impl Victim {
    fn with(slots: usize, toml: &str) -> Self {
        let pooler = Pooler::with(&format!("[howdah]\nmax_connections = {slots}")).and(toml).start();
        let login = pooler.login().database(&Postgres::shared().database());
        // One session first, so that everything that is opened once is open.
        login.raw().terminate();
        let descriptors = pooler.bare_descriptors();
        Self { pooler, login, descriptors, slots }
    }

    /// No slot lost, no descriptor leaked, no process left.
    #[track_caller]
    fn assert_unharmed(self) {
        self.pooler.assert_slots_usable(&self.login, self.slots);
        let now = self.pooler.bare_descriptors();
        assert_eq!(
            now,
            self.descriptors,
            "main's descriptors: {:#?}",
            process::open_fds(self.pooler.main_pid())
        );
        self.pooler.stop();
    }
}

#[test]
fn a_worker_that_dies_in_a_session_gives_its_slot_back() {
    let victim = Victim::with(2, "");
    let states: [(&str, Option<Vec<u8>>); 7] = [
        ("idle", None),
        ("in a transaction", Some(wire::query("begin; select 1"))),
        ("in a failed transaction", Some(wire::query("begin; select 1/0"))),
        ("in a query", Some(wire::query("select pg_sleep(60)"))),
        ("in a large result", Some(wire::query("select repeat('x', 1000) from generate_series(1, 1000000)"))),
        ("in COPY in", Some(wire::query("create temp table t (a int); copy t from stdin"))),
        ("in half a message", Some(wire::query("select 'cut off'")[..7].to_vec())),
    ];
    for (state, bytes) in states {
        let mut bystander = victim.login.raw();
        let mut client = victim.login.raw();
        let backend = client.process_id;
        if let Some(bytes) = bytes {
            client.send(&bytes);
            // Most of these answer something; a query that sleeps and half a message do not.
            client.is_silent_for(Duration::from_millis(100));
        }
        victim.pooler.kill_worker(victim.pooler.worker_of(&client));
        let (_, closed) = client.read_to_end(PATIENCE);
        assert!(closed, "the client of a worker that died {state} is told by the end of the stream");
        eventually("the dead session's backend is gone", || !Postgres::shared().has_backend(backend));
        assert_eq!(bystander.value("select 'unharmed'"), "unharmed", "while another died {state}");
        bystander.terminate();
    }
    victim.assert_unharmed();
}

#[test]
fn a_worker_that_dies_while_it_opens_a_connection_gives_its_slot_back() {
    // A server that accepts and says nothing: the slot stays in Init.
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let pooler = Pooler::with("[howdah]\nmax_connections = 1\n[timeouts]\nconnect_timeout = \"60s\"")
        .server_port(port)
        .start();
    for round in 0..5 {
        let mut client = RawClient::connect(pooler.port());
        client.send_startup(&pooler.login());
        let (_server, _) = listener.accept().expect("the worker connects");
        assert_eq!(pooler.number("/slots/init"), 1, "round {round}");
        pooler.kill_worker(pooler.worker_of(&client));
        eventually("the slot is empty again", || pooler.number("/slots/not_init") == 1);
    }
    pooler.wait_until_quiet();
    pooler.stop();
}

#[test]
fn a_worker_that_dies_while_it_cleans_up_gives_its_slot_back() {
    let victim = Victim::with(
        1,
        "[timeouts]\nreset_timeout = \"60s\"\n[[pools]]\nreset_query = \"select case when \
                                  current_setting('my.slow', true) = 'yes' then pg_sleep(60) end\"\n",
    );
    for _ in 0..3 {
        let mut client = victim.login.raw();
        client.run("set my.slow = 'yes'");
        let (worker, backend) = (victim.pooler.worker_of(&client), client.process_id);
        drop(client);
        let busy =
            format!("select count(*) from pg_stat_activity where pid = {backend} and state = 'active'");
        eventually("the reset query runs", || Postgres::shared().sql(&busy) == "1");
        victim.pooler.kill_worker(worker);
        eventually("the slot is empty again", || victim.pooler.number("/slots/not_init") == 1);
    }
    victim.assert_unharmed();
}

#[test]
fn a_worker_that_dies_with_a_connection_to_be_closed_gives_its_slot_back() {
    let victim = Victim::with(2, "");
    for _ in 0..3 {
        let client = victim.login.raw();
        victim.pooler.cli(&["flush", "gracefully"]).ok();
        assert_eq!(victim.pooler.number("/slots/gracefully"), 1);
        victim.pooler.kill_worker(victim.pooler.worker_of(&client));
        eventually("the slot is empty again", || victim.pooler.number("/slots/not_init") == 2);
    }
    victim.assert_unharmed();
}

#[test]
fn a_waiter_that_dies_leaves_the_queue() {
    let victim = Victim::with(1, "");
    let holder = victim.login.raw();
    let waiters = [(); 3].map(|()| victim.pooler.queue_up(&victim.login));
    let [first, mut second, third] = waiters;
    victim.pooler.kill_worker(victim.pooler.worker_of(&first));
    victim.pooler.kill_worker(victim.pooler.worker_of(&third));
    eventually("one waits still", || victim.pooler.waiting() == 1);
    holder.terminate();
    second.finish_log_in(None).expect("the one that lives is served");
    second.terminate();
    victim.assert_unharmed();
}

#[test]
fn a_waiter_that_was_granted_a_slot_and_died_passes_it_on() {
    let victim = Victim::with(1, "");
    for _ in 0..5 {
        let holder = victim.login.raw();
        let first = victim.pooler.queue_up(&victim.login);
        let mut second = victim.pooler.queue_up(&victim.login);
        let worker = victim.pooler.worker_of(&first);
        process::kill(worker, Signal::SIGSTOP);
        holder.terminate();
        // The slot is now that of a worker which cannot take it.
        eventually("the slot is granted", || victim.pooler.waiting() == 1);
        assert!(second.is_silent_for(Duration::from_millis(100)) || second.read().tag == b'R');
        victim.pooler.kill_worker(worker);
        second.finish_log_in(None).expect("the slot is passed on");
        second.terminate();
    }
    victim.assert_unharmed();
}

#[test]
fn workers_that_die_before_authentication_count_no_longer() {
    let victim = Victim::with(2, "[howdah]\nmax_clients = 10\nmax_startups = \"8\"\n");
    for _ in 0..5 {
        let silent: Vec<RawClient> = (0..6).map(|_| RawClient::connect(victim.pooler.port())).collect();
        for client in &silent {
            victim.pooler.kill_worker(victim.pooler.worker_of(client));
        }
        victim.pooler.wait_until_quiet();
    }
    victim.assert_unharmed();
}

#[test]
fn a_checker_that_dies_gives_its_slot_back() {
    let victim = Victim::with(2, "[[pools]]\nvalidation = \"background 1s\"");
    for _ in 0..2 {
        let client = victim.login.raw();
        let backend = client.process_id;
        client.terminate();
        victim.pooler.wait_until_quiet();
        // The backend cannot answer, so the check lasts.
        process::kill(backend, Signal::SIGSTOP);
        eventually("the check is under way", || victim.pooler.number("/slots/idle_check") == 1);
        victim.pooler.workers().into_iter().for_each(|pid| victim.pooler.kill_worker(pid));
        eventually("the check is over", || victim.pooler.number("/slots/idle_check") == 0);
        process::kill(backend, Signal::SIGCONT);
    }
    victim.assert_unharmed();
}

/// Sessions without end; counts how many were cut off.
fn load(login: &Login, stop: &Arc<AtomicBool>, cut_off: &Arc<AtomicU32>) -> std::thread::JoinHandle<u32> {
    let (login, stop, cut_off) = (login.clone(), Arc::clone(stop), Arc::clone(cut_off));
    std::thread::spawn(move || {
        let mut finished = 0;
        while !stop.load(Ordering::Relaxed) {
            match session(&login, finished) {
                Ok(()) => finished += 1,
                Err(_) => {
                    cut_off.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        finished
    })
}

/// One session of some queries. An end of the stream is an error to return; a wrong answer is a failure of the test.
fn session(login: &Login, number: u32) -> std::io::Result<()> {
    let mut client = RawClient::try_connect(login.port)?;
    client.send_startup(login);
    let mut answers = Vec::new();
    for query in 0..3 {
        let sql = format!("select {number}, {query} from pg_sleep(0.002)");
        loop {
            let message = client.try_read()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            match message.tag {
                b'Z' => break,
                b'D' => answers.push(message.body),
                b'E' => panic!("{:?}", RawClient::first_error(&[message])),
                _ => {}
            }
        }
        client.try_send(&wire::query(&sql))?;
    }
    assert!(answers.len() == 2, "the answers to the first two queries");
    for (query, answer) in answers.iter().enumerate() {
        let text = String::from_utf8_lossy(answer);
        assert!(text.contains(&number.to_string()) && text.ends_with(&query.to_string()), "{text:?}");
    }
    Ok(())
}

#[test]
fn two_hundred_workers_killed_under_load_harm_only_their_clients() {
    const KILLS: u32 = 200;
    let victim = Victim::with(4, "");
    let (stop, cut_off) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let threads: Vec<_> = (0..8).map(|_| load(&victim.login, &stop, &cut_off)).collect();
    let mut killed = 0;
    let mut turn = 0_usize;
    while killed < KILLS {
        let workers = victim.pooler.workers();
        if workers.is_empty() {
            continue;
        }
        turn = turn.wrapping_mul(31).wrapping_add(7);
        victim.pooler.kill_worker(workers[turn % workers.len()]);
        killed += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let finished: u32 =
        threads.into_iter().map(|thread| thread.join().expect("no wrong answer, no stuck client")).sum();
    let cut_off = cut_off.load(Ordering::Relaxed);
    assert!(cut_off <= KILLS, "{cut_off} sessions were cut off by {KILLS} kills");
    assert!(finished > 0, "sessions went on meanwhile");
    victim.assert_unharmed();
}

#[test]
fn workers_finish_their_clients_when_main_is_killed_and_a_new_main_listens_at_once() {
    let mut pooler = Pooler::with("[howdah]\nmax_connections = 5").start();
    let mut old: Vec<RawClient> = (0..3).map(|_| pooler.login().raw()).collect();
    old[0].run("create temp table mine (a int)");
    old[1].send(&wire::query("select pg_sleep(1), 'answer'"));
    pooler.kill_main();
    assert_eq!(old[0].value("select count(*) from mine"), "0", "a session goes on without main");
    assert!(
        RawClient::try_connect(pooler.port()).is_err(),
        "nobody listens: a worker must not keep the listeners"
    );
    pooler.restart();
    let mut new = pooler.login().raw();
    assert_eq!(new.value("select 'new'"), "new");
    assert!(
        old[1].read_until_ready().iter().any(|message| message.tag == b'D'),
        "the answer comes all the same"
    );
    assert_eq!(old[0].value("select count(*) from mine"), "0", "also beside the new main");
    new.terminate();
    old.into_iter().for_each(RawClient::terminate);
    pooler.assert_slots_usable(&pooler.login(), 5);
    pooler.stop();
}

#[test]
fn clients_of_a_dead_main_leave_no_server_connection_behind() {
    let database = Postgres::shared().database();
    let mut pooler = Pooler::with("[howdah]\nmax_connections = 5").start();
    let login = pooler.login().database(&database);
    let idle: Vec<RawClient> = (0..2).map(|_| login.raw()).collect();
    let stays = login.raw();
    idle.into_iter().for_each(RawClient::terminate);
    pooler.wait_until_busy_with(1);
    pooler.kill_main();
    // Nobody can use the idle ones any more: their keeper fds ended with main.
    eventually("the idle server connections end", || Postgres::shared().backends(&database) == 1);
    stays.terminate();
    eventually("the last one ends with its client", || Postgres::shared().backends(&database) == 0);
    eventually("every worker ends", || pooler.processes().is_empty());
}

#[test]
fn a_waiter_of_a_dead_main_is_served_or_told() {
    let mut pooler = Pooler::with("[howdah]\nmax_connections = 1\n[timeouts]\nwait_timeout = \"5s\"").start();
    let holder = pooler.login().raw();
    let mut waiter = pooler.queue_up(&pooler.login());
    pooler.kill_main();
    holder.terminate();
    match waiter.finish_log_in(None) {
        Ok(()) => assert_eq!(waiter.value("select 1"), "1"),
        Err(error) => assert!(["53300", "57P01", "08006"].contains(&error.code.as_str()), "{error:?}"),
    }
    drop(waiter);
    eventually("every worker ends", || pooler.processes().is_empty());
}

#[test]
fn idle_connections_to_a_server_that_restarted_are_replaced_unnoticed() {
    let postgres = Postgres::private();
    let pooler = Pooler::with("[howdah]\nmax_connections = 5").server(&postgres).start();
    for validation in ["as usual", "again"] {
        let clients: Vec<RawClient> = (0..5).map(|_| pooler.login().raw()).collect();
        clients.into_iter().for_each(RawClient::terminate);
        pooler.wait_until_quiet();
        postgres.restart_immediately();
        for _ in 0..5 {
            assert_eq!(pooler.login().psql("select 'unnoticed'").ok(), "unnoticed", "{validation}");
        }
    }
    pooler.assert_slots_usable(&pooler.login(), 5);
    pooler.stop();
}

#[test]
fn clients_of_a_server_that_restarts_are_told_and_their_slots_come_back() {
    let postgres = Postgres::private();
    let pooler = Pooler::with("[howdah]\nmax_connections = 5").server(&postgres).start();
    pooler.login().raw().terminate();
    let descriptors = pooler.bare_descriptors();
    for _ in 0..3 {
        let mut clients: Vec<RawClient> = (0..5).map(|_| pooler.login().raw()).collect();
        clients[1].send(&wire::query("select pg_sleep(60)"));
        clients[2].run("begin; select 1");
        let mut waiter = pooler.queue_up(&pooler.login());
        postgres.restart_immediately();
        for client in &mut clients {
            let (messages, closed) = client.read_to_end(PATIENCE);
            let code = RawClient::first_error(&messages).map(|error| error.code).unwrap_or_default();
            assert!(closed, "no client is left hanging");
            assert!(["57P02", "57P01", "57P03", "08006", ""].contains(&code.as_str()), "{code}");
        }
        if let Err(error) = waiter.finish_log_in(None) {
            assert!(["57P03", "08006", "57P02", "57P01"].contains(&error.code.as_str()), "{error:?}");
        }
        drop(waiter);
        let served = holds_within(PATIENCE, || pooler.login().try_raw().is_ok());
        assert!(served, "the server is back");
    }
    pooler.assert_slots_usable(&pooler.login(), 5);
    assert_eq!(pooler.bare_descriptors(), descriptors);
    pooler.stop();
}

#[test]
fn a_server_that_is_down_is_a_clear_error_at_once_and_no_end() {
    let postgres = Postgres::private();
    let pooler = Pooler::with("[howdah]\nmax_connections = 3").server(&postgres).start();
    pooler.login().raw().terminate();
    postgres.stop("fast");
    for _ in 0..6 {
        let error = pooler.login().try_raw().err().expect("nobody listens there");
        assert!(error.code.starts_with("08") || error.code == "57P03", "{error:?}");
    }
    postgres.start();
    let served = holds_within(PATIENCE, || pooler.login().try_raw().is_ok());
    assert!(served, "the server is back");
    pooler.assert_slots_usable(&pooler.login(), 3);
    pooler.stop();
}

#[test]
fn a_backend_that_is_killed_takes_its_client_and_nothing_else() {
    let victim = Victim::with(3, "");
    for _ in 0..5 {
        let (mut doomed, mut bystander) = (victim.login.raw(), victim.login.raw());
        Postgres::shared().sql(&format!("select pg_terminate_backend({})", doomed.process_id));
        let (messages, closed) = doomed.read_to_end(PATIENCE);
        let code = RawClient::first_error(&messages).map(|error| error.code);
        assert_eq!((code.as_deref(), closed), (Some("57P01"), true), "the server's own words");
        assert_eq!(bystander.value("select 'unharmed'"), "unharmed");
        bystander.terminate();
    }
    victim.assert_unharmed();
}

#[test]
fn an_idle_backend_that_is_killed_is_replaced_unnoticed() {
    let victim = Victim::with(1, "");
    for _ in 0..5 {
        let client = victim.login.raw();
        let backend = client.process_id;
        client.terminate();
        victim.pooler.wait_until_quiet();
        Postgres::shared().sql(&format!("select pg_terminate_backend({backend})"));
        eventually("the backend is gone", || !Postgres::shared().has_backend(backend));
        assert_eq!(victim.login.raw().value("select 'unnoticed'"), "unnoticed");
    }
    victim.assert_unharmed();
}
