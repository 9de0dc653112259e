//! Session mode: what a client does over Howdah, it does as over PostgreSQL itself.
//!
//! Without a relay that keeps the order and the boundaries of messages, results are cut, mixed up or never come; without
//! back-pressure a big row eats the machine or both sides wait for each other for ever. Most bodies here run twice, on
//! PostgreSQL first and then through Howdah, so that a wrong expectation fails before Howdah is asked.

mod support;

use std::io::Write;
use std::time::Duration;

use support::wire;
use support::{Login, Pooler, Postgres, RawClient, process};

/// Runs `body` on PostgreSQL itself, then through Howdah, each time in a database of its own.
#[track_caller]
fn as_postgres_does(body: impl Fn(&Login)) {
    let postgres = Postgres::shared();
    body(&postgres.login().database(&postgres.database()));
    let pooler = Pooler::start();
    body(&pooler.login().database(&postgres.database()));
    pooler.stop();
}

fn tags(messages: &[support::Message]) -> Vec<u8> {
    messages.iter().map(|message| message.tag).collect()
}

#[test]
fn psql_runs_statements_and_scripts() {
    as_postgres_does(|login| {
        assert_eq!(login.psql("select 1 + 1, 'a'").ok(), "2|a");
        assert!(login.psql("select 1/0").fails().contains("22012"));
        let script = "create table t (a int);\ninsert into t select generate_series(1, 1000);\n\
                      begin;\ndelete from t;\nrollback;\nselect count(*), sum(a) from t;\n\\d t\n";
        let output = login.psql_script(script).ok();
        assert!(output.starts_with("1000|500500\n"), "{output}");
    });
}

#[test]
fn pgbench_runs_in_every_query_mode() {
    as_postgres_does(|login| {
        login.pgbench_tables();
        for mode in ["simple", "extended", "prepared"] {
            let output = login.pgbench(&["-M", mode, "-n", "-c", "8", "-j", "2", "-t", "50"]).ok();
            assert!(output.contains("transactions actually processed: 400/400"), "{mode}: {output}");
            assert!(output.contains("failed transactions: 0 "), "{mode}: {output}");
        }
    });
}

#[test]
fn pgbench_connects_anew_for_each_transaction() {
    as_postgres_does(|login| {
        login.pgbench_tables();
        let output = login.pgbench(&["-C", "-S", "-n", "-c", "4", "-j", "2", "-t", "50"]).ok();
        assert!(output.contains("transactions actually processed: 200/200"), "{output}");
        assert!(output.contains("failed transactions: 0 "), "{output}");
    });
}

#[test]
fn tokio_postgres_prepares_pipelines_and_rolls_back() {
    as_postgres_does(|login| {
        support::tokio_runtime().block_on(async {
            let (mut client, connection) =
                login.tokio().connect(tokio_postgres::NoTls).await.expect("connects");
            let driver = tokio::spawn(connection);
            client.batch_execute("create table t (id int primary key, name text)").await.expect("creates");
            let insert = client.prepare("insert into t values ($1, $2)").await.expect("prepares");
            let values: [[&(dyn tokio_postgres::types::ToSql + Sync); 2]; 2] =
                [[&1_i32, &"one"], [&2_i32, &"two"]];
            let [one, two] = &values;
            let (first, second) = tokio::join!(client.execute(&insert, one), client.execute(&insert, two));
            assert_eq!((first.expect("inserts"), second.expect("inserts")), (1, 1));
            let transaction = client.transaction().await.expect("begins");
            transaction.execute("delete from t", &[]).await.expect("deletes");
            transaction.rollback().await.expect("rolls back");
            let rows = client
                .query("select name from t where id > $1 order by id", &[&0_i32])
                .await
                .expect("selects");
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            assert_eq!(names, ["one", "two"]);
            let error = client.execute(&insert, one).await.expect_err("a duplicate key");
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("23505"));
            assert_eq!(client.query_one("select 3", &[]).await.expect("goes on").get::<_, i32>(0), 3);
            drop(client);
            driver.await.expect("no panic").expect("the connection ends well");
        });
    });
}

#[test]
fn copy_in_and_out_moves_every_row() {
    as_postgres_does(|login| {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let lines = (0..200_000)
            .fold(String::new(), |text, row| text + &format!("{row}\tthis is row number {row}\n"));
        file.write_all(lines.as_bytes()).expect("a temporary file can be written");
        let out = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let (from, to) = (file.path().display(), out.path().display());
        let script = format!("create table t (a int, b text);\n\\copy t from '{from}'\n\\copy t to '{to}'\n");
        login.psql_script(&script).ok();
        assert!(
            std::fs::read_to_string(out.path()).expect("written") == lines,
            "what was copied out is what went in"
        );
    });
}

#[test]
fn a_copy_that_the_client_gives_up_is_an_error_and_no_end() {
    as_postgres_does(|login| {
        let mut client = login.raw();
        client.run("create temp table t (a int)");
        client.send(&wire::query("copy t from stdin"));
        assert_eq!(client.read().tag, b'G');
        client.send(&[wire::copy_data(b"1\n"), wire::message(b'f', b"changed my mind\0")].concat());
        assert_eq!(client.read_error().code, "57014");
        client.read_until_ready();
        assert_eq!(client.value("select count(*) from t"), "0");
        client.terminate();
    });
}

#[test]
fn a_notification_reaches_an_idle_client_at_once() {
    as_postgres_does(|login| {
        let (mut listener, mut speaker) = (login.raw(), login.raw());
        listener.run("listen news");
        speaker.run("notify news, 'hello'");
        let notification = listener.read();
        assert_eq!(notification.tag, b'A');
        assert!(notification.body.ends_with(b"news\0hello\0"));
        listener.terminate();
        speaker.terminate();
    });
}

#[test]
fn large_objects_come_back_as_they_went() {
    as_postgres_does(|login| {
        let bytes: Vec<u8> =
            (0_u32..3_000_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        file.write_all(&bytes).expect("a temporary file can be written");
        let out = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let (from, to) = (file.path().display(), out.path().display());
        login.psql_script(&format!("\\lo_import '{from}'\n\\lo_export :LASTOID '{to}'\n")).ok();
        assert!(std::fs::read(out.path()).expect("exported") == bytes, "exported is what was imported");
    });
}

const BIG: usize = 64 * 1024 * 1024;

#[test]
fn a_row_of_64_mib_passes_in_bounded_memory() {
    let pooler = Pooler::start();
    let mut client = pooler.login().raw();
    let worker = pooler.worker_of(&client);
    client.send(&wire::query(&format!("select repeat('x', {BIG})")));
    let messages = client.read_until_ready();
    let row = messages.iter().find(|message| message.tag == b'D').expect("a row");
    assert_eq!(row.body.len(), BIG + 6);
    assert!(row.body[6..].iter().all(|&byte| byte == b'x'));
    let resident = process::resident_kib(worker);
    assert!(resident > 0 && resident < 32 * 1024, "the worker has {resident} KiB");
    client.terminate();
    pooler.stop();
}

#[test]
fn a_query_of_64_mib_passes_in_bounded_memory() {
    let pooler = Pooler::start();
    let mut client = pooler.login().raw();
    let worker = pooler.worker_of(&client);
    let query = format!("select length('{}')", "y".repeat(BIG));
    assert_eq!(client.value(&query), BIG.to_string());
    let resident = process::resident_kib(worker);
    assert!(resident > 0 && resident < 32 * 1024, "the worker has {resident} KiB");
    client.terminate();
    pooler.stop();
}

#[test]
fn a_client_that_does_not_read_holds_the_server_back() {
    let pooler = Pooler::start();
    let mut client = pooler.login().raw();
    let worker = pooler.worker_of(&client);
    client.send(&wire::query("select repeat('x', 1000) from generate_series(1, 200000)"));
    support::always_for(Duration::from_millis(500), "the worker's memory is bounded", || {
        process::resident_kib(worker) < 32 * 1024
    });
    let messages = client.read_until_ready();
    assert_eq!(messages.iter().filter(|message| message.tag == b'D').count(), 200_000);
    client.terminate();
    pooler.stop();
}

#[test]
fn a_thousand_pipelined_queries_are_answered_in_order() {
    as_postgres_does(|login| {
        let mut client = login.raw();
        let one = |number: usize| {
            [
                wire::parse("", "select $1::int"),
                wire::bind("", &[&number.to_string()]),
                wire::execute(),
                wire::sync(),
            ]
            .concat()
        };
        client.send(&(0..1000).flat_map(one).collect::<Vec<u8>>());
        for number in 0..1000 {
            let messages = client.read_until_ready();
            assert_eq!(tags(&messages), b"12DCZ", "answer {number}");
            assert!(messages[2].body.ends_with(number.to_string().as_bytes()), "answer {number}");
        }
        client.terminate();
    });
}

#[test]
fn an_error_in_a_pipeline_skips_to_the_sync_and_no_further() {
    as_postgres_does(|login| {
        let mut client = login.raw();
        let query = |sql: &str| [wire::parse("", sql), wire::bind("", &[]), wire::execute()].concat();
        client.send(
            &[query("select 1/0"), query("select 2"), wire::sync(), query("select 3"), wire::sync()].concat(),
        );
        let first = tags(&client.read_until_ready());
        assert!(first.ends_with(b"EZ") && !first.contains(&b'C'), "{first:?}");
        assert_eq!(tags(&client.read_until_ready()), b"12DCZ");
        client.terminate();
    });
}

#[test]
fn both_directions_full_at_once_is_no_deadlock() {
    as_postgres_does(|login| {
        // Each query is 64 KiB long and so is its answer. The server reads the next one when it has sent the last
        // answer, so a relay that waits until the server takes a query cannot deliver the answer that it waits for.
        const COUNT: usize = 400;
        let mut client = login.raw();
        let mut writer = client.second_handle();
        let sending = std::thread::spawn(move || {
            let query = wire::query(&format!("select repeat('z', 65536) /* {} */", "c".repeat(65_536)));
            for _ in 0..COUNT {
                writer.write_all(&query).expect("the peer takes the bytes");
            }
        });
        for number in 0..COUNT {
            let messages = client.read_until_ready();
            assert_eq!(tags(&messages), b"TDCZ", "answer {number}");
            assert_eq!(messages[1].body.len(), 65_536 + 6, "answer {number}");
        }
        sending.join().expect("all was sent");
        client.terminate();
    });
}

#[test]
fn a_query_followed_by_terminate_in_one_packet_gets_its_answer() {
    as_postgres_does(|login| {
        for _ in 0..20 {
            let mut client = login.raw();
            client.send(&[wire::query("select repeat('a', 100000)"), wire::terminate()].concat());
            let (messages, closed) = client.read_to_end(Duration::from_secs(20));
            assert!(closed, "the end follows the answer");
            assert_eq!(tags(&messages), b"TDCZ");
            assert_eq!(messages[1].body.len(), 100_006);
        }
    });
}

#[test]
fn messages_may_arrive_byte_by_byte() {
    as_postgres_does(|login| {
        let mut client = RawClient::connect(login.port);
        let parameters = [("user", login.user.as_str()), ("database", login.database.as_str())];
        for byte in wire::startup(wire::PROTOCOL_3_0, &parameters) {
            client.send(&[byte]);
        }
        client.finish_log_in(None).expect("trusted");
        for byte in [wire::query("select 'bytes'"), wire::query("select 'more'")].concat() {
            client.send(&[byte]);
        }
        assert_eq!(tags(&client.read_until_ready()), b"TDCZ");
        assert_eq!(tags(&client.read_until_ready()), b"TDCZ");
        client.terminate();
    });
}

#[test]
fn bytes_that_look_like_terminate_inside_a_message_end_nothing() {
    as_postgres_does(|login| {
        let mut client = login.raw();
        // Sent in pieces so that one piece begins with what would be a Terminate message.
        let query = wire::query("select 'XXXX' /* X\u{1}\u{1}\u{1}\u{4} */");
        let at = query.windows(2).position(|pair| pair == b" X").expect("it is there") + 1;
        client.send(&query[..at]);
        assert!(client.is_silent_for(Duration::from_millis(50)));
        client.send(&query[at..]);
        assert_eq!(tags(&client.read_until_ready()), b"TDCZ");
        client.run("create temp table t (a text)");
        client.send(&wire::query("copy t from stdin"));
        assert_eq!(client.read().tag, b'G');
        client.send(&wire::copy_data(&wire::terminate()[..1]));
        client.send(&[wire::copy_data(b"\n"), wire::copy_done()].concat());
        client.read_until_ready();
        assert_eq!(client.value("select a from t"), "X");
        client.terminate();
    });
}

#[test]
fn the_process_id_of_backend_key_data_is_the_backends() {
    as_postgres_does(|login| {
        for _ in 0..3 {
            let mut client = login.raw();
            assert_eq!(client.value("select pg_backend_pid()"), client.process_id.to_string());
            client.terminate();
        }
    });
}

#[test]
fn all_parameters_are_reported_as_the_server_sends_them() {
    let postgres = Postgres::shared();
    let direct = postgres.login().raw();
    let pooler = Pooler::start();
    for session in ["first", "second, on a pooled connection"] {
        let client = pooler.login().raw();
        assert_eq!(client.parameters, direct.parameters, "{session}");
        client.terminate();
    }
    pooler.stop();
}

#[test]
fn a_changed_parameter_is_reported() {
    as_postgres_does(|login| {
        let mut client = login.raw();
        client.run("set application_name = 'changed'");
        assert_eq!(client.parameters.get("application_name").map(String::as_str), Some("changed"));
        client.terminate();
    });
}

#[test]
fn startup_parameters_are_honoured_and_reset_returns_to_them() {
    // One server connection for all sessions: whatever a session before had at startup must not shine through.
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    let database = Postgres::shared().database();
    let logins = [
        ("4MB", "ISO, MDY", pooler.login()),
        ("1234kB", "ISO, MDY", pooler.login().options("-c work_mem=1234kB")),
        ("4MB", "German, DMY", pooler.login().parameter("DateStyle", "german")),
        ("2MB", "SQL, DMY", pooler.login().options("-c work_mem=2MB").parameter("datestyle", "sql, dmy")),
        ("4MB", "ISO, MDY", pooler.login()),
    ];
    for round in 0..2 {
        for (work_mem, date_style, login) in &logins {
            let mut client = login.clone().database(&database).raw();
            let context = format!("round {round}, {login:?}");
            assert_eq!(client.value("show work_mem"), *work_mem, "{context}");
            assert_eq!(client.value("show datestyle"), *date_style, "{context}");
            assert_eq!(
                client.parameters.get("DateStyle").map(String::as_str),
                Some(*date_style),
                "{context}"
            );
            client.run("set work_mem = '99MB'; set datestyle = 'postgres'");
            client.run("reset work_mem; reset datestyle");
            assert_eq!(client.value("show work_mem"), *work_mem, "after RESET, {context}");
            assert_eq!(client.value("show datestyle"), *date_style, "after RESET, {context}");
            client.run("set work_mem = '99MB'; reset all");
            assert_eq!(client.value("show work_mem"), *work_mem, "after RESET ALL, {context}");
            client.run("set work_mem = '99MB'");
            client.run("discard all");
            assert_eq!(client.value("show work_mem"), *work_mem, "after DISCARD ALL, {context}");
            client.terminate();
        }
    }
    pooler.stop();
}

#[test]
fn a_wrong_startup_parameter_is_the_servers_error() {
    as_postgres_does(|login| {
        let error = login.clone().parameter("no_such_parameter", "1").try_raw().err().expect("refused");
        assert_eq!(error.code, "42704");
        let error = login.clone().options("-c work_mem=many").try_raw().err().expect("refused");
        assert_eq!(error.code, "22023");
        login.raw().terminate();
    });
}

#[test]
fn ssl_and_gssapi_requests_are_answered_before_the_startup() {
    // Not compared with PostgreSQL, whose answers depend on how it was built.
    let pooler = Pooler::start();
    let login = pooler.login();
    for requests in
        [&[wire::SSL_REQUEST][..], &[wire::GSSENC_REQUEST], &[wire::GSSENC_REQUEST, wire::SSL_REQUEST]]
    {
        let mut client = RawClient::connect(login.port);
        for &code in requests {
            client.send(&wire::request(code));
            assert_eq!(client.read_bytes(1), b"N");
        }
        client.send_startup(&login);
        client.finish_log_in(None).expect("trusted");
        assert_eq!(client.value("select 1"), "1");
        client.terminate();
    }
    pooler.stop();
}

#[test]
fn later_protocol_versions_and_unknown_options_are_negotiated_down() {
    as_postgres_does(|login| {
        for (version, extension) in [(0x0003_270F, None), (wire::PROTOCOL_3_0, Some("_pq_.later"))] {
            let mut client = RawClient::connect(login.port);
            let mut parameters = vec![("user", login.user.as_str()), ("database", login.database.as_str())];
            parameters.extend(extension.map(|name| (name, "on")));
            client.send(&wire::startup(version, &parameters));
            let answer = client.read();
            assert_eq!(answer.tag, b'v', "{version:#x}");
            let unknown =
                extension.map_or(vec![0, 0, 0, 0], |name| [vec![0, 0, 0, 1], wire::cstr(name)].concat());
            assert!(answer.body.ends_with(&unknown), "{version:#x}: {:?}", answer.body);
            client.finish_log_in(None).expect("trusted");
            assert_eq!(client.value("select 1"), "1");
            client.terminate();
        }
    });
}

#[test]
fn protocol_3_2_is_spoken_and_its_cancel_key_works() {
    // PostgreSQL 15 does not speak it, but the key is Howdah's own.
    let pooler = Pooler::start();
    let mut client = RawClient::connect(pooler.port());
    client.send(&wire::startup(wire::PROTOCOL_3_2, &[("user", "postgres"), ("database", "postgres")]));
    client.finish_log_in(None).expect("trusted");
    assert!((4..=256).contains(&client.secret.len()), "{} bytes", client.secret.len());
    client.send(&wire::query("select pg_sleep(60)"));
    assert!(client.is_silent_for(Duration::from_millis(200)));
    let mut canceller = RawClient::connect(pooler.port());
    canceller.send(&wire::cancel(client.process_id, &client.secret));
    assert_eq!(client.read_error().code, "57014");
    drop((client, canceller));
    pooler.stop();
}

#[test]
fn clients_may_come_by_unix_socket() {
    let pooler = Pooler::start();
    let login = pooler.login().host(&pooler.dir().display().to_string());
    assert_eq!(login.psql("select 'unix'").ok(), "unix");
    pooler.stop();
}

#[test]
fn the_next_session_gets_the_pooled_connection() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 2").start();
    let backends: Vec<i32> = (0..5)
        .map(|_| {
            let client = pooler.login().raw();
            let pid = client.process_id;
            client.terminate();
            pooler.wait_until_quiet();
            pid
        })
        .collect();
    assert!(backends.iter().all(|pid| *pid == backends[0]), "one connection serves all: {backends:?}");
    pooler.stop();
}

#[test]
fn replication_connections_pass_through_unpooled() {
    let postgres = Postgres::private();
    let pooler = Pooler::with("[howdah]\nmax_connections = 2").server(&postgres).start();
    for login in [postgres.login(), pooler.login()] {
        let mut client = login.clone().parameter("replication", "database").raw();
        let rows = client.query("IDENTIFY_SYSTEM").expect("a replication command");
        assert_eq!(rows.first().and_then(|row| row.get(3).cloned()), Some(Some("postgres".into())));
        assert_eq!(client.value("select 1"), "1", "a logical walsender runs SQL too");
        client.terminate();
        let copy = tempfile::tempdir().expect("a temporary folder can be made");
        let target = copy.path().join("base").display().to_string();
        login.client("pg_basebackup", &["-D", &target, "-X", "stream", "-c", "fast", "--no-sync"]).ok();
        assert!(copy.path().join("base/PG_VERSION").exists());
    }
    // Such a connection is never given to an ordinary client.
    pooler.wait_until_quiet();
    assert_eq!(
        pooler.login().psql("select backend_type from pg_stat_activity where pid = pg_backend_pid()").ok(),
        "client backend"
    );
    assert_eq!(postgres.sql("select count(*) from pg_stat_activity where backend_type = 'walsender'"), "0");
    pooler.stop();
}

#[test]
fn a_client_that_vanishes_frees_its_server_connection() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    for _ in 0..5 {
        let mut client = pooler.login().raw();
        assert_eq!(client.value("select 1"), "1");
        drop(client);
    }
    let half_closed = pooler.login().raw();
    half_closed.close_write();
    assert_eq!(pooler.login().raw().value("select 'served'"), "served");
    pooler.stop();
}
