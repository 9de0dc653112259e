//! A CancelRequest reaches the query of the client whose key it carries, or nothing.
//!
//! A pooler that hands out the server's own key lets a client cancel whatever runs on its former connection; one that
//! looks up the process id alone lets anybody cancel anybody. The wrong query is then seen to end.

mod support;

use std::time::Duration;

use support::wire;
use support::{Login, Pooler, Postgres, RawClient, always_for, eventually};

/// Sends a CancelRequest and waits until the daemon has dealt with it: it closes without a byte.
fn cancel(port: u16, process_id: i32, secret: &[u8]) {
    let mut canceller = RawClient::connect(port);
    canceller.send(&wire::cancel(process_id, secret));
    let (messages, closed) = canceller.read_to_end(Duration::from_secs(20));
    assert!(closed && messages.is_empty(), "{messages:?}");
}

fn is_active(backend: i32) -> bool {
    let sql = format!("select count(*) from pg_stat_activity where pid = {backend} and state = 'active'");
    Postgres::shared().sql(&sql) == "1"
}

fn sleeper(login: &Login) -> RawClient {
    let mut client = login.raw();
    client.send(&wire::query("select pg_sleep(60)"));
    let backend = client.process_id;
    eventually("the query runs", || is_active(backend));
    client
}

#[test]
fn cancel_ends_the_query_and_not_the_session() {
    let pooler = Pooler::start();
    let mut client = sleeper(&pooler.login());
    cancel(pooler.port(), client.process_id, &client.secret);
    assert_eq!(client.read_error().code, "57014");
    client.read_until_ready();
    assert_eq!(client.value("select 'goes on'"), "goes on");
    client.terminate();
    pooler.stop();
}

#[test]
fn cancel_reaches_only_its_own_query() {
    let pooler = Pooler::start();
    let mut clients: Vec<RawClient> = (0..5).map(|_| sleeper(&pooler.login())).collect();
    let mut cancelled = clients.remove(2);
    cancel(pooler.port(), cancelled.process_id, &cancelled.secret);
    assert_eq!(cancelled.read_error().code, "57014");
    always_for(Duration::from_millis(300), "the others run on", || {
        clients.iter_mut().all(|client| !client.has_news())
    });
    assert!(clients.iter().all(|client| is_active(client.process_id)));
    pooler.stop();
}

#[test]
fn a_key_that_is_not_quite_right_cancels_nothing() {
    let pooler = Pooler::start();
    let mut client = sleeper(&pooler.login());
    let (pid, secret) = (client.process_id, client.secret.clone());
    let mut wrong = secret.clone();
    wrong[3] ^= 1;
    cancel(pooler.port(), pid, &wrong);
    cancel(pooler.port(), pid, &[0; 4]);
    cancel(pooler.port(), pid + 1, &secret);
    cancel(pooler.port(), 0, &secret);
    cancel(pooler.port(), -1, &secret);
    cancel(pooler.port(), pid, &[secret.clone(), vec![0; 4]].concat());
    assert!(client.is_silent_for(Duration::from_millis(300)), "the query runs on");
    cancel(pooler.port(), pid, &secret);
    assert_eq!(client.read_error().code, "57014");
    pooler.stop();
}

#[test]
fn the_secret_is_not_the_servers() {
    let pooler = Pooler::start();
    let mut client = sleeper(&pooler.login());
    cancel(Postgres::shared().port(), client.process_id, &client.secret);
    assert!(client.is_silent_for(Duration::from_millis(300)), "PostgreSQL does not know this key");
    pooler.stop();
}

#[test]
fn the_key_of_a_former_session_is_worth_nothing() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    let first = pooler.login().raw();
    let (pid, secret) = (first.process_id, first.secret.clone());
    first.terminate();
    let mut second = sleeper(&pooler.login());
    assert_eq!(second.process_id, pid, "the same server connection");
    assert_ne!(second.secret, secret, "but not the same key");
    cancel(pooler.port(), pid, &secret);
    assert!(second.is_silent_for(Duration::from_millis(300)), "the query of the next client runs on");
    cancel(pooler.port(), second.process_id, &second.secret);
    assert_eq!(second.read_error().code, "57014");
    pooler.stop();
}

#[test]
fn cancel_needs_no_slot() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    let mut client = sleeper(&pooler.login());
    let mut waiting = RawClient::connect(pooler.port());
    waiting.send_startup(&pooler.login());
    cancel(pooler.port(), client.process_id, &client.secret);
    assert_eq!(client.read_error().code, "57014");
    client.read_until_ready();
    client.terminate();
    waiting.finish_log_in(None).expect("served next");
    pooler.stop();
}

#[test]
fn a_cancel_while_nothing_runs_harms_nothing() {
    let pooler = Pooler::start();
    let mut client = pooler.login().raw();
    for _ in 0..20 {
        cancel(pooler.port(), client.process_id, &client.secret);
        // PostgreSQL itself may hit the next query when the signal comes late; the session goes on either way.
        if let Err(error) = client.query("select 1") {
            assert_eq!(error.code, "57014");
        }
    }
    assert!(client.query("select 1").is_ok_and(|rows| rows.len() == 1) || client.value("select 1") == "1");
    pooler.stop();
}

#[test]
fn tokio_postgres_cancels() {
    let pooler = Pooler::start();
    support::tokio_runtime().block_on(async {
        let (client, connection) =
            pooler.login().tokio().connect(tokio_postgres::NoTls).await.expect("connects");
        tokio::spawn(connection);
        let backend: i32 = client.query_one("select pg_backend_pid()", &[]).await.expect("answers").get(0);
        let token = client.cancel_token();
        let canceller =
            tokio::task::spawn_blocking(move || eventually("the query runs", || is_active(backend)));
        let cancelling = async {
            canceller.await.expect("it runs");
            token.cancel_query(tokio_postgres::NoTls).await.expect("sent");
        };
        let (result, ()) = tokio::join!(client.simple_query("select pg_sleep(60)"), cancelling);
        let code = result.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
        assert_eq!(code.as_deref(), Some("57014"));
    });
    pooler.stop();
}

#[test]
fn guessed_keys_disturb_nobody() {
    let pooler = Pooler::start();
    let login = pooler.login().database(&Postgres::shared().database());
    login.pgbench_tables();
    let mut load = login.pgbench_background(&["-S", "-n", "-c", "4", "-T", "4"]);
    let backends = || {
        let sql = format!(
            "select pid from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
            login.database
        );
        Postgres::shared().sql(&sql)
    };
    eventually("pgbench runs", || backends().lines().count() == 4);
    let pids: Vec<i32> = backends().lines().map(|pid| pid.parse().expect("a process id")).collect();
    let mut guess = 0_u32;
    while load.is_running() && guess < 400 {
        for pid in &pids {
            cancel(pooler.port(), *pid, &guess.wrapping_mul(2_654_435_761).to_be_bytes());
        }
        guess += 1;
    }
    assert!(guess > 20, "some were sent: {guess}");
    let output = load.finish().ok();
    assert!(output.contains("failed transactions: 0 "), "{output}");
    pooler.stop();
}

#[test]
fn many_cancels_at_once_each_hit_their_own() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 16").start();
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let login = pooler.login();
            std::thread::spawn(move || {
                for round in 0..10 {
                    let mut client = sleeper(&login);
                    if (number + round) % 2 == 0 {
                        cancel(login.port, client.process_id, &client.secret);
                        assert_eq!(client.read_error().code, "57014");
                        client.read_until_ready();
                        assert_eq!(client.value("select 1"), "1");
                        client.terminate();
                    } else {
                        assert!(client.is_silent_for(Duration::from_millis(20)), "nobody cancelled this one");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each cancel hit its own query");
    }
    pooler.stop();
}
