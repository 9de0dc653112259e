//! The configuration as a person meets it: what a mistake is told as, what the manual and the sample file say.
//!
//! Without these a message could lose its line or its list of accepted values, a key could be missing in the manual, or
//! the sample file could be one that Howdah itself refuses; each test compares whole texts, so it would notice.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use howdah::config::{
    self, Errors, Loaded, MaxStartups, ServerHost, Validation, default_config_text, difference, keys, load,
    load_text, manual_table,
};

/// A path that is not there: only its directory counts, for relative paths.
const PATH: &str = "/etc/howdah/howdah.toml";
const SERVER: &str = "[servers.main]\nhost = \"localhost\"\n";

fn messages(found: Result<Loaded, Errors>) -> String {
    match found {
        Ok(_) => "valid".to_owned(),
        Err(errors) => errors.to_string().replace("/etc/howdah/", ""),
    }
}

fn valid(text: &str) -> Loaded {
    load_text(text, Path::new(PATH)).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}

fn warnings(text: &str) -> Vec<String> {
    valid(text).warnings.iter().map(|it| it.to_string().replace("/etc/howdah/", "")).collect()
}

/// `text` stands before a valid server, so its lines count from 1.
fn check(text: &str, expected: &str) {
    let found = messages(load_text(format!("{text}\n{SERVER}"), Path::new(PATH)));
    assert_eq!(found, expected, "for\n{text}");
}

#[test]
fn typical_mistakes_are_told_with_line_key_value_and_what_is_accepted() {
    check("[howdah]\nprot = 6432", "howdah.toml:2: howdah.prot: unknown key; did you mean `port`?");
    check(
        "[howdah]\nport = 70000",
        "howdah.toml:2: howdah.port = 70000: is out of range; accepted: 1 to 65535",
    );
    check(
        "[howdah]\nport = \"6432\"",
        "howdah.toml:2: howdah.port = \"6432\": must be an integer; accepted: 1 to 65535",
    );
    check(
        "[howdah]\n\nmax_clients = -1",
        "howdah.toml:3: howdah.max_clients = -1: is out of range; accepted: 1 to 1000000",
    );
    check("[howdha]\nport = 1", "howdah.toml:1: howdha: unknown section; did you mean `howdah`?");
    check("port = 6432", "howdah.toml:1: port: stands in no section; it belongs to [howdah]");
    check(
        "[howdah]\nauthentication_timeout = \"5s\"",
        "howdah.toml:2: howdah.authentication_timeout: unknown key here; it belongs to [timeouts]",
    );
    check(
        "[timeouts]\nwait_timeout = 30",
        "howdah.toml:2: timeouts.wait_timeout = 30: a unit is missing; did you mean \"30s\"?; accepted: \"1ms\" to \
         \"30d\", or \"off\"",
    );
    check(
        "[timeouts]\nconnect_timeout = \"5m\"",
        "howdah.toml:2: timeouts.connect_timeout = \"5m\": `m` is not a unit; accepted: \"100ms\" to \"10min\"",
    );
    check(
        "[timeouts]\nconnect_timeout = 0",
        "howdah.toml:2: timeouts.connect_timeout = 0: is out of range; accepted: \"100ms\" to \"10min\"",
    );
    check(
        "[log]\nlevel = \"warning\"",
        "howdah.toml:2: log.level = \"warning\": is not known; did you mean `warn`?; accepted: \"error\", \"warn\", \
         \"info\", \"debug\", \"trace\"",
    );
    check(
        "[tcp]\nnodelay = \"on\"",
        "howdah.toml:2: tcp.nodelay = \"on\": must be a boolean; accepted: true or false",
    );
    check(
        "[tcp]\nkeepalives_idle = \"1500ms\"",
        "howdah.toml:2: tcp.keepalives_idle = \"1500ms\": is not a whole number of seconds; accepted: \"1s\" to \
         \"9h\", or \"system\"",
    );
    check(
        "[howdah]\nunix_socket_permissions = \"0888\"",
        "howdah.toml:2: howdah.unix_socket_permissions = \"0888\": is not a mode; accepted: octal, \"0000\" to \"0777\"",
    );
    check(
        "[howdah]\nlisten_addresses = [\"127.0.0.1\",\n \"localhost\"]",
        "howdah.toml:3: howdah.listen_addresses = \"localhost\": 127.0.0.1:6432 is listed twice",
    );
    check(
        "[howdah]\nlisten_addresses = []",
        "howdah.toml:2: howdah.listen_addresses: is empty, and so is unix_socket_directories: no client could connect",
    );
    check(
        "[[pools]]\nsize = 200",
        "howdah.toml:2: pools.0.size = 200: is more than [howdah] max_connections, 100",
    );
    check(
        "[[pools]]\nmin_size = 5\n[[pools]]\ndatabase = \"d\"\nuser = \"u\"\nsize = 2\nmin_size = 3",
        "howdah.toml:2: pools.0.min_size = 5: needs a database and a user without \"*\": for which would connections \
         be opened?\nhowdah.toml:7: pools.1.min_size = 3: is more than size, 2",
    );
    check(
        "[[pools]]\nserver = \"mian\"",
        "howdah.toml:2: pools.0.server = \"mian\": is not a server; did you mean `main`?; accepted: \"main\"",
    );
    check("[pools]\nsize = 3", "howdah.toml:1: pools: must be written with two brackets: [[pools]]");
    check(
        "[[pools]]\nvalidation = \"background 0s\"",
        "howdah.toml:2: pools.0.validation = \"background 0s\": is out of range; accepted: \"off\", \"foreground\", \
         \"background\" (every 30s), \"background 1s\" to \"background 1d\"",
    );
    check(
        "[servers.other]\nhost = \"10.0.0.1:5433\"",
        "howdah.toml:2: servers.other.host = \"10.0.0.1:5433\": holds a port; write port = 5433 beside it; accepted: \
         an IP address, a host name, or a directory of a Unix socket that begins with /\n\
         howdah.toml: pools.0.server: is missing, and there are several servers; accepted: \"other\", \"main\"",
    );
}

#[test]
fn typical_mistakes_in_hba_rules_are_told() {
    const NETWORKS: &str = "\"all\", \"samehost\", \"samenet\", an IP address with /bits or a mask behind it";
    check(
        "[[hba]]\ntype = \"hostssl\"\naddress = \"all\"\nmethod = \"md5\"",
        "howdah.toml:2: hba.0.type = \"hostssl\": is not available: this version has no TLS to clients; accepted: \
         \"local\", \"host\", \"hostnossl\"",
    );
    check(
        "[[hba]]\ntype = \"local\"\naddress = \"all\"\nmethod = \"md5\"",
        "howdah.toml:3: hba.0.address = \"all\": is not allowed with type = \"local\"",
    );
    check(
        "[[hba]]\ntype = \"host\"\nmethod = \"md5\"",
        "howdah.toml:1: hba.0.address: is missing; accepted: \"all\", or for example \"10.0.0.0/8\"",
    );
    check(
        "[[hba]]\ntype = \"local\"",
        "howdah.toml:1: hba.0.method: is missing; accepted: \"trust\", \"reject\", \"password\", \"md5\", \
         \"scram-sha-256\"",
    );
    check(
        "[[hba]]\ntype = \"local\"\nmethod = \"peer\"",
        "howdah.toml:3: hba.0.method = \"peer\": is a method of PostgreSQL that howdah does not have; accepted: \
         \"trust\", \"reject\", \"password\", \"md5\", \"scram-sha-256\"",
    );
    let address = |address: &str, message: &str| {
        let text = format!("[[hba]]\ntype = \"host\"\naddress = \"{address}\"\nmethod = \"md5\"");
        check(
            &text,
            &format!("howdah.toml:3: hba.0.address = \"{address}\": {message}; accepted: {NETWORKS}"),
        );
    };
    address("10.0.0.1", "has no /bits; did you mean \"10.0.0.1/32\"?");
    address("10.0.0.0/33", "has too many bits");
    address("10.0.0.0 255.0.255.0", "has a mask that does not fit");
    address("db.example.com", "is not an address; host names are not supported");
    check(
        "[[hba]]\ntype = \"local\"\nuser = [\"a\", \"+admins\"]\nmethod = \"md5\"",
        "howdah.toml:3: hba.0.user = \"+admins\": needs roles, which only PostgreSQL knows; accepted: \"all\", names; \
         \"*\" in a name stands for any characters",
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "[howdah]\nport = 0\n[[pools]]\nsize = 0\nmode = \"transaction\"\n[log]\nlevel = 3\n[timeouts]\nfoo = 1\n";
    assert_eq!(
        messages(load_text(text, Path::new(PATH))),
        "howdah.toml:2: howdah.port = 0: is out of range; accepted: 1 to 65535\n\
         howdah.toml:4: pools.0.size = 0: is out of range; accepted: 1 to 60000\n\
         howdah.toml:5: pools.0.mode = \"transaction\": is not known; accepted: \"session\"\n\
         howdah.toml:7: log.level = 3: must be a string; accepted: \"error\", \"warn\", \"info\", \"debug\", \"trace\"\n\
         howdah.toml:9: timeouts.foo: unknown key\n\
         howdah.toml: servers: there is no server; write a section [servers.main] with host = \"...\""
    );
}

#[test]
fn toml_that_cannot_be_read_is_told_with_its_line() {
    let check = |text: &str, expected: &str| {
        assert_eq!(messages(load_text(text, Path::new(PATH))), expected, "for\n{text}");
    };
    check("[howdah]\nport 6432\n", "howdah.toml:2: TOML syntax: key with no value, expected `=`");
    check("[howdah]\nport = 1\nport = 2\n", "howdah.toml:3: `port` is written twice");
    check(
        "[howdah]\nunix_socket_permissions = 0700 # mine\n",
        "howdah.toml:2: TOML syntax: a string needs double quotes: unix_socket_permissions = \"0700\"",
    );
    check(
        "[log]\nlevel = info\n[tcp]\nnodelay = yes\n",
        "howdah.toml:2: TOML syntax: a string needs double quotes: level = \"info\"\n\
         howdah.toml:4: TOML syntax: a string needs double quotes: nodelay = \"yes\"",
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("howdah.toml");
    let absent = load(&path).unwrap_err().to_string();
    assert_eq!(absent, format!("{}: cannot be read: No such file or directory (os error 2)", path.display()));
    fs::write(&path, b"[log]\n# \xff\n").unwrap();
    assert_eq!(load(&path).unwrap_err().to_string(), format!("{}:2: is not UTF-8", path.display()));
}

#[test]
fn what_works_but_is_hardly_meant_is_a_warning() {
    let check = |text: &str, expected: &[&str]| {
        // A rule that needs no secret keeps the warning about the missing users file away.
        let quiet = if text.contains("[[hba]]") {
            ""
        } else {
            "[[hba]]\ntype = \"host\"\naddress = \"samehost\"\nmethod = \"trust\"\n"
        };
        assert_eq!(warnings(&format!("{text}\n{quiet}{SERVER}")), expected, "for\n{text}");
    };
    check("", &[]);
    check(
        "[howdah]\nmax_clients = 50",
        &[
            "howdah.toml:2: howdah.max_clients: is 50, less than max_connections, 100: the other server connections \
           could never be used",
        ],
    );
    check(
        "[[pools]]\nuser = \"a*\"\n[[pools]]\ndatabase = \"x\"\nuser = \"ab\"",
        &["howdah.toml:3: pools.1: can never match: pools.0 takes all that it would match"],
    );
    check(
        "[[pools]]\ndatabase = \"all\"",
        &[
            "howdah.toml:2: pools.0.database: \"all\" is only the database of that name here; for every database write \
           \"*\"",
        ],
    );
    check(
        "[[pools]]\ndatabase = \"shop\"\n[databases.stock]",
        &[
            "howdah.toml:2: pools.0.database: matches no [databases.NAME]",
            "howdah.toml:3: databases.stock: no pool rule matches it: clients are refused",
        ],
    );
    check(
        "[[pools]]\nserver_user = \"app\"",
        &[
            "howdah.toml:2: pools.0.server_user: \"app\" is not in the users file: only servers that trust it let it in",
        ],
    );
    check(
        "[[hba]]\ntype = \"host\"\naddress = \"0.0.0.0/0\"\nmethod = \"trust\"",
        &["howdah.toml:4: hba.0.method: lets everyone in from every address without a password"],
    );
    check(
        "[[hba]]\ntype = \"host\"\naddress = \"10.0.0.0/8\"\nmethod = \"password\"\n[[hba]]\ntype = \"host\"\n\
         address = \"10.1.0.0/16\"\nmethod = \"reject\"\n[[hba]]\ntype = \"local\"\nmethod = \"trust\"",
        &[
            "howdah.toml:4: hba.0.method: sends passwords over the network in clear text; scram-sha-256 does not",
            "howdah.toml:5: hba.1: can never match: hba.0 takes all that it would match",
            "howdah.toml:9: hba.2: never matches: [howdah] unix_socket_directories is empty",
            "howdah.toml: howdah.users_file: is not set: nobody can log in by password",
        ],
    );
}

#[test]
fn a_path_too_long_for_a_socket_is_refused() {
    let long = "d".repeat(100);
    let text = format!(
        "[howdah]\nunix_socket_directories = [\"/{long}\"]\nmanagement_socket = \"/{long}/123456\"\n{SERVER}"
    );
    let found = messages(load_text(text, Path::new(PATH)));
    assert_eq!(
        found,
        format!(
            "howdah.toml:2: howdah.unix_socket_directories: the socket's path /{long}/.s.PGSQL.6432 has 115 bytes; \
             accepted: at most 107\n\
             howdah.toml:3: howdah.management_socket: the socket's path /{long}/123456 has 108 bytes; accepted: at \
             most 107"
        )
    );
}

#[test]
fn defaults_hold_when_nothing_is_written() {
    assert_eq!(
        valid(&format!("[howdah]\nmax_clients = 1_500\nport = 0x1900\n{SERVER}")).config.max_clients,
        1500
    );
    let config = valid(SERVER).config;
    assert_eq!((config.port, config.max_connections, config.max_clients), (6432, 100, 1000));
    assert_eq!(config.max_startups, MaxStartups { begin: 750, rate: 30, full: 1000 });
    assert_eq!(config.management_socket, PathBuf::from("/etc/howdah/howdah.sock"));
    assert_eq!(config.servers[0].host, ServerHost::Name("localhost".to_owned()));
    assert_eq!(config.pools.len(), 1);
    assert_eq!((config.pools[0].size, config.pools[0].validation), (20, Validation::Off));
    assert_eq!(config.get("pools.0.server_lifetime").unwrap(), "1h");
    assert_eq!(config.hba.len(), 2);
    let small = valid(&format!("[howdah]\nmax_connections = 5\n{SERVER}")).config;
    assert_eq!(small.pools[0].size, 5);
    let own = valid(&format!("[timeouts]\nwait_timeout = \"3s\"\n[[pools]]\n{SERVER}")).config;
    assert_eq!(own.get("pools.0.wait_timeout").unwrap(), "3s");
}

#[test]
fn every_key_can_be_asked_for_and_takes_part_in_a_difference() {
    let text =
        format!("{SERVER}[databases.shop]\n[[pools]]\n[[hba]]\ntype = \"local\"\nmethod = \"trust\"\n");
    let listed: BTreeSet<String> = valid(&text).config.list().into_iter().map(|(key, _)| key).collect();
    let item = |section: &str| match section {
        "servers" => "servers.main".to_owned(),
        "databases" => "databases.shop".to_owned(),
        "pools" | "hba" => format!("{section}.0"),
        single => single.to_owned(),
    };
    let expected: BTreeSet<String> =
        keys::all().map(|it| format!("{}.{}", item(it.section), it.name)).collect();
    assert_eq!(listed, expected);
}

#[test]
fn asking_for_a_key_that_is_none_tells_what_was_meant() {
    let config = valid(SERVER).config;
    let ask = |key: &str| config.get(key).unwrap_err().to_string();
    assert_eq!(ask("port"), "no key `port`; did you mean `howdah.port`?");
    assert_eq!(ask("howdah.max_client"), "no key `howdah.max_client`; did you mean `howdah.max_clients`?");
    assert_eq!(ask("xyzzy"), "no key `xyzzy`");
}

#[test]
fn a_difference_tells_what_changes_and_what_needs_a_restart() {
    let old = valid(&format!("{SERVER}[[pools]]\nsize = 5\n")).config;
    let new = format!(
        "[howdah]\nport = 7000\nlisten_addresses = [\"127.0.0.1\"]\nmax_startups = \"7\"\nuser = \"x\"\n\
                       {SERVER}[servers.new]\nhost = \"/tmp\"\n[[pools]]\nserver = \"new\"\nsize = 6\n"
    );
    let new = valid(&new).config;
    let found = difference(&old, &new);
    let lines = |changes: &[config::Change]| changes.iter().map(|it| it.to_string()).collect::<Vec<_>>();
    assert_eq!(
        lines(&found.needs_restart),
        [
            "howdah.listen_addresses: [\"127.0.0.1:6432\", \"[::1]:6432\"] -> [\"127.0.0.1:7000\"]",
            "howdah.port: 6432 -> 7000",
            "howdah.user: (none) -> x"
        ]
    );
    assert_eq!(
        lines(&found.changed),
        [
            "howdah.max_startups: 750:30:1000 -> 7:100:7",
            "servers.new.host: new: /tmp",
            "servers.new.port: new: 5432",
            "servers.new.max_connections: new: 0",
            "pools.0.server: main -> new",
            "pools.0.size: 5 -> 6"
        ]
    );
    let after = old.reloaded(new.clone());
    assert_eq!(difference(&old, &after).needs_restart, []);
    assert_eq!(difference(&after, &new).changed, []);
    assert!(difference(&old, &old).is_empty());
}

/// A configuration with a users file beside it.
fn with_users(text: &str, users: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("howdah.toml");
    fs::write(&path, text).unwrap();
    let file = directory.path().join("users.txt");
    fs::write(&file, users).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (directory, path)
}

#[test]
fn users_are_read_from_beside_the_configuration_and_never_told() {
    let text = format!("[howdah]\nusers_file = \"users.txt\"\n{SERVER}");
    let (directory, path) = with_users(&text, "\"a\" \"secret1\"\n\"b\" \"secret2\"\n");
    let old = load(&path).unwrap();
    assert_eq!((old.config.users.len(), old.warnings.len()), (2, 0));
    fs::write(
        directory.path().join("users.txt"),
        "\"b\" \"secret3\"\n\"c\" \"secret4\"\n\"d\" \"secret5\"\n",
    )
    .unwrap();
    let new = load(&path).unwrap();
    let found = difference(&old.config, &new.config);
    let lines: Vec<String> = found.changed.iter().map(|it| it.to_string()).collect();
    assert_eq!(lines, ["users: 2 -> 3 (2 added, 1 removed, 1 with another secret)"]);
    assert!(!format!("{new:?} {:?}", new.config.list()).contains("secret3"));
    fs::write(directory.path().join("users.txt"), "\"b\" secret3\n").unwrap();
    let users = directory.path().join("users.txt");
    let message = load(&path).unwrap_err().to_string();
    assert_eq!(message, format!("{}:1: the secret in double quotes is missing", users.display()));
}

#[test]
fn secrets_that_cannot_serve_their_purpose_are_told() {
    let text = format!("[howdah]\nusers_file = \"users.txt\"\n{SERVER}[[pools]]\nserver_user = \"s\"\n");
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let users = format!(
        "\"m\" \"md50123456789abcdef0123456789abcdef\"\n\"n\" \"md50123456789abcdef0123456789abcdef\"\n\
         \"s\" \"SCRAM-SHA-256$4096:c2FsdA==${key}:{key}\"\n"
    );
    let (_directory, path) = with_users(&text, &users);
    let found: Vec<String> = load(&path).unwrap().warnings.iter().map(|it| it.message.clone()).collect();
    assert_eq!(
        found,
        [
            "\"m\" and 1 more: an MD5 secret is of no use for scram-sha-256",
            "\"s\" has a SCRAM verifier in the users file, with which nobody can log in to a server; it needs the password"
        ]
    );
}

#[test]
fn names_are_routed_by_database_and_first_matching_rule() {
    let text = "[servers.main]\nhost = \"10.0.0.1\"\n[servers.archive]\nhost = \"10.0.0.2\"\n\
        [databases.shop]\nserver = \"main\"\n[databases.old]\nserver = \"archive\"\ndbname = \"shop\"\n\
        [[pools]]\ndatabase = \"shop\"\nuser = \"report_*\"\nserver = \"archive\"\nserver_user = \"reader\"\n\
        [[pools]]\nuser = [\"app\", \"boss\"]\n";
    let config = valid(text).config;
    let route = |database: &str, user: &str| match config.route(database, user) {
        Ok(it) => {
            let server = &config.servers[it.server_index].name;
            format!("{} {server} {} {}", it.rule_index, it.server_database, it.server_user)
        }
        Err(error) => error.sqlstate().to_owned(),
    };
    assert_eq!(route("shop", "app"), "1 main shop app");
    assert_eq!(route("shop", "report_1"), "0 archive shop reader");
    assert_eq!(route("old", "boss"), "1 archive shop boss");
    assert_eq!(route("old", "report_1"), "28000");
    assert_eq!(route("shop", "nobody"), "28000");
    assert_eq!(route("none", "app"), "3D000");
    let fallback = valid(&format!("{SERVER}[databases.\"*\"]\n[databases.x]\ndbname = \"y\"\n")).config;
    assert_eq!(fallback.route("x", "u").map(|it| it.server_database), Ok("y"));
    assert_eq!(fallback.route("z", "u").map(|it| it.server_database), Ok("z"));
    let open = valid(&format!("{SERVER}[[pools]]\ndatabase = \"a\"\n")).config;
    assert_eq!(open.route("a", "u").map(|it| it.server_index), Ok(0));
    assert_eq!(open.route("b", "u").map_err(|it| it.sqlstate()), Err("3D000"));
}

#[test]
fn setting_a_key_changes_one_value_and_keeps_the_rest_of_the_text() {
    let text = format!(
        "# mine\n[log]   # log\nlevel = \"info\" # loud\n{SERVER}[[pools]]\nuser = \"a\"\n[[pools]]\nsize = 3\n"
    );
    let check = |key: &str, value: &str, expected: &str, got: &str| {
        let loaded = config::set(&text, Path::new(PATH), key, value).unwrap_or_else(|it| panic!("{it}"));
        assert_eq!(loaded.text, expected, "{key} {value}");
        assert_eq!(loaded.config.get(key).unwrap(), got, "{key} {value}");
    };
    check("log.level", "debug", &text.replace("\"info\"", "\"debug\""), "debug");
    check("log.level", "\"debug\"", &text.replace("\"info\"", "\"debug\""), "debug");
    check("log.log_connections", "true", &text.replace("# log\n", "# log\nlog_connections = true\n"), "true");
    check("howdah.port", "7", &format!("{text}\n[howdah]\nport = 7\n"), "7");
    check("pools.1.size", "30", &text.replace("size = 3", "size = 30"), "30");
    check(
        "pools.0.wait_timeout",
        "5min",
        &text.replacen("[[pools]]\n", "[[pools]]\nwait_timeout = \"5min\"\n", 1),
        "5min",
    );
    check("pools.0.user", "[\"a\", \"b\"]", &text.replace("\"a\"", "[\"a\", \"b\"]"), "[\"a\", \"b\"]");
    check("servers.main.host", "/tmp", &text.replace("\"localhost\"", "\"/tmp\""), "/tmp");
    check(
        "pools.1.reset_query",
        "",
        &format!("{}reset_query = \"\"\nsize = 3\n", text.strip_suffix("size = 3\n").unwrap()),
        "",
    );
}

#[test]
fn setting_what_is_not_valid_is_refused() {
    let text = format!("{SERVER}[[pools]]\nsize = 3\n");
    let check = |key: &str, value: &str, expected: &str| {
        assert_eq!(messages(config::set(&text, Path::new(PATH), key, value)), expected);
    };
    check(
        "pools.0.size",
        "500",
        "howdah.toml:4: pools.0.size = 500: is more than [howdah] max_connections, 100",
    );
    check("pools.0.sise", "5", "howdah.toml: pools.0.sise: unknown key; did you mean `pools.0.size`?");
    check("size", "5", "howdah.toml: size: unknown key; did you mean `pools.0.size`?");
    check("pools.1.size", "5", "howdah.toml: pools.1.size: there is no [[pools]] 1 in the file");
    check("servers.x.port", "5", "howdah.toml: servers.x.port: there is no [servers.NAME] x in the file");
    check(
        "pools.0.size",
        "5\nmin_size = 1",
        "howdah.toml:4: TOML syntax: unexpected key or value, expected newline, `#`",
    );
    check(
        "log.level",
        "loud",
        "howdah.toml:7: log.level = \"loud\": is not known; accepted: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    );
}

#[test]
fn the_sample_file_is_valid_as_it_is_and_says_the_defaults() {
    let sample = valid(&default_config_text()).config;
    assert!(difference(&valid(SERVER).config, &sample).is_empty());
}

#[test]
fn every_line_of_the_sample_file_is_valid_when_it_is_switched_on() {
    let text: String = default_config_text()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (_directory, path) = with_users(&text, "\"app\" \"secret\"\n");
    let loaded = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    for key in keys::all() {
        assert!(text.contains(&format!("\n{} = {}\n", key.name, key.sample())), "{}", key.name);
    }
    assert_eq!(loaded.config.users.len(), 1);
}

/// The manual, with its tables written anew by `UPDATE_DOC=1 cargo test --test configuration`.
fn manual() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    if std::env::var_os("UPDATE_DOC").is_none() {
        return text;
    }
    let mut lines = text.lines().peekable();
    let mut updated = String::new();
    while let Some(line) = lines.next() {
        updated.push_str(&format!("{line}\n"));
        let Some(section) = section_of_marker(line) else { continue };
        while lines.next_if(|it| it.is_empty() || it.starts_with('|')).is_some() {}
        updated.push_str(&format!("\n{}\n", manual_table(section)));
    }
    fs::write(path, &updated).unwrap();
    updated
}

fn section_of_marker(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- keys: ")?.strip_suffix(" -->")
}

#[test]
fn the_manual_has_every_key_and_its_examples_are_valid() {
    let text = manual();
    for section in &keys::SECTIONS {
        let table = format!("<!-- keys: {} -->\n\n{}\n", section.name, manual_table(section.name));
        assert!(
            text.contains(&table),
            "[{}] is out of date: UPDATE_DOC=1 cargo test --test configuration",
            section.name
        );
    }
    let markers = text.lines().filter_map(section_of_marker).count();
    assert_eq!(markers, keys::SECTIONS.len());
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).filter_map(|it| it.split_once("```")).map(|it| it.0).collect();
    assert!(examples.len() >= 4);
    for example in examples {
        let (_directory, path) = with_users(example, "\"app\" \"secret\"\n");
        let loaded = load(&path).unwrap_or_else(|errors| panic!("{errors}\nin\n{example}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(|it| it.to_string()).collect();
        let only_without_users = warnings.iter().all(|it| it.contains("users_file: is not set"));
        assert!(
            only_without_users && (warnings.is_empty() || !example.contains("users_file")),
            "{warnings:?}\n{example}"
        );
    }
}

/// Files made of pieces that are right, nearly right and wrong.
fn scrambled() -> impl Strategy<Value = String> {
    let headers = keys::SECTIONS.iter().map(|it| it.header.to_owned());
    let lines = keys::all().map(|it| format!("{} = {}", it.name, it.sample()));
    let wrong = [
        "x = [1, {a = 2}]",
        "size = 99999999999999999999",
        "[[howdah]]",
        "servers = 3",
        "port = \"é",
        "hba = [[]]",
    ];
    let pieces: Vec<String> = headers.chain(lines).chain(wrong.map(str::to_owned)).collect();
    proptest::collection::vec(proptest::sample::select(pieces), 0..12).prop_map(|it| it.join("\n"))
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic_and_every_error_names_a_line(text in scrambled()) {
        if let Err(errors) = load_text(text.as_str(), Path::new(PATH)) {
            prop_assert!(!errors.0.is_empty());
            for error in errors.0.iter().filter(|it| it.file == Path::new(PATH)) {
                prop_assert!(error.line.is_none_or(|it| it >= 1 && it <= text.lines().count().max(1)), "{}", error);
            }
        }
    }

    #[test]
    fn no_value_makes_set_panic_or_changes_another_key(
        key in proptest::sample::select(keys::all().map(|it| it.name).collect::<Vec<_>>()),
        value in "[\"'\\[\\]a-z0-9 #=\n,é]{0,12}",
    ) {
        let before = valid(&format!("{SERVER}[[pools]]\nsize = 3\n"));
        for section in ["howdah", "log", "tcp", "timeouts", "servers.main", "pools.0"] {
            let key = format!("{section}.{key}");
            let Ok(after) = config::set(&before.text, Path::new(PATH), &key, &value) else { continue };
            let found = difference(&before.config, &after.config);
            let others = found.changed.iter().chain(&found.needs_restart).filter(|it| it.key != key);
            // These take their values from others when they are not written.
            let derived = ["howdah.listen_addresses", "howdah.max_startups"];
            let others: Vec<String> =
                others.map(|it| it.to_string()).filter(|it| !derived.iter().any(|key| it.starts_with(key))).collect();
            prop_assert!(section == "timeouts" || others.is_empty(), "{} = {}: {:?}", key, value, others);
        }
    }
}
