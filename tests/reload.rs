//! A reload is validated whole, applies to new sessions, and says what changed and what needs a restart.
//!
//! A reload that applies half of a bad file leaves a daemon that nobody configured; one that ends sessions is an outage.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Pooler, Postgres, RawClient, eventually};

const REFUSED: i32 = 1;

fn keys(answer: &Value, list: &str) -> Vec<String> {
    let changes =
        answer.get(list).and_then(Value::as_array).unwrap_or_else(|| panic!("no {list} in {answer}"));
    changes.iter().filter_map(|change| Some(change.get("key")?.as_str()?.to_owned())).collect()
}

const EVERYONE: &str = "[[hba]]\ntype = \"host\"\ndatabase = \"all\"\nuser = \"all\"\naddress = \"all\"\n";

#[test]
fn new_sessions_follow_the_new_rules_and_old_ones_go_on() {
    let mut pooler = Pooler::start();
    let mut old = pooler.login().raw();
    pooler.rewrite(&format!("{EVERYONE}method = \"reject\"\n"));
    assert_eq!(pooler.login().psql("select 'not yet told'").ok(), "not yet told");
    pooler.cli(&["conf", "reload"]).ok();
    let error = pooler.login().try_raw().err().expect("rejected");
    assert_eq!(error.code, "28000");
    assert_eq!(old.value("select 'goes on'"), "goes on");
    pooler.rewrite(&format!("{EVERYONE}method = \"trust\"\n"));
    pooler.signal(Signal::SIGHUP);
    eventually("SIGHUP reloads as well", || pooler.login().psql("select 1").code == 0);
    old.terminate();
    pooler.stop();
}

#[test]
fn the_answer_tells_what_changed_and_what_needs_a_restart() {
    let mut pooler = Pooler::start();
    let nothing = pooler.cli_json(&["conf", "reload"]);
    assert!(keys(&nothing, "changed").is_empty() && keys(&nothing, "needs_restart").is_empty(), "{nothing}");
    pooler.rewrite(
        "[howdah]\nmax_clients = 77\n[log]\nlevel = \"info\"\n[timeouts]\nconnect_timeout = \"7s\"\n",
    );
    let answer = pooler.cli_json(&["conf", "reload"]);
    let changed = keys(&answer, "changed");
    assert!(
        changed.contains(&"log.level".to_owned()) && changed.contains(&"timeouts.connect_timeout".to_owned()),
        "{answer}"
    );
    assert_eq!(keys(&answer, "needs_restart"), ["howdah.max_clients"]);
    assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "info");
    assert_eq!(
        pooler.cli(&["conf", "get", "howdah.max_clients"]).ok(),
        "200",
        "the old value holds until a restart"
    );
    pooler.rewrite("[log]\nlevel = \"warn\"\n");
    let text = pooler.cli(&["conf", "reload"]).ok();
    assert!(
        text.contains("log.level") && text.contains("howdah.max_clients") && text.contains("restart"),
        "{text}"
    );
    pooler.stop();
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_whole() {
    let mut pooler = Pooler::start();
    let bad = [
        "this is not TOML at all [[[",
        "[howdah]\nport = \"many\"\nmax_conections = 3\n[log]\nlevel = \"loud\"\n",
        "",
    ];
    for text in bad {
        pooler.rewrite_raw(text);
        let outcome = pooler.cli(&["conf", "reload"]);
        assert_eq!(outcome.code, REFUSED, "{outcome:?}");
        assert!(outcome.stderr.contains("howdah.toml"), "it names the file: {outcome:?}");
        assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "debug");
        assert_eq!(pooler.login().psql("select 'served'").ok(), "served");
    }
    pooler.rewrite_raw(bad[1]);
    let told = pooler.cli(&["conf", "reload"]).fails();
    for word in ["port", "max_connections", "level"] {
        assert!(told.contains(word), "every mistake is told, also {word}:\n{told}");
    }
    pooler.signal(Signal::SIGHUP);
    eventually("the refusal is in the log", || pooler.log().contains("max_conections"));
    assert!(pooler.is_running());
    assert_eq!(pooler.login().psql("select 'served'").ok(), "served");
    pooler.rewrite("");
    pooler.cli(&["conf", "reload"]).ok();
    pooler.stop();
}

#[test]
fn users_come_and_go() {
    let rule = format!("{EVERYONE}method = \"scram-sha-256\"\n");
    let mut pooler = Pooler::with(&rule).users("\"scram_user\" \"scram_user_secret\"\n").start();
    assert_eq!(pooler.login().known("plain_user").psql("select 1").code, 2, "unknown yet");
    pooler.rewrite_users("\"plain_user\" \"plain_user_secret\"\n");
    pooler.cli(&["conf", "reload"]).ok();
    assert_eq!(pooler.login().known("plain_user").psql("select session_user").ok(), "plain_user");
    assert_eq!(pooler.login().known("scram_user").psql("select 1").code, 2, "known no more");
    assert!(!pooler.log().contains("_secret"));
    pooler.stop();
}

#[test]
fn a_smaller_pool_is_reached_when_its_clients_leave() {
    let mut pooler = Pooler::with("[[pools]]\nsize = 6").start();
    let database = Postgres::shared().database();
    let login = pooler.login().database(&database);
    let clients: Vec<RawClient> = (0..6).map(|_| login.raw()).collect();
    pooler.rewrite("[[pools]]\nsize = 2");
    pooler.cli(&["conf", "reload"]).ok();
    clients.into_iter().for_each(RawClient::terminate);
    pooler.assert_slots_usable(&login, 2);
    eventually("the others are closed", || Postgres::shared().backends(&database) <= 2);
    pooler.rewrite("[[pools]]\nsize = 8");
    pooler.cli(&["conf", "reload"]).ok();
    pooler.assert_slots_usable(&login, 8);
    pooler.stop();
}

#[test]
fn a_new_server_is_used_and_connections_to_the_old_one_end() {
    let other = Postgres::private();
    let database = Postgres::shared().database();
    other.sql(&format!("create database {database}"));
    let mut pooler = Pooler::start();
    let login = pooler.login().database(&database);
    let mut old = login.raw();
    login.raw().terminate();
    pooler.rewrite(&format!("[servers.main]\nport = {}", other.port()));
    pooler.cli(&["conf", "reload"]).ok();
    assert_eq!(login.psql("show port").ok(), other.port().to_string());
    assert_eq!(old.value("show port"), Postgres::shared().port().to_string());
    old.terminate();
    eventually("no connection to the old server is left", || Postgres::shared().backends(&database) == 0);
    pooler.stop();
}

/// Logging is decided when a line is written: a format or a wish that only the start of the daemon looks at would be an
/// option that a reload pretends to change.
#[test]
fn what_is_logged_and_how_follows_a_reload() {
    let mut pooler =
        Pooler::with("[log]\nlevel = \"info\"\nlog_connections = true\nlog_disconnections = true").start();
    pooler.login().raw().terminate();
    eventually("coming and leaving are logged", || {
        let log = pooler.log();
        log.contains("connection authorized: user \"postgres\"")
            && log.contains("disconnection: session time")
    });
    assert!(!pooler.log().contains("{\""), "lines for people");
    pooler.rewrite("[log]\nformat = \"json\"\nlog_connections = true\nlog_disconnections = false\n");
    pooler.cli(&["conf", "reload"]).ok();
    let disconnections = pooler.log().matches("disconnection:").count();
    pooler.login().raw().terminate();
    pooler.wait_until_quiet();
    eventually("the next lines are JSON", || {
        pooler.log().lines().any(|line| {
            let line: Option<Value> = serde_json::from_str(line).ok();
            line.is_some_and(|l| {
                l["role"] == "worker" && l["message"].as_str().is_some_and(|m| m.starts_with("connection"))
            })
        })
    });
    assert_eq!(pooler.log().matches("disconnection:").count(), disconnections);
    pooler.stop();
}
