//! Signals: what service managers, operators and other poolers' users send.
//!
//! A daemon that dies without a word leaves its clients with a broken pipe that they take for a network failure; one
//! that does not die is killed by the service manager, and then nobody is told.

mod support;

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use support::wire;
use support::{PATIENCE, Pooler, Postgres, RawClient, always_for, eventually, process};

/// A client's end must be a FATAL error with this SQLSTATE, then the end of the stream.
#[track_caller]
fn assert_sent_away(client: &mut RawClient, name: &str) {
    let (messages, closed) = client.read_to_end(PATIENCE);
    let error =
        RawClient::first_error(&messages).unwrap_or_else(|| panic!("{name} is not told why: {messages:?}"));
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), closed),
        ("FATAL", "57P01", true),
        "{name}: {error:?}"
    );
}

#[test]
fn sigterm_and_sigint_tell_every_client_and_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let database = Postgres::shared().database();
        let mut pooler = Pooler::with("[howdah]\nmax_connections = 3").start();
        let login = pooler.login().database(&database);
        let mut idle = login.raw();
        let mut transaction = login.raw();
        transaction.run("begin; create table t (a int)");
        let mut busy = login.raw();
        busy.send(&wire::query("select pg_sleep(60)"));
        let mut waiter = pooler.queue_up(&login);
        let mut silent = RawClient::connect(pooler.port());
        eventually("the silent one is accepted", || pooler.workers().len() == 5);
        pooler.signal(signal);
        for (client, name) in [
            (&mut idle, "an idle client"),
            (&mut transaction, "a client in a transaction"),
            (&mut busy, "a client in a query"),
            (&mut waiter, "a client that waits"),
        ] {
            assert_sent_away(client, name);
        }
        let (_, closed) = silent.read_to_end(PATIENCE);
        assert!(closed, "a client that has said nothing yet is closed too");
        assert!(pooler.wait(PATIENCE).success(), "{signal}");
        pooler.assert_nothing_left();
        eventually("no backend is left", || Postgres::shared().backends(&database) == 0);
    }
}

#[test]
fn sigtrap_lets_clients_finish_and_takes_no_new_ones() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    client.run("create temp table mine (a int)");
    pooler.signal(Signal::SIGTRAP);
    eventually("new clients are turned away", || pooler.turns_clients_away());
    assert_eq!(client.value("select count(*) from mine"), "0", "the session goes on");
    assert!(pooler.is_running());
    client.terminate();
    assert!(pooler.wait(PATIENCE).success());
    pooler.assert_nothing_left();
}

#[test]
fn sigterm_ends_a_graceful_shutdown_at_once() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    pooler.signal(Signal::SIGTRAP);
    assert_eq!(client.value("select 1"), "1");
    pooler.signal(Signal::SIGTERM);
    assert_sent_away(&mut client, "the last client");
    assert!(pooler.wait(PATIENCE).success());
    pooler.assert_nothing_left();
}

#[test]
fn sigquit_to_a_worker_sends_its_client_away_and_nobody_else() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 3").start();
    let login = pooler.login();
    for query in [None, Some("begin"), Some("select pg_sleep(60)")] {
        let (mut doomed, mut bystander) = (login.raw(), login.raw());
        if let Some(sql) = query {
            doomed.send(&wire::query(sql));
            if sql == "begin" {
                doomed.read_until_ready();
            }
        }
        process::kill(pooler.worker_of(&doomed), Signal::SIGQUIT);
        assert_sent_away(&mut doomed, query.unwrap_or("idle"));
        assert_eq!(bystander.value("select 'unharmed'"), "unharmed");
        bystander.terminate();
    }
    pooler.assert_slots_usable(&login, 3);
    pooler.stop();
}

#[test]
fn sigabrt_dumps_core_and_workers_finish_their_clients() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    pooler.signal(Signal::SIGABRT);
    let status = pooler.wait(PATIENCE);
    assert_eq!(status.signal(), Some(6), "{status}");
    assert_eq!(client.value("select 'goes on'"), "goes on");
    client.terminate();
    eventually("every worker ends", || pooler.processes().is_empty());
}

#[test]
fn sigpipe_and_sigchld_and_window_changes_are_nothing() {
    let mut pooler = Pooler::start();
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGCONT] {
        pooler.signal(signal);
        assert_eq!(pooler.login().psql("select 1").ok(), "1", "{signal}");
    }
    assert!(pooler.is_running());
    pooler.stop();
}

#[test]
fn a_storm_of_reloads_harms_nobody() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    for round in 0..200 {
        pooler.signal(Signal::SIGHUP);
        assert_eq!(client.value(&format!("select {round}")), round.to_string());
    }
    always_for(std::time::Duration::from_millis(200), "main runs", || pooler.is_running());
    assert_eq!(pooler.login().psql("select 1").ok(), "1");
    client.terminate();
    pooler.stop();
}
