//! Who waits for a server connection is served in order of arrival, or told that it took too long.
//!
//! A pooler whose waiters sleep and look again serves whoever happens to look at the right moment: some wait for ever
//! while newcomers pass. One whose limits are counters beside the slots exceeds them under races, or loses a slot with
//! each crash. Here the order is asserted client by client, and PostgreSQL itself is asked how many there are.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use support::wire;
use support::{Pooler, Postgres, RawClient, always_for, eventually};

#[test]
fn two_thousand_clients_over_twenty_slots_are_served_in_order_of_arrival() {
    const CLIENTS: usize = 2000;
    const SLOTS: usize = 20;
    support::raise_descriptor_limit();
    let pooler = Pooler::with(&format!(
        "[howdah]\nmax_connections = {SLOTS}\nmax_clients = 2100\nmax_startups = \"2100\"\n[timeouts]\nwait_timeout = \"10min\"\n\
         [log]\nlevel = \"info\"\n"
    ))
    .start();
    let login = pooler.login();
    let mut clients: Vec<RawClient> = (0..SLOTS).map(|_| login.raw()).collect();
    for _ in SLOTS..CLIENTS {
        let mut client = RawClient::connect(login.port);
        client.send_startup(&login);
        clients.push(client);
        // The order of arrival is that in which they enter the queue, so the next one comes only then.
        let expected = u64::try_from(clients.len() - SLOTS).expect("a count");
        eventually("the client is in the queue", || pooler.waiting() == expected);
    }
    // Each one that leaves makes room for exactly one: the next in order must get it, whoever else is there.
    let mut clients = clients.into_iter();
    let mut served: std::collections::VecDeque<RawClient> = clients.by_ref().take(SLOTS).collect();
    for (number, mut client) in clients.enumerate() {
        served.pop_front().expect("twenty are served at a time").terminate();
        client.finish_log_in(None).unwrap_or_else(|error| panic!("client {number} of the queue: {error:?}"));
        assert_eq!(client.value("select 'served'"), "served", "client {number} of the queue");
        served.push_back(client);
    }
    assert_eq!(pooler.waiting(), 0);
    served.into_iter().for_each(RawClient::terminate);
    pooler.stop();
}

#[test]
fn two_thousand_clients_that_come_at_once_are_all_served() {
    support::raise_descriptor_limit();
    let database = Postgres::shared().database();
    let pooler = Pooler::with(
        "[howdah]\nmax_connections = 20\nmax_clients = 2100\nmax_startups = \"2100\"\n[timeouts]\nwait_timeout = \"10min\"\n\
         authentication_timeout = \"10min\"\n[log]\nlevel = \"info\"\n",
    )
    .start();
    let most = watch_backends(&database);
    let login = pooler.login().database(&database);
    support::tokio_runtime().block_on(async {
        let tasks: Vec<_> = (0..2000_i32)
            .map(|number| {
                let config = login.tokio();
                tokio::spawn(async move {
                    let mut config = config;
                    config.connect_timeout(Duration::from_secs(300));
                    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connects");
                    let driver = tokio::spawn(connection);
                    let row = client.query_one("select $1::int", &[&number]).await.expect("answers");
                    assert_eq!(row.get::<_, i32>(0), number);
                    drop(client);
                    driver.await.expect("no panic").expect("ends well");
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("every client is served");
        }
    });
    let most = most.finish();
    assert!((1..=20).contains(&most), "{most} server connections at a time");
    pooler.stop();
}

/// Counts the backends of a database, again and again, and keeps the highest count.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<()>,
}

fn watch_backends(database: &str) -> Watch {
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut client = Postgres::shared().login().raw();
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and backend_type = 'client backend'"
    );
    let thread = std::thread::spawn({
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        move || {
            while !stop.load(Ordering::Relaxed) {
                let count = client.value(&sql).parse().expect("count(*) is a number");
                most.fetch_max(count, Ordering::Relaxed);
            }
        }
    });
    Watch { stop, most, thread }
}

impl Watch {
    fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("PostgreSQL answers");
        self.most.load(Ordering::Relaxed)
    }
}

/// Many short sessions by many threads, all of which must be served.
fn storm(logins: &[support::Login], threads: usize, rounds: usize) {
    let threads: Vec<_> = (0..threads)
        .map(|number| {
            let login = logins[number % logins.len()].clone();
            std::thread::spawn(move || {
                for round in 0..rounds {
                    let mut client = login.raw();
                    assert_eq!(client.value(&format!("select {round}")), round.to_string());
                    if round % 3 == 0 {
                        drop(client);
                    } else {
                        client.terminate();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every session is served");
    }
}

#[test]
fn the_limit_of_a_pool_holds_under_races() {
    let database = Postgres::shared().database();
    let pooler = Pooler::with("[[pools]]\nsize = 3").start();
    let most = watch_backends(&database);
    storm(&[pooler.login().database(&database)], 12, 30);
    let most = most.finish();
    assert!((1..=3).contains(&most), "{most} server connections at a time");
    pooler.assert_slots_usable(&pooler.login().database(&database), 3);
    pooler.stop();
}

#[test]
fn the_limit_of_a_server_holds_over_all_pools() {
    let database = Postgres::shared().database();
    let pooler = Pooler::with("[servers.main]\nmax_connections = 4").start();
    let most = watch_backends(&database);
    let login = pooler.login().database(&database);
    storm(&[login.clone(), login.user("stranger")], 12, 30);
    let most = most.finish();
    assert!((1..=4).contains(&most), "{most} server connections at a time");
    pooler.assert_slots_usable(&pooler.login().database(&database), 4);
    pooler.stop();
}

#[test]
fn the_global_limit_holds_and_idle_connections_of_other_pools_make_room() {
    let database = Postgres::shared().database();
    let pooler = Pooler::with("[howdah]\nmax_connections = 4").start();
    let most = watch_backends(&database);
    let login = pooler.login().database(&database);
    let users = ["postgres", "stranger", "md5_user", "scram_user", "plain_user"];
    storm(&users.map(|user| login.clone().user(user)), 10, 20);
    let most = most.finish();
    assert!((1..=4).contains(&most), "{most} server connections at a time");
    for user in users {
        pooler.assert_slots_usable(&login.clone().user(user), 4);
    }
    pooler.stop();
}

#[test]
fn who_waits_too_long_is_told_so() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1\n[timeouts]\nwait_timeout = \"700ms\"").start();
    let holder = pooler.login().raw();
    let begin = Instant::now();
    let error = pooler.login().try_raw().err().expect("no slot comes free");
    let taken = begin.elapsed();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"), "{error:?}");
    assert!(taken > Duration::from_millis(600) && taken < Duration::from_secs(5), "{taken:?}");
    holder.terminate();
    pooler.login().raw().terminate();
    assert_eq!(pooler.number("/totals/wait_timeouts"), 1);
    pooler.stop();
}

#[test]
fn a_pool_may_have_a_wait_timeout_of_its_own() {
    let toml = "[howdah]\nmax_connections = 1\n[timeouts]\nwait_timeout = \"off\"\n\
                [[pools]]\nuser = \"stranger\"\nwait_timeout = \"300ms\"\n[[pools]]\nuser = \"*\"\n";
    let pooler = Pooler::with(toml).start();
    let holder = pooler.login().raw();
    let mut patient = pooler.queue_up(&pooler.login());
    let error = pooler.login().user("stranger").try_raw().err().expect("no slot comes free");
    assert_eq!(error.code, "53300");
    assert!(
        patient.is_silent_for(Duration::from_millis(500)) || patient.read().tag == b'R',
        "the other one waits on"
    );
    holder.terminate();
    patient.finish_log_in(None).expect("served");
    drop(patient);
    pooler.stop();
}

#[test]
fn a_waiter_that_goes_away_leaves_the_queue_at_once() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    let holder = pooler.login().raw();
    let first = pooler.queue_up(&pooler.login());
    let mut second = pooler.queue_up(&pooler.login());
    let third = pooler.queue_up(&pooler.login());
    let begin = Instant::now();
    drop(first);
    drop(third);
    eventually("both have left the queue", || pooler.waiting() == 1);
    assert!(begin.elapsed() < Duration::from_millis(1000), "{:?}", begin.elapsed());
    holder.terminate();
    second.finish_log_in(None).expect("the one that stayed is served");
    second.terminate();
    pooler.assert_slots_usable(&pooler.login(), 1);
    pooler.stop();
}

#[test]
fn a_newcomer_does_not_overtake() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    for _ in 0..20 {
        let holder = pooler.login().raw();
        let mut waiter = pooler.queue_up(&pooler.login());
        let mut newcomer = RawClient::connect(pooler.port());
        newcomer.send_startup(&pooler.login());
        holder.terminate();
        waiter.finish_log_in(None).expect("first come, first served");
        assert_eq!(waiter.value("select 1"), "1");
        waiter.terminate();
        newcomer.finish_log_in(None).expect("then the newcomer");
        newcomer.terminate();
    }
    pooler.stop();
}

#[test]
fn the_client_above_the_limit_is_refused_and_the_next_one_after_a_leave_is_not() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 2\nmax_clients = 5").start();
    let login = pooler.login();
    let first = login.raw();
    let second = login.raw();
    let waiters: Vec<RawClient> = (0..3).map(|_| pooler.queue_up(&login)).collect();
    for _ in 0..10 {
        let mut refused = RawClient::connect(pooler.port());
        // The refusal may come before the startup message, so sending that may fail.
        let _ = refused.try_send(&wire::startup(wire::PROTOCOL_3_0, &[("user", "postgres")]));
        let (messages, closed) = refused.read_to_end(Duration::from_secs(10));
        let code = RawClient::first_error(&messages).map(|error| error.code);
        assert_eq!((code.as_deref(), closed), (Some("53300"), true), "{messages:?}");
    }
    drop(waiters);
    eventually("there is room again", || pooler.number("/clients/connected") <= 2);
    let third = pooler.queue_up(&login);
    for client in [first, second, third] {
        client.terminate();
    }
    pooler.assert_slots_usable(&login, 2);
    pooler.stop();
}

#[test]
fn waiting_costs_nothing() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    let holder = pooler.login().raw();
    let waiters: Vec<RawClient> = (0..20).map(|_| pooler.queue_up(&pooler.login())).collect();
    let workers: Vec<i32> = waiters.iter().map(|client| pooler.worker_of(client)).collect();
    let switches = || workers.iter().map(|pid| support::process::voluntary_switches(*pid)).sum::<u64>();
    let mut last = 0;
    eventually("they have gone to sleep", || {
        let now = switches();
        std::mem::replace(&mut last, now) == now
    });
    always_for(Duration::from_secs(3), "no waiter wakes up", || switches() == last);
    drop(holder);
    drop(waiters);
    pooler.stop();
}

#[test]
fn one_pool_that_is_full_does_not_hold_up_another() {
    let toml = "[[pools]]\nuser = \"stranger\"\nsize = 1\n[[pools]]\nuser = \"*\"\nsize = 5\n";
    let pooler = Pooler::with(toml).start();
    let stranger = pooler.login().user("stranger");
    let holder = stranger.raw();
    let mut waiter = pooler.queue_up(&stranger);
    assert_eq!(pooler.login().psql("select 1").ok(), "1");
    holder.terminate();
    waiter.finish_log_in(None).expect("served in its own pool");
    drop(waiter);
    pooler.stop();
}
