//! `howdah-cli`: each verb as text and as JSON, its exit code, and what it does to the pool.
//!
//! Without a check of what was typed, a half-typed `shutdown` stops the daemon; without stable exit codes and JSON, a
//! script cannot tell a refusal from a daemon that is not there.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{PATIENCE, Pooler, Postgres, RawClient, eventually, process, run};

/// What howdah-cli's exit codes mean (`src/cli/exit.rs`); scripts rely on the numbers.
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

fn cli(arguments: &[&str]) -> support::Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah-cli"));
    command.args(arguments).env_remove("HOWDAH_SOCKET");
    run(PATIENCE, &command)
}

#[test]
fn ping_answers() {
    let pooler = Pooler::start();
    assert!(!pooler.cli(&["ping"]).ok().is_empty());
    assert!(pooler.cli_json(&["ping"]).is_object());
    pooler.stop();
}

#[test]
fn the_daemon_is_found_by_socket_by_configuration_and_by_environment() {
    let pooler = Pooler::start();
    let (socket, config) = (pooler.management_socket(), pooler.config_file());
    cli(&["--socket", &socket.display().to_string(), "ping"]).ok();
    cli(&["-c", &config.display().to_string(), "ping"]).ok();
    let mut by_environment = Command::new(env!("CARGO_BIN_EXE_howdah-cli"));
    by_environment.arg("ping").env("HOWDAH_SOCKET", &socket);
    run(PATIENCE, &by_environment).ok();
    pooler.stop();
}

#[test]
fn a_daemon_that_is_not_there_has_an_exit_code_of_its_own() {
    let outcome = cli(&["--socket", "/nowhere/howdah.sock", "ping"]);
    assert_eq!(outcome.code, UNREACHABLE, "{outcome:?}");
    assert!(outcome.stderr.contains("/nowhere/howdah.sock"), "{outcome:?}");
    let outcome = cli(&["--json", "--socket", "/nowhere/howdah.sock", "ping"]);
    assert_eq!(outcome.code, UNREACHABLE, "{outcome:?}");
    let error: serde_json::Value = serde_json::from_str(&outcome.stderr).expect("an error in JSON");
    assert_eq!(error.pointer("/error/exit_code"), Some(&serde_json::json!(UNREACHABLE)), "{error}");
}

#[test]
fn status_counts_clients_slots_and_waiters() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 2").start();
    let numbers = || {
        ["/clients/active", "/clients/waiting", "/slots/in_use", "/slots/free"].map(|at| pooler.number(at))
    };
    assert_eq!(numbers(), [0, 0, 0, 0]);
    let one = pooler.login().raw();
    let two = pooler.login().user("stranger").raw();
    let waiter = pooler.queue_up(&pooler.login());
    assert_eq!(numbers(), [2, 1, 2, 0]);
    let text = pooler.cli(&["status"]).ok();
    assert!(text.contains("waiting"), "{text}");
    let text = pooler.cli(&["status", "details"]).ok();
    for word in ["stranger", "in_use", "127.0.0.1"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let status = pooler.status();
    let slots =
        status.pointer("/details/slots").and_then(serde_json::Value::as_array).expect("a list of slots");
    let mut backends: Vec<i64> = slots.iter().filter_map(|slot| slot.get("backend_pid")?.as_i64()).collect();
    let mut expected = vec![i64::from(one.process_id), i64::from(two.process_id)];
    backends.sort_unstable();
    expected.sort_unstable();
    assert_eq!(backends, expected);
    drop(waiter);
    one.terminate();
    two.terminate();
    pooler.wait_until_quiet();
    assert_eq!(numbers(), [0, 0, 0, 2]);
    pooler.stop();
}

#[test]
fn flush_idle_closes_what_nobody_uses() {
    let database = Postgres::shared().database();
    let pooler = Pooler::start();
    let login = pooler.login().database(&database);
    let mut stays = login.raw();
    login.raw().terminate();
    pooler.wait_until_busy_with(1);
    pooler.cli(&["flush", "idle"]).ok();
    eventually("the idle backend is gone", || Postgres::shared().backends(&database) == 1);
    assert_eq!(stays.value("select 'unharmed'"), "unharmed");
    stays.terminate();
    pooler.wait_until_quiet();
    assert_eq!(Postgres::shared().backends(&database), 1, "it came back to the pool");
    pooler.stop();
}

#[test]
fn flush_gracefully_closes_the_rest_when_it_comes_back() {
    let database = Postgres::shared().database();
    let pooler = Pooler::start();
    let mut client = pooler.login().database(&database).raw();
    let answer = pooler.cli_json(&["flush"]);
    assert_eq!(answer.get("marked"), Some(&serde_json::json!(1)), "gracefully is the default: {answer}");
    assert_eq!(client.value("select 'unharmed'"), "unharmed");
    assert_eq!(pooler.number("/slots/gracefully"), 1);
    client.terminate();
    eventually("the backend is gone", || Postgres::shared().backends(&database) == 0);
    assert_eq!(pooler.login().database(&database).psql("select 1").ok(), "1");
    pooler.stop();
}

#[test]
fn flush_all_of_one_database_cuts_off_its_clients_alone() {
    let (one, two) = (Postgres::shared().database(), Postgres::shared().database());
    let pooler = Pooler::start();
    let mut doomed = pooler.login().database(&one).raw();
    let mut bystander = pooler.login().database(&two).raw();
    pooler.cli(&["flush", "all", &one]).ok();
    let (messages, closed) = doomed.read_to_end(PATIENCE);
    let code = RawClient::first_error(&messages).map(|error| error.code);
    assert_eq!((code.as_deref(), closed), (Some("57P01"), true), "{messages:?}");
    assert_eq!(bystander.value("select 'unharmed'"), "unharmed");
    eventually("the backend is gone", || Postgres::shared().backends(&one) == 0);
    let refused = pooler.cli(&["flush", "all", "no_such_database"]);
    assert_eq!(refused.code, REFUSED, "{refused:?}");
    pooler.assert_slots_usable_beside(&pooler.login().database(&one), 19);
    drop(bystander);
    pooler.stop();
}

#[test]
fn disable_turns_new_clients_away_and_enable_lets_them_in() {
    let (one, two) = (Postgres::shared().database(), Postgres::shared().database());
    let pooler = Pooler::start();
    let mut there = pooler.login().database(&one).raw();
    let into = |database: &str| pooler.login().database(database).try_raw().err().map(|error| error.code);
    pooler.cli(&["disable", &one]).ok();
    let code = into(&one).expect("turned away");
    assert!(code.starts_with("57P") || code == "3D000" || code == "53300", "{code}");
    assert_eq!(into(&two), None);
    assert_eq!(there.value("select 'unharmed'"), "unharmed");
    pooler.cli(&["enable", &one]).ok();
    assert_eq!(into(&one), None);
    pooler.cli(&["disable"]).ok();
    assert!(into(&one).is_some() && into(&two).is_some());
    pooler.cli(&["enable"]).ok();
    assert!(into(&one).is_none() && into(&two).is_none());
    drop(there);
    pooler.stop();
}

#[test]
fn clear_sets_the_statistics_to_zero() {
    let pooler = Pooler::start();
    pooler.login().raw().terminate();
    pooler.wait_until_quiet();
    assert!(pooler.number("/totals/accepted") > 0 && pooler.number("/totals/opened") > 0);
    pooler.cli(&["clear"]).ok();
    assert_eq!(
        ["/totals/accepted", "/totals/opened", "/totals/claims"].map(|at| pooler.number(at)),
        [0, 0, 0]
    );
    pooler.stop();
}

#[test]
fn conf_shows_and_changes_keys() {
    let pooler = Pooler::start();
    assert_eq!(pooler.cli(&["conf", "get", "howdah.max_connections"]).ok(), "20");
    assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "debug");
    pooler.cli(&["conf", "set", "log.level", "info"]).ok();
    assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "info");
    assert!(
        std::fs::read_to_string(pooler.config_file()).expect("readable").contains("debug"),
        "the file stays as it is"
    );
    pooler.cli(&["conf", "reload"]).ok();
    assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "debug");
    let files = pooler.cli(&["conf", "ls"]).ok();
    assert!(files.contains("howdah.toml") && files.contains("users.txt"), "{files}");
    for wrong in [
        &["conf", "get", "no.such.key"][..],
        &["conf", "set", "log.level", "loud"],
        &["conf", "set", "no.key", "1"],
    ] {
        let outcome = pooler.cli(wrong);
        assert_eq!(outcome.code, REFUSED, "{outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{outcome:?}");
    }
    assert_eq!(pooler.cli(&["conf", "get", "log.level"]).ok(), "debug");
    pooler.stop();
}

#[test]
fn switch_to_takes_the_other_server_for_new_sessions() {
    let other = Postgres::private();
    let toml = format!(
        "[servers.other]\nhost = \"127.0.0.1\"\nport = {}\n[[pools]]\nserver = \"main\"\n",
        other.port()
    );
    let pooler = Pooler::with(&toml).start();
    let mut old = pooler.login().raw();
    let port = || pooler.login().psql("show port").ok();
    assert_eq!(port(), Postgres::shared().port().to_string());
    pooler.cli(&["switch-to", "other"]).ok();
    assert_eq!(port(), other.port().to_string());
    assert_eq!(old.value("show port"), Postgres::shared().port().to_string(), "sessions that are there stay");
    let refused = pooler.cli(&["switch-to", "nowhere"]);
    assert_eq!(refused.code, REFUSED, "{refused:?}");
    assert_eq!(port(), other.port().to_string());
    old.terminate();
    pooler.stop();
}

#[test]
fn shutdown_gracefully_ends_with_the_last_client_and_can_be_cancelled() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    pooler.cli(&["shutdown"]).ok();
    eventually("new clients are turned away", || pooler.turns_clients_away());
    assert_eq!(client.value("select 'unharmed'"), "unharmed");
    pooler.cli(&["shutdown", "cancel"]).ok();
    eventually("new clients come in again", || pooler.login().psql("select 1").code == 0);
    assert_eq!(pooler.cli(&["shutdown", "cancel"]).code, REFUSED, "there is nothing to cancel");
    pooler.cli(&["shutdown", "gracefully"]).ok();
    assert_eq!(client.value("select 'still unharmed'"), "still unharmed");
    assert!(pooler.is_running());
    client.terminate();
    assert!(pooler.wait(PATIENCE).success());
    pooler.assert_nothing_left();
}

#[test]
fn shutdown_immediate_tells_the_clients() {
    let mut pooler = Pooler::start();
    let mut client = pooler.login().raw();
    pooler.cli(&["shutdown", "immediate"]).ok();
    let (messages, closed) = client.read_to_end(PATIENCE);
    let code = RawClient::first_error(&messages).map(|error| error.code);
    assert_eq!((code.as_deref(), closed), (Some("57P01"), true), "{messages:?}");
    assert!(pooler.wait(PATIENCE).success());
    pooler.assert_nothing_left();
}

#[test]
fn half_typed_and_wrong_commands_say_what_was_meant_and_do_nothing() {
    let mut pooler = Pooler::start();
    let cases: [(&[&str], &str); 10] = [
        (&["shut"], "shutdown"),
        (&["sta"], "status"),
        (&["stauts"], "status"),
        (&["flsh"], "flush"),
        (&["flush", "grace"], "gracefully"),
        (&["shutdown", "immediat"], "immediate"),
        (&["conf", "relaod"], "reload"),
        (&["reload"], "conf reload"),
        (&["stop"], "shutdown"),
        (&["is-alive"], "ping"),
    ];
    for (typed, meant) in cases {
        let outcome = pooler.cli(typed);
        assert_eq!(outcome.code, USAGE, "{typed:?}: {outcome:?}");
        assert!(outcome.stderr.contains(meant), "{typed:?} meant {meant}: {}", outcome.stderr);
    }
    assert_eq!(pooler.cli(&["frobnicate"]).code, USAGE);
    assert_eq!(pooler.cli(&[]).code, USAGE);
    assert!(pooler.is_running());
    pooler.stop();
}

#[test]
fn the_socket_is_open_to_its_user_alone() {
    let pooler = Pooler::start();
    let mode = std::fs::metadata(pooler.management_socket()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let owner = std::fs::metadata(pooler.management_socket()).expect("it is there").uid();
    assert_eq!(Some(owner), process::effective_uid(pooler.main_pid()));
    pooler.stop();
}

#[test]
fn many_operators_at_once_are_all_answered() {
    let pooler = Pooler::start();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| drop(pooler.cli(&["ping"]).ok())));
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    pooler.stop();
}

#[test]
fn help_and_version_are_there() {
    for program in [env!("CARGO_BIN_EXE_howdah-cli"), env!("CARGO_BIN_EXE_howdah")] {
        for option in ["--help", "--version"] {
            let mut command = Command::new(program);
            command.arg(option);
            let output = run(PATIENCE, &command).ok();
            assert!(
                output.contains(if option == "--help" { "Usage" } else { env!("CARGO_PKG_VERSION") }),
                "{output}"
            );
        }
    }
}
