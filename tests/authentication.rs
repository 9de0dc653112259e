//! Who comes in, and how: host-based rules, the methods towards clients, the methods towards the server.
//!
//! Without the rules a stranger comes in; with a careless refusal he learns which users exist; a method that is not that
//! of PostgreSQL locks out every driver. Clients are psql and tokio-postgres, so both libpq's and a second
//! implementation of the methods are asked.

mod support;

use std::time::{Duration, Instant};

use support::wire;
use support::{Pooler, Postgres, RawClient, eventually};

/// One rule for everyone from everywhere.
fn everyone(method: &str) -> String {
    format!(
        "[[hba]]\ntype = \"host\"\ndatabase = \"all\"\nuser = \"all\"\naddress = \"all\"\nmethod = \"{method}\"\n"
    )
}

fn rule(database: &str, user: &str, method: &str) -> String {
    format!(
        "[[hba]]\ntype = \"host\"\ndatabase = {database}\nuser = {user}\naddress = \"127.0.0.1/32\"\n\
         method = \"{method}\"\n"
    )
}

const KNOWN: [&str; 3] = ["md5_user", "scram_user", "plain_user"];

/// What PostgreSQL stores for a user: the verifier that a users file may hold instead of the password.
fn stored_secret(user: &str) -> String {
    Postgres::shared().sql(&format!("select rolpassword from pg_authid where rolname = '{user}'"))
}

#[test]
fn every_method_lets_in_with_the_password_and_not_without() {
    for method in ["password", "md5", "scram-sha-256"] {
        let pooler = Pooler::with(&everyone(method)).start();
        for user in KNOWN {
            let login = pooler.login().known(user);
            assert_eq!(login.psql("select session_user").ok(), user, "{method}");
            let refused = login.clone().password("wrong").psql("select 1").fails();
            assert!(
                refused.contains(&format!("password authentication failed for user \"{user}\"")),
                "{refused}"
            );
            let refused = login.clone().password("").psql("select 1").fails();
            assert!(refused.contains("password"), "{method}: {refused}");
        }
        pooler.stop();
    }
}

#[test]
fn tokio_postgres_logs_in_by_every_method() {
    support::tokio_runtime().block_on(async {
        for method in ["password", "md5", "scram-sha-256"] {
            let pooler = Pooler::with(&everyone(method)).start();
            for user in KNOWN {
                let login = pooler.login().known(user);
                let (client, connection) =
                    login.tokio().connect(tokio_postgres::NoTls).await.expect("logs in");
                tokio::spawn(connection);
                let row = client.query_one("select session_user::text", &[]).await.expect("answers");
                assert_eq!(row.get::<_, &str>(0), user, "{method}");
                let wrong = login.password("wrong").tokio().connect(tokio_postgres::NoTls).await;
                let code = wrong.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
                assert_eq!(code.as_deref(), Some("28P01"), "{method}");
            }
        }
    });
}

#[test]
fn an_md5_verifier_in_the_users_file_is_as_good_as_the_password() {
    let users = format!("\"md5_user\" \"{}\"\n", stored_secret("md5_user"));
    for method in ["password", "md5"] {
        let pooler = Pooler::with(&everyone(method)).users(&users).start();
        assert_eq!(pooler.login().known("md5_user").psql("select session_user").ok(), "md5_user");
        pooler.login().known("md5_user").password("wrong").psql("select 1").fails();
        pooler.stop();
    }
}

#[test]
fn a_scram_verifier_in_the_users_file_is_as_good_as_the_password() {
    // Towards the server the key of the client's own login is used, so that the password is nowhere.
    let users = format!("\"scram_user\" \"{}\"\n", stored_secret("scram_user"));
    let pooler = Pooler::with(&everyone("scram-sha-256")).users(&users).start();
    assert_eq!(pooler.login().known("scram_user").psql("select session_user").ok(), "scram_user");
    pooler.login().known("scram_user").password("wrong").psql("select 1").fails();
    pooler.stop();
}

#[test]
fn method_md5_asks_for_scram_when_the_secret_is_a_scram_verifier() {
    let users = format!("\"scram_user\" \"{}\"\n", stored_secret("scram_user"));
    let pooler = Pooler::with(&everyone("md5")).users(&users).start();
    assert_eq!(pooler.login().known("scram_user").psql("select session_user").ok(), "scram_user");
    pooler.stop();
}

#[test]
fn trust_needs_no_password_and_reject_takes_none() {
    let pooler = Pooler::with(&everyone("trust")).start();
    assert_eq!(pooler.login().user("stranger").psql("select session_user").ok(), "stranger");
    pooler.stop();
    let pooler = Pooler::with(&everyone("reject")).start();
    for user in ["postgres", "md5_user", "nobody_knows"] {
        let error = pooler.login().known(user).try_raw().err().expect("rejected");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"), "{error:?}");
    }
    pooler.stop();
}

#[test]
fn the_first_rule_that_matches_decides() {
    let database = Postgres::shared().database();
    let rules = [
        rule("\"all\"", "\"stranger\"", "reject"),
        rule(&format!("\"{database}\""), "\"all\"", "trust"),
        rule("\"postgres\"", "[\"plain_user\", \"md5_user\"]", "password"),
        rule("\"all\"", "\"postgres\"", "trust"),
    ]
    .concat();
    let pooler = Pooler::with(&rules).start();
    let into =
        |database: &str, user: &str| pooler.login().database(database).user(user).psql("select 1").code == 0;
    assert!(!into(&database, "stranger"), "rejected before the rule that trusts");
    assert!(into(&database, "postgres"));
    assert!(into("postgres", "postgres"), "the last rule");
    assert!(!into("postgres", "plain_user"), "the password is missing");
    assert_eq!(pooler.login().known("plain_user").psql("select 1").ok(), "1");
    let error = pooler.login().user("scram_user").try_raw().err().expect("no rule matches");
    assert_eq!(error.code, "28000");
    pooler.stop();
}

#[test]
fn rules_for_unix_sockets_are_not_those_for_tcp() {
    let rules = format!(
        "{}[[hba]]\ntype = \"local\"\ndatabase = \"all\"\nuser = \"all\"\nmethod = \"trust\"\n",
        everyone("reject")
    );
    let pooler = Pooler::with(&rules).start();
    let local = pooler.login().host(&pooler.dir().display().to_string());
    assert_eq!(local.psql("select 1").ok(), "1");
    pooler.login().psql("select 1").fails();
    pooler.stop();
}

#[test]
fn replication_needs_a_rule_of_its_own() {
    let pooler = Pooler::with(&everyone("trust")).start();
    let error =
        pooler.login().parameter("replication", "true").try_raw().err().expect("\"all\" is not replication");
    assert_eq!(error.code, "28000");
    pooler.stop();
}

/// The first request and the refusal of a login attempt with a wrong password, without the user's name.
fn attempt(pooler: &Pooler, user: &str) -> (Vec<u8>, support::PgError) {
    let mut client = RawClient::connect(pooler.port());
    client.send_startup(&pooler.login().user(user));
    let first = client.read();
    assert_eq!(first.tag, b'R', "{user}: an authentication request, not a refusal");
    if first.body[..4] == [0, 0, 0, 10] {
        let challenge = challenge(&mut client);
        assert!(challenge.contains(",s=") && challenge.ends_with(",i=4096"), "{user}: {challenge}");
        let nonce = challenge.split(',').next().expect("the nonce comes first");
        let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        client.send(&wire::message(b'p', format!("c=biws,{nonce},p={proof}").as_bytes()));
    } else {
        client.send(&wire::password("md50123456789abcdef0123456789abcdef"));
    }
    let (messages, closed) = client.read_to_end(Duration::from_secs(20));
    assert!(closed, "{user}: refused and closed");
    let error = RawClient::first_error(&messages).expect("told why");
    (first.body[..4].to_vec(), support::PgError { message: error.message.replace(user, "USER"), ..error })
}

/// Answers a request for SCRAM with a first message, and gives the server's.
fn challenge(client: &mut RawClient) -> String {
    let initial = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let length = u32::try_from(initial.len()).expect("short").to_be_bytes();
    client.send(&wire::message(b'p', &[&wire::cstr("SCRAM-SHA-256"), &length[..], initial].concat()));
    let answer = client.read();
    assert_eq!((answer.tag, &answer.body[..4]), (b'R', &[0, 0, 0, 11][..]), "a challenge, not a refusal");
    String::from_utf8_lossy(&answer.body[4..]).into_owned()
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    // With method md5 the secret decides what is asked for, here as in PostgreSQL: who stores verifiers of both kinds
    // tells them apart himself. The users file holds what PostgreSQL has by default.
    let users = format!("\"scram_user\" \"{}\"\n", stored_secret("scram_user"));
    for method in ["password", "md5", "scram-sha-256"] {
        let pooler = Pooler::with(&everyone(method)).users(&users).start();
        let known = attempt(&pooler, "scram_user");
        assert_eq!(known.1.code, "28P01", "{method}");
        for stranger in ["no_such_user", "another", "postgres"] {
            assert_eq!(attempt(&pooler, stranger), known, "{method}, {stranger}");
        }
        pooler.stop();
    }
}

#[test]
fn the_mock_challenge_of_an_unknown_user_is_the_same_each_time() {
    // A salt that changes from one attempt to the next would tell that there is no such user.
    let salt = |pooler: &Pooler, user: &str| {
        let mut client = RawClient::connect(pooler.port());
        client.send_startup(&pooler.login().user(user));
        client.read();
        challenge(&mut client).split(",s=").nth(1).expect("a salt").to_owned()
    };
    let pooler = Pooler::with(&everyone("scram-sha-256")).start();
    assert_eq!(salt(&pooler, "ghost"), salt(&pooler, "ghost"));
    assert_ne!(salt(&pooler, "ghost"), salt(&pooler, "spirit"));
    pooler.stop();
}

#[test]
fn a_refused_client_has_touched_no_server() {
    let database = Postgres::shared().database();
    let pooler = Pooler::with(&everyone("scram-sha-256")).start();
    for user in ["no_such_user", "scram_user"] {
        pooler.login().database(&database).user(user).password("wrong").psql("select 1").fails();
    }
    pooler.wait_until_quiet();
    assert_eq!(Postgres::shared().backends(&database), 0);
    pooler.stop();
}

#[test]
fn a_user_whom_the_server_refuses_gets_the_servers_error() {
    // Howdah trusts, PostgreSQL does not: the users file has a wrong password.
    let pooler = Pooler::with("").users("\"scram_user\" \"not_the_password\"\n").start();
    let error = pooler.login().user("scram_user").try_raw().err().expect("refused");
    assert_eq!(error.code, "28P01");
    let error = pooler.login().user("md5_user").try_raw().err().expect("no secret for the server");
    assert!(error.code.starts_with("28") || error.code.starts_with("08"), "{error:?}");
    pooler.login().raw().terminate();
    pooler.stop();
}

#[test]
fn a_client_that_does_not_authenticate_in_time_is_closed() {
    let toml = format!("[timeouts]\nauthentication_timeout = \"1s\"\n{}", everyone("password"));
    let pooler = Pooler::with(&toml).start();
    let mut silent = RawClient::connect(pooler.port());
    let mut half = RawClient::connect(pooler.port());
    half.send(&[0, 0]);
    let mut asked = RawClient::connect(pooler.port());
    asked.send_startup(&pooler.login());
    let begin = Instant::now();
    for client in [&mut silent, &mut half, &mut asked] {
        let (_, closed) = client.read_to_end(Duration::from_secs(10));
        assert!(closed, "closed by the daemon");
    }
    let taken = begin.elapsed();
    assert!(taken > Duration::from_millis(500) && taken < Duration::from_secs(5), "{taken:?}");
    pooler.wait_until_quiet();
    pooler.stop();
}

#[test]
fn max_startups_refuses_strangers_and_comes_back() {
    let toml = format!("[howdah]\nmax_startups = \"5\"\n{}", everyone("trust"));
    let pooler = Pooler::with(&toml).start();
    let mut silent: Vec<RawClient> = (0..5).map(|_| RawClient::connect(pooler.port())).collect();
    eventually("five are unauthenticated", || pooler.workers().len() >= 5);
    let mut refused = RawClient::connect(pooler.port());
    // The refusal may come before the startup message, so sending that may fail.
    let _ = refused.try_send(&wire::startup(wire::PROTOCOL_3_0, &[("user", "postgres")]));
    let (messages, closed) = refused.read_to_end(Duration::from_secs(10));
    let code = RawClient::first_error(&messages).map(|error| error.code);
    assert!(closed && code.is_none_or(|code| code == "53300"), "refused: {messages:?}");
    assert!(silent.iter_mut().all(|client| client.is_silent_for(Duration::from_millis(1))), "they may stay");
    silent.clear();
    eventually("the place is free again", || pooler.login().psql("select 1").code == 0);
    pooler.stop();
}

#[test]
fn authenticated_clients_do_not_count_as_startups() {
    let pooler = Pooler::with("[howdah]\nmax_startups = \"2\"").start();
    let clients: Vec<RawClient> = (0..10).map(|_| pooler.login().raw()).collect();
    assert_eq!(clients.len(), 10);
    drop(clients);
    pooler.stop();
}

#[test]
fn passwords_are_not_in_the_log() {
    let pooler = Pooler::with(&format!("[log]\nlevel = \"trace\"\n{}", everyone("password"))).start();
    for user in KNOWN {
        pooler.login().known(user).psql("select 1").ok();
        pooler.login().known(user).password("guessed_wrongly").psql("select 1").fails();
    }
    let log = pooler.log();
    assert!(!log.contains("_secret") && !log.contains("guessed_wrongly"), "a password is in the log");
    pooler.stop();
}
