//! What main does by itself: idle connections, old ones, minimum sizes, validation, idle clients.
//!
//! Without it, connections that nobody uses are held for ever, those of a server that failed over stay where they are,
//! and the first client after a quiet night finds a connection that a firewall has forgotten.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::wire;
use support::{Pooler, Postgres, always_for, eventually, process};

#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let database = Postgres::shared().database();
    let pooler = Pooler::with("[timeouts]\nserver_idle_timeout = \"1s\"").start();
    let login = pooler.login().database(&database);
    let stays = login.raw();
    login.raw().terminate();
    assert_eq!(Postgres::shared().backends(&database), 2);
    eventually("the idle one is closed", || Postgres::shared().backends(&database) == 1);
    always_for(Duration::from_millis(1500), "the one in use stays", || {
        Postgres::shared().has_backend(stays.process_id)
    });
    stays.terminate();
    eventually("then that one too", || Postgres::shared().backends(&database) == 0);
    pooler.stop();
}

#[test]
fn a_connection_that_is_too_old_is_closed_when_its_session_ends() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1\n[timeouts]\nserver_lifetime = \"1s\"").start();
    let mut first = pooler.login().raw();
    let old = first.process_id;
    assert_eq!(first.value("select pg_sleep(1.5), 'not cut off'"), "");
    first.terminate();
    let next = pooler.login().raw();
    assert_ne!(next.process_id, old);
    next.terminate();
    eventually("the old backend is gone", || !Postgres::shared().has_backend(old));
    pooler.stop();
}

#[test]
fn a_pool_is_kept_at_its_minimum() {
    let database = Postgres::shared().database();
    let toml = format!(
        "[timeouts]\nserver_idle_timeout = \"1s\"\n[[pools]]\ndatabase = \"{database}\"\nuser = \"postgres\"\nmin_size = 3\n"
    );
    let pooler = Pooler::with(&toml).start();
    eventually("three are opened before any client came", || Postgres::shared().backends(&database) == 3);
    always_for(Duration::from_millis(1500), "idle as they are, they stay", || {
        Postgres::shared().backends(&database) >= 3
    });
    Postgres::shared().sql(&format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{database}' and pid <> pg_backend_pid()"
    ));
    eventually("they are replaced", || Postgres::shared().backends(&database) == 3);
    let login = pooler.login().database(&database);
    assert_eq!(login.psql("select 1").ok(), "1");
    pooler.stop();
}

/// What is opened ahead of demand is of use only if it was opened with what the clients ask for.
#[test]
fn connections_opened_ahead_fit_the_clients() {
    let database = Postgres::shared().database();
    let toml = format!("[[pools]]\ndatabase = \"{database}\"\nuser = \"postgres\"\nmin_size = 2\n");
    let pooler = Pooler::with(&toml).start();
    let login =
        pooler.login().database(&database).parameter("application_name", "ahead").options("-c work_mem=5MB");
    eventually("two are opened before any client came", || Postgres::shared().backends(&database) == 2);
    login.raw().terminate();
    pooler.wait_until_quiet();
    assert_eq!(pooler.cli(&["flush", "idle"]).code, 0);
    eventually("two others are opened", || {
        Postgres::shared().backends(&database) == 2 && pooler.number("/slots/free") == 2
    });
    let opened = pooler.number("/totals/opened");
    let mut client = login.raw();
    assert_eq!(client.value("show work_mem"), "5MB");
    assert_eq!(pooler.number("/totals/opened"), opened, "none had to be opened for it");
    client.terminate();
    pooler.stop();
}

#[test]
fn a_client_that_is_idle_for_too_long_is_sent_away() {
    let pooler =
        Pooler::with("[howdah]\nmax_connections = 2\n[timeouts]\nclient_idle_timeout = \"700ms\"").start();
    let mut idle = pooler.login().raw();
    let mut busy = pooler.login().raw();
    busy.send(&wire::query("select pg_sleep(2), 'answer'"));
    let (messages, closed) = idle.read_to_end(Duration::from_secs(10));
    let error = support::RawClient::first_error(&messages).expect("it is told why");
    assert_eq!((error.severity.as_str(), error.code.as_str(), closed), ("FATAL", "57P05", true), "{error:?}");
    let messages = busy.read_until_ready();
    assert!(messages.iter().any(|message| message.tag == b'D'), "a client whose query runs is not idle");
    drop(busy);
    let mut transaction = pooler.login().raw();
    transaction.run("begin");
    assert!(
        transaction.is_silent_for(Duration::from_millis(1500)),
        "within a transaction a client may take its time"
    );
    drop(transaction);
    pooler.stop();
}

#[test]
fn foreground_validation_finds_a_backend_that_does_not_answer() {
    let toml = "[howdah]\nmax_connections = 2\n[timeouts]\nconnect_timeout = \"2s\"\n[[pools]]\nvalidation = \"foreground\"\n";
    let pooler = Pooler::with(toml).start();
    let first = pooler.login().raw();
    let backend = first.process_id;
    first.terminate();
    pooler.wait_until_quiet();
    // As after a firewall forgot the connection: it looks open, and nothing comes back.
    process::kill(backend, Signal::SIGSTOP);
    let mut next = pooler.login().raw();
    assert_ne!(next.process_id, backend);
    assert_eq!(next.value("select 1"), "1");
    process::kill(backend, Signal::SIGCONT);
    next.terminate();
    pooler.stop();
}

#[test]
fn background_validation_closes_a_backend_that_does_not_answer() {
    let toml = "[timeouts]\nconnect_timeout = \"1s\"\n[[pools]]\nvalidation = \"background 1s\"\n";
    let pooler = Pooler::with(toml).start();
    let first = pooler.login().raw();
    let backend = first.process_id;
    first.terminate();
    always_for(Duration::from_millis(2500), "a healthy one is kept", || {
        Postgres::shared().has_backend(backend)
    });
    process::kill(backend, Signal::SIGSTOP);
    eventually("it is closed", || pooler.number("/slots/connections") == 0);
    process::kill(backend, Signal::SIGCONT);
    eventually("the backend sees it", || !Postgres::shared().has_backend(backend));
    pooler.stop();
}
