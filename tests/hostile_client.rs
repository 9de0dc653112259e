//! Bytes that no honest client sends.
//!
//! What used to happen to poolers here: a length of 2 GiB is believed and allocated; a negative one ends in an endless
//! loop; a half message holds a server connection for ever; a parser's panic takes all clients down. After each case the
//! daemon must answer `ping`, serve the next client, and hold no more descriptors or memory than before.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::wire::{self, PROTOCOL_3_0};
use support::{PATIENCE, Pooler, RawClient, eventually, process};

/// What the client must get.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// An ErrorResponse with this SQLSTATE, then the end.
    Error(&'static str),
    /// The end, with or without an ErrorResponse of class 08 (protocol) before it.
    Closed,
    /// The end without an answer: nobody is owed one.
    Silence,
}

fn untagged_length(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

fn startup_with(body: &[u8]) -> Vec<u8> {
    wire::untagged(&[&PROTOCOL_3_0.to_be_bytes()[..], body].concat())
}

/// Malformed startup packets, each by what is wrong with it.
fn malformed_startups() -> Vec<(&'static str, Vec<u8>, Expect)> {
    use Expect::{Closed, Error, Silence};
    let user = b"user\0postgres\0";
    let many: Vec<u8> = (0..400).flat_map(|n| format!("p{n}\0v{n}\0").into_bytes()).collect();
    vec![
        ("a length of 0", untagged_length(0, &[]), Closed),
        ("a length of 1", untagged_length(1, &[]), Closed),
        ("a length of 3", untagged_length(3, &[]), Closed),
        ("a length of 4, nothing else", untagged_length(4, &[]), Closed),
        ("a length of 7, half a version", untagged_length(7, &[0, 3, 0]), Closed),
        ("a length of -1", untagged_length(u32::MAX, &[0, 3, 0, 0]), Closed),
        ("the most negative length", untagged_length(0x8000_0000, &[0, 3, 0, 0]), Closed),
        ("a length of 2 GiB - 1", untagged_length(0x7fff_ffff, &[0, 3, 0, 0]), Closed),
        (
            "a length of 2 GiB - 1 and many bytes",
            [untagged_length(0x7fff_ffff, &[0, 3, 0, 0]), vec![b'a'; 100_000]].concat(),
            Closed,
        ),
        ("a length of 1 MiB", untagged_length(1 << 20, &[0, 3, 0, 0]), Closed),
        ("a length of 10,001", untagged_length(10_001, &[0, 3, 0, 0]), Closed),
        ("no parameters at all", startup_with(&[]), Closed),
        ("an empty list of parameters", startup_with(&[0]), Error("28000")),
        ("no user", startup_with(b"database\0postgres\0\0"), Error("28000")),
        ("an empty user", startup_with(b"user\0\0\0"), Error("28000")),
        ("no terminator", startup_with(user), Closed),
        ("a name without a value", startup_with(b"user\0postgres\0database\0\0"), Closed),
        ("a name whose value is not ended", startup_with(b"user\0postgres\0database\0postg"), Closed),
        ("bytes after the terminator", startup_with(b"user\0postgres\0\0garbage\0"), Closed),
        ("a name that is not ended", startup_with(b"user"), Closed),
        ("only zero bytes", startup_with(&[0; 100]), Closed),
        ("a user of 5,000 bytes", startup_with(&[b"user\0", &[b'u'; 5000][..], b"\0\0"].concat()), Closed),
        ("bytes that are not UTF-8", startup_with(b"user\0\xff\xfe\xc0\x80\0\0"), Closed),
        ("400 unknown parameters", startup_with(&[&user[..], &many, b"\0"].concat()), Closed),
        (
            "an unknown value of replication",
            startup_with(&[&user[..], b"replication\0perhaps\0\0"].concat()),
            Closed,
        ),
        ("protocol 0.0", wire::startup(0, &[("user", "postgres")]), Closed),
        ("protocol 1.0", wire::startup(0x0001_0000, &[("user", "postgres")]), Closed),
        ("protocol 2.0", wire::startup(0x0002_0000, &[("user", "postgres")]), Closed),
        ("protocol 4.0", wire::startup(0x0004_0000, &[("user", "postgres")]), Closed),
        ("protocol 65535.65535", wire::startup(u32::MAX, &[("user", "postgres")]), Closed),
        ("an unknown request code", wire::request(80_877_199), Closed),
        (
            "an SSLRequest with a body",
            wire::untagged(&[&wire::SSL_REQUEST.to_be_bytes()[..], b"extra"].concat()),
            Closed,
        ),
        (
            "two SSLRequests",
            [wire::request(wire::SSL_REQUEST), wire::request(wire::SSL_REQUEST)].concat(),
            Closed,
        ),
        (
            "two GSSENCRequests",
            [wire::request(wire::GSSENC_REQUEST), wire::request(wire::GSSENC_REQUEST)].concat(),
            Closed,
        ),
        ("a CancelRequest without a key", wire::request(wire::CANCEL_REQUEST), Silence),
        ("a CancelRequest with half a key", wire::cancel(1, &[1, 2]), Silence),
        ("a CancelRequest with a key of 5,000 bytes", wire::cancel(1, &[7; 5000]), Silence),
        ("a CancelRequest for nobody", wire::cancel(-1, &[0; 4]), Silence),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Closed),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaa".to_vec(),
            Closed,
        ),
        ("an SSH greeting", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(), Closed),
        ("a Query before the startup", wire::query("select 1"), Closed),
        ("a Terminate before the startup", wire::terminate(), Closed),
        (
            "random bytes",
            (0_u32..999).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect(),
            Closed,
        ),
    ]
}

/// Reads what comes after bytes that nobody should send, and checks it.
#[track_caller]
fn check(name: &str, mut client: RawClient, expect: Expect) {
    let mut answer = client.second_handle();
    answer.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out above zero");
    let mut bytes = Vec::new();
    // A reset is an end as well: the daemon closed with our bytes unread.
    if let Err(error) = answer.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{name}: the connection stays open");
    }
    client.set_read_timeout(Duration::from_secs(1));
    let at = bytes.iter().position(|&byte| byte == b'E');
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match expect {
        Expect::Silence => assert!(bytes.is_empty(), "{name}: {text:?}"),
        Expect::Error(code) => {
            assert!(at.is_some() && text.contains(&format!("C{code}\0")), "{name}: {text:?}")
        }
        Expect::Closed => {
            let known = ["C08", "C0A000", "C22", "C28", "C42"].iter().any(|class| text.contains(class));
            assert!(at.is_none() || known, "{name}: {text:?}");
            assert!(!text.contains("ready"), "{name}: {text:?}");
        }
    }
}

#[test]
fn malformed_startups_are_refused_and_the_daemon_stays_up() {
    let pooler = Pooler::with("[timeouts]\nauthentication_timeout = \"2s\"").start();
    pooler.login().raw().terminate();
    let descriptors = pooler.bare_descriptors();
    let cases = malformed_startups();
    assert!(cases.len() >= 30);
    // All at once: those that wait for the time-out wait together.
    let clients: Vec<(&str, RawClient, Expect)> = cases
        .into_iter()
        .map(|(name, bytes, expect)| {
            let mut client = RawClient::connect(pooler.port());
            // The daemon may close as soon as it has seen enough.
            let _ = client.try_send(&bytes);
            (name, client, expect)
        })
        .collect();
    assert_eq!(pooler.login().psql("select 'served meanwhile'").ok(), "served meanwhile");
    for (name, client, expect) in clients {
        check(name, client, expect);
    }
    pooler.cli(&["ping"]).ok();
    assert_eq!(pooler.bare_descriptors(), descriptors);
    assert_eq!(pooler.number("/totals/crashed"), 0, "no worker crashed:\n{}", pooler.log());
    pooler.stop();
}

#[test]
fn half_startups_are_closed_when_their_time_is_over() {
    let pooler = Pooler::with("[timeouts]\nauthentication_timeout = \"1s\"").start();
    let whole = wire::startup(PROTOCOL_3_0, &[("user", "postgres"), ("database", "postgres")]);
    let clients: Vec<RawClient> = (0..whole.len())
        .map(|length| {
            let mut client = RawClient::connect(pooler.port());
            client.send(&whole[..length]);
            client
        })
        .collect();
    for (length, client) in clients.into_iter().enumerate() {
        check(&format!("the first {length} bytes"), client, Expect::Closed);
    }
    pooler.wait_until_quiet();
    assert_eq!(pooler.number("/totals/crashed"), 0);
    pooler.stop();
}

#[test]
fn a_slow_sender_cannot_stretch_its_time() {
    // One byte now and then: each is progress, and yet the whole must be there in time.
    let pooler = Pooler::with("[timeouts]\nauthentication_timeout = \"1s\"").start();
    let whole =
        wire::startup(PROTOCOL_3_0, &[("user", "postgres"), ("application_name", &"slow".repeat(50))]);
    let mut client = RawClient::connect(pooler.port());
    let begin = Instant::now();
    let mut sent = 0;
    for byte in whole {
        if client.try_send(&[byte]).is_err() || !client.is_silent_for(Duration::from_millis(50)) {
            break;
        }
        sent += 1;
    }
    let taken = begin.elapsed();
    assert!(taken < Duration::from_secs(5), "closed after {taken:?} and {sent} bytes");
    check("a slow sender", client, Expect::Closed);
    pooler.login().raw().terminate();
    pooler.stop();
}

#[test]
fn wrong_answers_to_an_authentication_request_are_refused() {
    let rule = |method: &str| {
        format!(
            "[[hba]]\ntype = \"host\"\ndatabase = \"all\"\nuser = \"all\"\naddress = \"all\"\nmethod = \"{method}\"\n"
        )
    };
    let huge = |tag: u8| [vec![tag], 0x7fff_ffff_u32.to_be_bytes().to_vec(), vec![b'p'; 70_000]].concat();
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("a Query", wire::query("select 1")),
        ("a Terminate", wire::terminate()),
        ("an empty message", wire::message(b'p', &[])),
        ("no terminator", wire::message(b'p', b"abc")),
        ("two strings", wire::message(b'p', b"abc\0def\0")),
        ("a length of 0", [&b"p"[..], &[0; 4]].concat()),
        ("a length of 3", [&b"p"[..], &[0, 0, 0, 3]].concat()),
        ("a negative length", [&b"p"[..], &[0xff; 4]].concat()),
        ("a length of 2 GiB", huge(b'p')),
        ("another tag and a length of 2 GiB", huge(b'Q')),
        ("not UTF-8", wire::message(b'p', b"\xff\xff\0")),
        (
            "a SASL answer with a wrong length",
            wire::message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x"),
        ),
        ("a SASL answer with an unknown mechanism", wire::message(b'p', b"SCRAM-SHA-1\0\0\0\0\x08n,,n=,r=")),
        ("a SASL answer without a nonce", wire::message(b'p', b"SCRAM-SHA-256\0\0\0\0\x08n,,n=,r=")),
        ("a SASL answer with channel binding", wire::message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bp=x,,n=,r=a")),
        ("a SASL answer of commas", wire::message(b'p', b"SCRAM-SHA-256\0\0\0\0\x08,,,,,,,,")),
        ("a SASL answer of zeros", wire::message(b'p', &[0; 64])),
    ];
    for method in ["password", "md5", "scram-sha-256"] {
        let pooler = Pooler::with(&rule(method)).and("[timeouts]\nauthentication_timeout = \"3s\"").start();
        for (name, bytes) in &answers {
            let mut client = RawClient::connect(pooler.port());
            client.send_startup(&pooler.login().user("plain_user"));
            assert_eq!(client.read().tag, b'R');
            // The daemon may close as soon as it has seen enough.
            let _ = client.try_send(bytes);
            check(&format!("{method}: {name}"), client, Expect::Closed);
        }
        assert_eq!(pooler.login().known("plain_user").psql("select 1").ok(), "1");
        assert_eq!(pooler.number("/totals/crashed"), 0, "{method}:\n{}", pooler.log());
        pooler.stop();
    }
}

#[test]
fn malformed_messages_in_a_session_end_it_and_free_the_slot() {
    let pooler = Pooler::with("[howdah]\nmax_connections = 1").start();
    pooler.login().raw().terminate();
    let descriptors = pooler.bare_descriptors();
    let head = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a Query of length 0", head(b'Q', 0)),
        ("a Query of length 3", head(b'Q', 3)),
        ("a Query of length -1", head(b'Q', u32::MAX)),
        ("a Query of the most negative length", head(b'Q', 0x8000_0000)),
        ("a Query of 2 GiB", [head(b'Q', 0x7fff_ffff), vec![b'q'; 300_000]].concat()),
        ("a Terminate of length 0", head(b'X', 0)),
        ("a Terminate with a negative length", head(b'X', u32::MAX)),
        ("an unknown tag", wire::message(0, b"zero")),
        ("an unknown tag of high value", wire::message(0xff, b"high")),
        ("a startup packet", wire::startup(PROTOCOL_3_0, &[("user", "postgres")])),
        ("a server's message", wire::message(b'Z', b"I")),
    ];
    for (name, bytes) in cases {
        let mut client = pooler.login().raw();
        // The daemon or the server may close as soon as it has seen enough.
        let _ = client.try_send(&bytes);
        let (messages, closed) = client.read_to_end(Duration::from_millis(500));
        if let Some(error) = RawClient::first_error(&messages) {
            assert!(error.code.starts_with("08"), "{name}: {error:?}");
        }
        // Where the length may still be honest, the daemon waits for the rest: then it is the client who leaves.
        assert!(closed || name.contains("2 GiB"), "{name}: {messages:?}");
        drop(client);
        let mut next = pooler.login().raw();
        assert_eq!(next.query("select 'mine'"), Ok(vec![vec![Some("mine".into())]]), "after {name}");
        next.terminate();
    }
    assert_eq!(pooler.bare_descriptors(), descriptors);
    assert_eq!(pooler.number("/totals/crashed"), 0, "no worker crashed:\n{}", pooler.log());
    pooler.stop();
}

#[test]
fn claims_of_2_gib_are_not_believed_with_memory() {
    let pooler = Pooler::start();
    let memory = |pids: &[i32]| pids.iter().map(|pid| process::resident_kib(*pid)).max().unwrap_or(0);
    let mut client = pooler.login().raw();
    let worker = pooler.worker_of(&client);
    let before = memory(&[worker]);
    client.send(&[b'd', 0x3f, 0xff, 0xff, 0xff]);
    // A thousand chunks of a message that is said to be 1 GiB long; the server discards them, nobody keeps them.
    let chunk = vec![b'x'; 65_536];
    for _ in 0..1000 {
        if client.try_send(&chunk).is_err() {
            break;
        }
    }
    let after = memory(&[worker, pooler.main_pid()]);
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB after");
    drop(client);
    pooler.login().raw().terminate();
    pooler.stop();
}

#[test]
fn a_flood_of_connections_that_say_nothing_keeps_nobody_out() {
    support::raise_descriptor_limit();
    let pooler = Pooler::with("[howdah]\nmax_clients = 60\nmax_startups = \"30:100:40\"\n[timeouts]\nauthentication_timeout = \"2s\"").start();
    let flood: Vec<RawClient> = (0..200).filter_map(|_| RawClient::try_connect(pooler.port()).ok()).collect();
    pooler.cli(&["ping"]).ok();
    assert!(pooler.workers().len() <= 60, "{} workers", pooler.workers().len());
    eventually("an honest client is served when the time of the others is over", || {
        pooler.login().psql("select 1").code == 0
    });
    drop(flood);
    pooler.wait_until_quiet();
    pooler.stop();
}

/// A management frame as in `src/management/frame.rs`, written anew here: version, id, reserved, slot, length, body.
fn frame(version: u8, id: u8, reserved: u16, slot: i32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, id];
    bytes.extend(reserved.to_be_bytes());
    bytes.extend(slot.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn garbage_on_the_management_socket_is_refused() {
    let pooler = Pooler::start();
    pooler.cli(&["ping"]).ok();
    let descriptors = pooler.bare_descriptors();
    let memory = process::resident_kib(pooler.main_pid());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("text", b"hello, are you there?\n".to_vec()),
        ("zeros", vec![0; 5000]),
        ("ones", vec![0xff; 5000]),
        ("a startup packet", wire::startup(PROTOCOL_3_0, &[("user", "postgres")])),
        ("another version", frame(9, 1, 0, -1, 0, &[])),
        ("reserved bytes", frame(1, 1, 7, -1, 0, &[])),
        ("an unknown id", frame(1, 99, 0, -1, 0, &[])),
        ("a reply instead of a request", frame(1, 128, 0, -1, 0, &[])),
        ("a slot where none belongs", frame(1, 1, 0, 3, 0, &[])),
        ("a ping with a body", frame(1, 1, 0, -1, 3, b"abc")),
        ("a length of 4 GiB", frame(1, 1, 0, -1, u32::MAX, &[0; 1000])),
        ("a length of 2 GiB", frame(1, 9, 0, -1, 0x7fff_ffff, &[0; 1000])),
        ("a flush of an unknown kind", frame(1, 3, 0, -1, 2, &[77, 0])),
        ("a flush without its body", frame(1, 3, 0, -1, 0, &[])),
        ("a text longer than its body", frame(1, 9, 0, -1, 8, &[0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4])),
        ("a text that is not UTF-8", frame(1, 9, 0, -1, 5, &[0, 0, 0, 1, 0xff])),
    ];
    for (name, bytes) in &cases {
        let mut socket = UnixStream::connect(pooler.management_socket()).expect("the socket is there");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out above zero");
        // The daemon may close as soon as it has seen enough.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{name} is not answered")
            }
        }
        assert!(answer.is_empty() || answer.get(1) == Some(&129), "{name}: refused, if answered: {answer:?}");
    }
    pooler.cli(&["ping"]).ok();
    assert_eq!(pooler.bare_descriptors(), descriptors);
    let now = process::resident_kib(pooler.main_pid());
    assert!(now < memory + 4096, "main grew from {memory} to {now} KiB");
    pooler.stop();
}

#[test]
fn half_requests_on_the_management_socket_block_nobody() {
    let pooler = Pooler::start();
    let descriptors = pooler.bare_descriptors();
    let halves: Vec<UnixStream> = (0..12)
        .map(|length| {
            let mut socket = UnixStream::connect(pooler.management_socket()).expect("the socket is there");
            socket.write_all(&frame(1, 1, 0, -1, 0, &[])[..length]).expect("sent");
            socket
        })
        .collect();
    let begin = Instant::now();
    pooler.cli(&["ping"]).ok();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(pooler.login().psql("select 1").ok(), "1");
    drop(halves);
    assert_eq!(pooler.bare_descriptors(), descriptors);
    pooler.stop();
}

#[test]
fn more_operators_than_there_are_places_for_do_not_lock_the_socket() {
    let pooler = Pooler::start();
    let crowd: Vec<UnixStream> =
        (0..200).filter_map(|_| UnixStream::connect(pooler.management_socket()).ok()).collect();
    assert_eq!(pooler.login().psql("select 1").ok(), "1", "clients are served meanwhile");
    drop(crowd);
    eventually("an operator is served again", || pooler.cli(&["ping"]).code == 0);
    pooler.stop();
}
