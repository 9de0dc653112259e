//! What one session leaves never reaches the next one on the same server connection.
//!
//! Without a clean-up at the end of each session, the next client finds settings, tables, locks or an open transaction of
//! the one before; and rows that the one before asked for but did not read are taken for the answer to the next one's
//! query. Every test here has one server connection for all its clients, so that each gets what the last one left.

mod support;

use std::time::Duration;

use support::wire;
use support::{Login, Pooler, Postgres, RawClient, eventually, process};

/// A daemon with one server connection, and a database of its own.
struct Single {
    pooler: Pooler,
    login: Login,
    database: String,
}

impl Single {
    fn with(toml: &str) -> Self {
        let database = Postgres::shared().database();
        let pooler = Pooler::with("[howdah]\nmax_connections = 1").and(toml).start();
        let login = pooler.login().database(&database);
        Self { pooler, login, database }
    }

    fn client(&self) -> RawClient {
        self.login.raw()
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// With Terminate, as libpq does.
    Politely,
    /// The socket closes, as when a process is killed.
    Abruptly,
}

impl Leave {
    const ALL: [Self; 2] = [Self::Politely, Self::Abruptly];

    fn leave(self, mut client: RawClient) {
        match self {
            Self::Politely => client.send(&wire::terminate()),
            Self::Abruptly => {}
        }
        drop(client);
    }
}

/// What a session leaves, what the next one asks, and what it must see.
const LEFTOVERS: [(&str, &str, &str); 14] = [
    ("set work_mem = '77MB'", "show work_mem", "4MB"),
    ("set search_path = pg_catalog; set timezone = 'Asia/Tokyo'", "show search_path", "\"$user\", public"),
    ("create temp table left_over (a int)", "select count(*) from pg_class where relname = 'left_over'", "0"),
    (
        "select pg_advisory_lock(1)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "0",
    ),
    ("prepare left_over as select 1", "select count(*) from pg_prepared_statements", "0"),
    (
        "begin; create table left_over (a int)",
        "select count(*) from pg_class where relname = 'left_over'",
        "0",
    ),
    (
        "create table if not exists t (a int); begin; lock table t",
        "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and pid = pg_backend_pid()",
        "0",
    ),
    ("begin; select 1/0", "select 'not in a failed transaction'", "not in a failed transaction"),
    ("listen left_over", "select count(*) from pg_listening_channels()", "0"),
    ("declare left_over cursor with hold for select 1", "select count(*) from pg_cursors", "0"),
    ("set session authorization stranger", "select session_user", "postgres"),
    ("set role stranger", "select current_user", "postgres"),
    ("begin; set local work_mem = '66MB'", "show work_mem", "4MB"),
    ("begin isolation level serializable read only; select 1", "show transaction_read_only", "off"),
];

#[test]
fn what_a_session_leaves_is_gone_for_the_next() {
    let single = Single::with("");
    for how in Leave::ALL {
        for (leave, ask, expected) in LEFTOVERS {
            let mut client = single.client();
            // Some of them fail on purpose.
            let _ = client.query(leave);
            how.leave(client);
            let mut next = single.client();
            assert_eq!(next.value(ask), expected, "{how:?} after: {leave}");
            next.terminate();
        }
    }
    single.pooler.stop();
}

#[test]
fn a_clean_session_leaves_its_connection_to_the_next() {
    // Otherwise the tests here would pass because each session had a new connection.
    let single = Single::with("");
    for how in Leave::ALL {
        for leave in ["select 1", "set work_mem = '77MB'", "begin; select 1", "listen left_over"] {
            let mut client = single.client();
            client.run(leave);
            let backend = client.process_id;
            how.leave(client);
            let next = single.client();
            assert_eq!(next.process_id, backend, "{how:?} after: {leave}");
            next.terminate();
        }
    }
    single.pooler.stop();
}

#[test]
fn the_sequence_values_of_a_session_are_its_own() {
    let single = Single::with("");
    let mut client = single.client();
    client.run("create sequence s; select nextval('s')");
    client.terminate();
    let mut next = single.client();
    assert_eq!(next.query("select currval('s')").unwrap_err().code, "55000");
    next.terminate();
    single.pooler.stop();
}

#[test]
fn protocol_level_statements_do_not_outlive_their_session() {
    let single = Single::with("");
    for round in 0..3 {
        let mut client = single.client();
        client.send(
            &[wire::parse("s1", "select 1"), wire::bind("s1", &[]), wire::execute(), wire::sync()].concat(),
        );
        let messages = client.read_until_ready();
        assert_eq!(RawClient::first_error(&messages), None, "round {round}");
        client.terminate();
    }
    single.pooler.stop();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_large_result_leaves_nothing_of_it() {
    let single = Single::with("");
    for how in Leave::ALL {
        for read in [0, 1, 100] {
            let mut client = single.client();
            client.send(&wire::query(
                "select 'of the one before', repeat('x', 1000) from generate_series(1, 300000)",
            ));
            for _ in 0..read {
                client.read();
            }
            how.leave(client);
            let mut next = single.client();
            assert_eq!(
                next.query("select 'mine'"),
                Ok(vec![vec![Some("mine".into())]]),
                "{how:?} after {read} messages"
            );
            next.terminate();
        }
    }
    single.pooler.stop();
}

#[test]
fn unfinished_exchanges_leave_nothing() {
    let single = Single::with("");
    let large = "select repeat('x', 1000) from generate_series(1, 100000)";
    let setup = "create table t (a text)";
    Postgres::shared().login().database(&single.database).psql(setup).ok();
    let unfinished: [(&str, Vec<u8>); 9] = [
        ("Parse, no Sync", wire::parse("", "select 1")),
        ("Parse and Flush, no Sync", [wire::parse("", "select 1"), wire::flush()].concat()),
        (
            "Execute, no Sync",
            [wire::parse("", large), wire::bind("", &[]), wire::execute(), wire::flush()].concat(),
        ),
        ("an error, no Sync", [wire::parse("", "select no_such_column"), wire::flush()].concat()),
        (
            "a pipeline, nothing read",
            [wire::query(large), wire::query(large), wire::query("select 1")].concat(),
        ),
        ("COPY in, no data", wire::query("copy t from stdin")),
        ("COPY in, half the data", [wire::query("copy t from stdin"), wire::copy_data(b"a\nb")].concat()),
        (
            "COPY out",
            wire::query("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout"),
        ),
        ("half a message", wire::query("select 'cut off'")[..9].to_vec()),
    ];
    for how in Leave::ALL {
        for (name, bytes) in &unfinished {
            let mut client = single.client();
            client.send(bytes);
            how.leave(client);
            let mut next = single.client();
            assert_eq!(
                next.query("select 'mine'"),
                Ok(vec![vec![Some("mine".into())]]),
                "{how:?} after {name}"
            );
            assert_eq!(next.value("select count(*) from t"), "0", "{how:?} after {name}");
            next.terminate();
        }
    }
    single.pooler.stop();
}

#[test]
fn the_query_of_a_client_that_is_killed_is_cancelled() {
    let single = Single::with("");
    let mut psql = single.login.psql_background("select pg_sleep(300)");
    let running = || {
        let count = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and state = 'active' \
             and query like 'select pg_sleep%'",
            single.database
        );
        Postgres::shared().sql(&count) == "1"
    };
    eventually("the query runs", running);
    assert!(psql.is_running());
    psql.kill();
    eventually("the query is cancelled", || !running());
    assert_eq!(single.client().value("select 'mine'"), "mine");
    single.pooler.stop();
}

#[test]
fn a_client_that_says_terminate_during_its_query_waits_for_the_answer_and_no_longer() {
    let single = Single::with("");
    let mut client = single.client();
    client.send(&[wire::query("select pg_sleep(0.3), 'answer'"), wire::terminate()].concat());
    let (messages, closed) = client.read_to_end(Duration::from_secs(20));
    assert!(closed && messages.iter().any(|message| message.tag == b'D'), "{messages:?}");
    assert_eq!(single.client().value("select 'mine'"), "mine");
    single.pooler.stop();
}

#[test]
fn a_connection_whose_reset_fails_is_closed() {
    let single = Single::with("[[pools]]\nreset_query = \"select 1/0\"");
    let first = single.client();
    let backend = first.process_id;
    first.terminate();
    let mut next = single.client();
    assert_ne!(next.process_id, backend);
    assert_eq!(next.value("select 'mine'"), "mine");
    eventually("the unclean backend is gone", || !Postgres::shared().has_backend(backend));
    single.pooler.stop();
}

#[test]
fn a_connection_whose_reset_takes_too_long_is_closed() {
    let single = Single::with(
        "[timeouts]\nreset_timeout = \"200ms\"\n[[pools]]\nreset_query = \"select pg_sleep(60)\"",
    );
    let first = single.client();
    let backend = first.process_id;
    first.terminate();
    let next = single.client();
    assert_ne!(next.process_id, backend);
    drop(next);
    single.pooler.stop();
}

#[test]
fn without_a_reset_query_only_what_the_protocol_needs_is_cleaned() {
    let single = Single::with("[[pools]]\nreset_query = \"\"");
    let mut first = single.client();
    first.run("set work_mem = '77MB'");
    first.run("begin");
    let backend = first.process_id;
    first.terminate();
    let mut next = single.client();
    assert_eq!(next.process_id, backend);
    assert_eq!(next.status, b'I', "the transaction was rolled back");
    assert_eq!(next.value("show work_mem"), "77MB", "the setting was left, as asked");
    next.terminate();
    single.pooler.stop();
}

#[test]
fn no_client_ever_sees_a_row_of_another() {
    // Clients that leave anywhere in their results, over two connections, while others check what they get.
    let pooler = Pooler::with("[howdah]\nmax_connections = 2").start();
    let login = pooler.login().database(&Postgres::shared().database());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let login = login.clone();
            std::thread::spawn(move || {
                for round in 0..40 {
                    let marker = format!("marker-{thread}-{round}");
                    let mut client = login.raw();
                    assert_eq!(client.value(&format!("select '{marker}'")), marker);
                    let sql = format!("select '{marker}', repeat('y', 500) from generate_series(1, 20000)");
                    client.send(&wire::query(&sql));
                    for _ in 0..(round * 37 + thread * 11) % 150 {
                        let message = client.read();
                        let own = String::from_utf8_lossy(&message.body).contains(&marker);
                        assert!(message.tag != b'D' || own, "{marker} got a row of another");
                    }
                    if round % 2 == 0 {
                        client.send(&wire::terminate());
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every client saw its own rows alone");
    }
    pooler.wait_until_quiet();
    pooler.stop();
}

#[test]
fn users_and_databases_never_share_a_connection() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 2").start();
    let (one, two) = (Postgres::shared().database(), Postgres::shared().database());
    for database in [&one, &two, &one] {
        for user in ["postgres", "stranger"] {
            let mut client = pooler.login().database(database).user(user).raw();
            assert_eq!(
                client.query("select current_database(), session_user"),
                Ok(vec![vec![Some(database.clone()), Some(user.into())]])
            );
            client.terminate();
        }
    }
    assert!(process::is_alive(pooler.main_pid()));
    pooler.stop();
}
