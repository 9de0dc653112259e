//! Which server connection a client gets: databases, pool rules, users and servers.
//!
//! Without a check before a server is touched, anybody fills the pool with names that do not exist; with a rule read in
//! the wrong order a client ends up on another server or as another user.

mod support;

use support::{Pooler, Postgres};

#[test]
fn an_unknown_database_is_refused_before_a_server_is_touched() {
    let pooler = Pooler::with("[databases.known]\ndbname = \"postgres\"").start();
    let error = pooler.login().database("unknown").try_raw().err().expect("refused");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"), "{error:?}");
    assert_eq!(pooler.number("/slots/connections"), 0);
    assert_eq!(pooler.login().database("known").psql("select current_database()").ok(), "postgres");
    pooler.stop();
}

#[test]
fn a_star_stands_for_every_other_database() {
    let database = Postgres::shared().database();
    let toml = format!("[databases.alias]\ndbname = \"{database}\"\n[databases.\"*\"]\nserver = \"main\"\n");
    let pooler = Pooler::with(&toml).start();
    assert_eq!(pooler.login().database("alias").psql("select current_database()").ok(), database);
    assert_eq!(pooler.login().database(&database).psql("select current_database()").ok(), database);
    let error = pooler.login().database("nowhere").try_raw().err().expect("the server has no such database");
    assert_eq!(error.code, "3D000");
    pooler.stop();
}

#[test]
fn who_matches_no_pool_rule_is_refused() {
    let pooler =
        Pooler::with("[[pools]]\ndatabase = \"postgres\"\nuser = [\"postgres\", \"md5_*\"]\n").start();
    assert_eq!(pooler.login().psql("select 1").ok(), "1");
    assert_eq!(pooler.login().user("md5_user").psql("select 1").ok(), "1");
    for login in [pooler.login().user("stranger"), pooler.login().database("template1")] {
        let error = login.try_raw().err().expect("no rule for it");
        assert!(["3D000", "28000"].contains(&error.code.as_str()), "{error:?}");
    }
    pooler.stop();
}

#[test]
fn the_first_pool_rule_that_matches_decides() {
    let toml = "[[pools]]\ndatabase = \"*\"\nuser = \"stranger\"\nsize = 1\n[[pools]]\ndatabase = \"*\"\nuser = \"*\"\nsize = 3\n";
    let pooler = Pooler::with(toml).start();
    pooler.assert_slots_usable(&pooler.login().user("stranger"), 1);
    pooler.assert_slots_usable(&pooler.login(), 3);
    pooler.stop();
}

#[test]
fn a_pool_may_log_in_as_another_user() {
    let toml = "[[pools]]\nuser = \"stranger\"\nserver_user = \"scram_user\"\n[[pools]]\nuser = \"*\"\n";
    let pooler = Pooler::with(toml).start();
    assert_eq!(pooler.login().user("stranger").psql("select session_user").ok(), "scram_user");
    assert_eq!(pooler.login().psql("select session_user").ok(), "postgres");
    pooler.stop();
}

#[test]
fn databases_may_lie_on_several_servers() {
    let other = Postgres::private();
    let toml = format!(
        "[servers.other]\nhost = \"{}\"\nport = {}\n[databases.here]\nserver = \"main\"\ndbname = \"postgres\"\n\
         [databases.there]\nserver = \"other\"\ndbname = \"postgres\"\n",
        other.socket_dir().display(),
        other.port()
    );
    let pooler = Pooler::with(&toml).start();
    let port = |database: &str| pooler.login().database(database).psql("show port").ok();
    assert_eq!(port("here"), Postgres::shared().port().to_string());
    assert_eq!(port("there"), other.port().to_string(), "over its Unix socket");
    pooler.stop();
}

#[test]
fn a_server_may_be_given_by_name() {
    let pooler = Pooler::with("[servers.main]\nhost = \"localhost\"").start();
    assert_eq!(pooler.login().psql("select 1").ok(), "1");
    let toml = "[servers.main]\nhost = \"no-such-host.invalid\"\n[timeouts]\nconnect_timeout = \"3s\"\n";
    let lost = Pooler::with(toml).start();
    let error = lost.login().try_raw().err().expect("the name leads nowhere");
    assert_eq!(error.code, "08006", "{error:?}");
    lost.stop();
    pooler.stop();
}

#[test]
fn the_database_is_the_users_name_when_none_is_said() {
    let pooler = Pooler::start();
    let mut client = support::RawClient::connect(pooler.port());
    client.send(&support::wire::startup(support::wire::PROTOCOL_3_0, &[("user", "postgres")]));
    client.finish_log_in(None).expect("as in PostgreSQL");
    assert_eq!(client.value("select current_database()"), "postgres");
    client.terminate();
    pooler.stop();
}
