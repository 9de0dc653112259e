//! The harness itself, against plain PostgreSQL: without these, a test that passes because its fixture looks away
//! would not be noticed.

mod support;

use std::time::Duration;

use support::{Postgres, RawClient, eventually, process, wire};

#[test]
fn the_raw_client_speaks_with_postgresql() {
    let mut client = Postgres::shared().login().raw();
    assert_eq!(client.query("select 1, null, 'x'"), Ok(vec![vec![Some("1".into()), None, Some("x".into())]]));
    assert_eq!(client.value("select pg_backend_pid()"), client.process_id.to_string());
    assert_eq!(client.query("select 1/0").unwrap_err().code, "22012");
    assert!(client.parameters.contains_key("server_version"));
    client.terminate();
}

#[test]
fn the_raw_client_sees_an_extended_query_and_a_refusal() {
    let postgres = Postgres::shared();
    let mut client = postgres.login().raw();
    client.send(
        &[wire::parse("", "select $1::int + 1"), wire::bind("", &["41"]), wire::execute(), wire::sync()]
            .concat(),
    );
    let tags: Vec<u8> = client.read_until_ready().iter().map(|message| message.tag).collect();
    assert_eq!(tags, b"12DCZ");
    let refused = postgres.login().database("no_such_database").try_raw().err().map(|error| error.code);
    assert_eq!(refused.as_deref(), Some("3D000"));
}

#[test]
fn each_user_logs_in_by_its_method_and_not_without_its_password() {
    for user in ["md5_user", "scram_user", "plain_user"] {
        let login = Postgres::shared().login().known(user);
        assert_eq!(login.psql("select current_user").ok(), user);
        assert!(login.password("wrong").psql("select 1").fails().contains("password authentication failed"));
    }
    assert_eq!(
        Postgres::shared().login().known("plain_user").raw().value("select current_user"),
        "plain_user"
    );
}

#[test]
fn a_private_cluster_can_be_restarted_and_the_shared_one_stays() {
    let postgres = Postgres::private();
    let mut client = postgres.login().raw();
    postgres.restart_immediately();
    let (_, closed) = client.read_to_end(Duration::from_secs(10));
    assert!(closed, "an immediate stop closes the connection");
    assert_eq!(postgres.sql("select 1"), "1");
    assert_ne!(postgres.port(), Postgres::shared().port());
}

#[test]
fn backends_are_counted_by_database() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let login = postgres.login().database(&database);
    let clients: Vec<RawClient> = (0..3).map(|_| login.raw()).collect();
    assert_eq!(postgres.backends(&database), 3);
    assert!(postgres.has_backend(clients[0].process_id));
    drop(clients);
    eventually("the backends end", || postgres.backends(&database) == 0);
}

#[test]
fn tokio_postgres_connects() {
    support::tokio_runtime().block_on(async {
        let config = Postgres::shared().login().tokio();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connects");
        tokio::spawn(connection);
        let row = client.query_one("select 42", &[]).await.expect("answers");
        assert_eq!(row.get::<_, i32>(0), 42);
    });
}

#[test]
fn proc_tells_about_this_process() {
    let me = i32::try_from(std::process::id()).expect("a process id");
    assert!(process::is_alive(me) && process::threads(me) >= 1 && process::resident_kib(me) > 0);
    assert!(!process::open_fds(me).is_empty());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    assert!(process::listens(port));
    drop(listener);
    assert!(!process::listens(port));
}
