//! Host-based authentication: which rule applies to a client, and the method that it asks for.
//!
//! The meaning is that of PostgreSQL's `pg_hba.conf` (`check_hba` in `src/backend/libpq/hba.c`, version 15): the first
//! rule that matches decides, and a client that no rule matches is refused. The rules are made by `config`; nothing
//! here reads a file, a clock or a socket. `doc/configuration.md` tells how they are written.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// One rule, with pg_hba.conf's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    /// Which transport it speaks of.
    pub connection: ConnectionType,
    /// Databases, as clients name them.
    pub databases: Vec<DatabaseMatch>,
    /// Users, as clients name them.
    pub users: Vec<UserMatch>,
    /// From where; `All` for local connections.
    pub address: AddressMatch,
    /// How a client that matches proves who it is.
    pub method: Method,
}

/// Which transport a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionType {
    /// Unix sockets.
    Local,
    /// TCP, with or without TLS.
    Host,
    /// TCP without TLS.
    HostNoSsl,
}

/// What a rule says of databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseMatch {
    /// Every database, but no physical replication.
    All,
    /// The database with the user's name.
    SameUser,
    /// Physical replication.
    Replication,
    /// A name in which `*` stands for any characters.
    Pattern(String),
    /// Exactly this name, whatever its characters.
    Exact(String),
}

/// What a rule says of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserMatch {
    /// Every user.
    All,
    /// A name in which `*` stands for any characters.
    Pattern(String),
    /// Exactly this name, whatever its characters.
    Exact(String),
}

/// What a rule says of a client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressMatch {
    /// Any address.
    All,
    /// One network, as written.
    Network(Network),
    /// `samehost`: the addresses of this machine when the configuration was read.
    SameHost(Vec<Network>),
    /// `samenet`: the networks of this machine when the configuration was read.
    SameNet(Vec<Network>),
}

/// An address with the number of its bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Local,
    /// TCP; an IPv4 address in IPv6 form (`::ffff:10.0.0.1`) counts as IPv4.
    Ip {
        /// The client's address.
        address: IpAddr,
    },
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It is refused.
    Reject,
    /// By its password in clear text.
    Password,
    /// By an MD5 of password, user and salt.
    Md5,
    /// By SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
}

/// The first rule that matches; `None`: the client is refused.
///
/// `replication` says that the client asks for physical replication (`replication=true`), which only the keyword
/// `replication` matches. Logical replication (`replication=database`) is matched by its database's name.
pub fn find<'a>(
    rules: &'a [HbaRule],
    peer: &Peer,
    database: &str,
    user: &str,
    replication: bool,
) -> Option<&'a HbaRule> {
    rules.iter().find(|rule| rule.matches(peer, database, user, replication))
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters and everything else for itself.
///
/// Linear in the name for each `*`: no pattern makes it slow. `*` in the *name* is matched by `*` alone, so that
/// `pattern_matches(p, q)` for a pattern `q` also tells that `p` matches all that `q` does.
pub fn pattern_matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or("");
    for part in parts {
        match name.split_once(part) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(tail)
}

impl HbaRule {
    fn matches(&self, peer: &Peer, database: &str, user: &str, replication: bool) -> bool {
        let from = match (self.connection, peer) {
            (ConnectionType::Local, Peer::Local) => true,
            (ConnectionType::Host | ConnectionType::HostNoSsl, Peer::Ip { address }) => {
                self.address.matches(*address)
            }
            _ => false,
        };
        from && self.databases.iter().any(|it| it.matches(database, user, replication))
            && self.users.iter().any(|it| it.matches(user))
    }

    /// Whether every client that `other` matches is matched by this rule too; `false` when in doubt.
    pub fn covers(&self, other: &HbaRule) -> bool {
        let connection = match (self.connection, other.connection) {
            (ConnectionType::Local, ConnectionType::Local) => true,
            (ConnectionType::Local, _) | (_, ConnectionType::Local) => false,
            // No client uses TLS, so `host` and `hostnossl` speak of the same clients.
            _ => self.address.covers(&other.address),
        };
        connection
            && other.databases.iter().all(|it| self.databases.iter().any(|mine| mine.covers(it)))
            && other.users.iter().all(|it| self.users.iter().any(|mine| mine.covers(it)))
    }
}

impl DatabaseMatch {
    fn matches(&self, database: &str, user: &str, replication: bool) -> bool {
        match self {
            DatabaseMatch::Replication => replication,
            _ if replication => false,
            DatabaseMatch::All => true,
            DatabaseMatch::SameUser => database == user,
            DatabaseMatch::Pattern(pattern) => pattern_matches(pattern, database),
            DatabaseMatch::Exact(name) => name == database,
        }
    }

    fn covers(&self, other: &DatabaseMatch) -> bool {
        match (self, other) {
            (mine, other) if mine == other => true,
            (_, DatabaseMatch::Replication) => false,
            (DatabaseMatch::All, _) => true,
            (DatabaseMatch::Pattern(mine), DatabaseMatch::Pattern(name) | DatabaseMatch::Exact(name)) => {
                pattern_matches(mine, name)
            }
            _ => false,
        }
    }
}

impl UserMatch {
    fn matches(&self, user: &str) -> bool {
        match self {
            UserMatch::All => true,
            UserMatch::Pattern(pattern) => pattern_matches(pattern, user),
            UserMatch::Exact(name) => name == user,
        }
    }

    fn covers(&self, other: &UserMatch) -> bool {
        match (self, other) {
            (UserMatch::All, _) => true,
            (UserMatch::Pattern(mine), UserMatch::Pattern(name) | UserMatch::Exact(name)) => {
                pattern_matches(mine, name)
            }
            (mine, other) => mine == other,
        }
    }
}

impl AddressMatch {
    fn matches(&self, address: IpAddr) -> bool {
        self.networks().is_none_or(|networks| networks.iter().any(|it| it.contains(address)))
    }

    fn covers(&self, other: &AddressMatch) -> bool {
        match (self.networks(), other.networks()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(other)) => other.iter().all(|it| mine.iter().any(|net| net.covers(*it))),
        }
    }

    fn networks(&self) -> Option<&[Network]> {
        match self {
            AddressMatch::All => None,
            AddressMatch::Network(network) => Some(std::slice::from_ref(network)),
            AddressMatch::SameHost(networks) | AddressMatch::SameNet(networks) => Some(networks),
        }
    }
}

impl Network {
    /// A network of `prefix` bits; `None` when the address has fewer. Bits behind the prefix do not count.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Network> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Network { address, prefix })
    }

    /// A network from its mask, as in `10.0.0.0 255.0.0.0`; `None` when the families differ or a 0 bit of the mask
    /// stands before a 1 bit.
    pub fn with_mask(address: IpAddr, mask: IpAddr) -> Option<Network> {
        let (ones, contiguous) = match (address, mask) {
            (IpAddr::V4(_), IpAddr::V4(mask)) => {
                let bits = mask.to_bits();
                (bits.leading_ones(), bits.leading_ones() == bits.count_ones())
            }
            (IpAddr::V6(_), IpAddr::V6(mask)) => {
                let bits = mask.to_bits();
                (bits.leading_ones(), bits.leading_ones() == bits.count_ones())
            }
            _ => return None,
        };
        contiguous.then(|| u8::try_from(ones).ok().and_then(|ones| Network::new(address, ones))).flatten()
    }

    /// Whether it holds every address of its family.
    pub fn is_everything(&self) -> bool {
        self.prefix == 0
    }

    /// Whether the address lies in it; an IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let differing = mine.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let differing = mine.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            // A rule for ::ffff:0:0/96 or narrower, written for servers that see IPv4 clients in IPv6 form.
            (IpAddr::V6(mine), IpAddr::V4(other)) if self.prefix >= 96 => {
                let differing = mine.to_bits() ^ Ipv6Addr::to_bits(other.to_ipv6_mapped());
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }

    fn covers(&self, other: Network) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix <= other.prefix
            && self.contains(other.address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for ConnectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectionType::Local => "local",
            ConnectionType::Host => "host",
            ConnectionType::HostNoSsl => "hostnossl",
        })
    }
}

impl fmt::Display for DatabaseMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseMatch::All => f.write_str("all"),
            DatabaseMatch::SameUser => f.write_str("sameuser"),
            DatabaseMatch::Replication => f.write_str("replication"),
            DatabaseMatch::Pattern(pattern) => f.write_str(pattern),
            DatabaseMatch::Exact(name) => write!(f, "\"{name}\""),
        }
    }
}

impl fmt::Display for UserMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserMatch::All => f.write_str("all"),
            UserMatch::Pattern(pattern) => f.write_str(pattern),
            UserMatch::Exact(name) => write!(f, "\"{name}\""),
        }
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressMatch::All => f.write_str("all"),
            AddressMatch::Network(network) => network.fmt(f),
            AddressMatch::SameHost(_) => f.write_str("samehost"),
            AddressMatch::SameNet(_) => f.write_str("samenet"),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Trust => "trust",
            Method::Reject => "reject",
            Method::Password => "password",
            Method::Md5 => "md5",
            Method::ScramSha256 => "scram-sha-256",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn peer(text: &str) -> Peer {
        if text == "local" { Peer::Local } else { Peer::Ip { address: ip(text) } }
    }

    fn network(text: &str) -> Network {
        let (address, bits) = text.split_once('/').unwrap();
        Network::new(ip(address), bits.parse().unwrap()).unwrap()
    }

    /// `type database user address method`, as in pg_hba.conf.
    fn rule(line: &str) -> HbaRule {
        let words: Vec<&str> = line.split(' ').collect();
        let [connection, database, user, address, method] = words.as_slice() else { panic!("{line}") };
        HbaRule {
            connection: match *connection {
                "local" => ConnectionType::Local,
                "host" => ConnectionType::Host,
                _ => ConnectionType::HostNoSsl,
            },
            databases: vec![match *database {
                "all" => DatabaseMatch::All,
                "sameuser" => DatabaseMatch::SameUser,
                "replication" => DatabaseMatch::Replication,
                "\"all\"" => DatabaseMatch::Exact("all".to_owned()),
                name => DatabaseMatch::Pattern(name.to_owned()),
            }],
            users: vec![match *user {
                "all" => UserMatch::All,
                name => UserMatch::Pattern(name.to_owned()),
            }],
            address: match *address {
                "all" | "-" => AddressMatch::All,
                text => AddressMatch::Network(network(text)),
            },
            method: if *method == "trust" { Method::Trust } else { Method::Reject },
        }
    }

    #[test]
    fn a_rule_matches_as_in_pg_hba_conf() {
        let cases = [
            ("local all all - trust", "local", "db", "u", false, true),
            ("local all all - trust", "10.0.0.1", "db", "u", false, false),
            ("host all all all trust", "local", "db", "u", false, false),
            ("host all all all trust", "10.0.0.1", "db", "u", false, true),
            ("hostnossl all all all trust", "::1", "db", "u", false, true),
            ("host all all 10.0.0.0/8 trust", "10.255.0.1", "db", "u", false, true),
            ("host all all 10.0.0.0/8 trust", "11.0.0.1", "db", "u", false, false),
            ("host all all 10.0.0.0/8 trust", "::ffff:10.1.2.3", "db", "u", false, true),
            ("host all all 0.0.0.0/0 trust", "::1", "db", "u", false, false),
            ("host all all ::/0 trust", "10.0.0.1", "db", "u", false, false),
            ("host all all ::ffff:10.0.0.0/104 trust", "10.0.0.1", "db", "u", false, true),
            ("host all all fe80::/10 trust", "febf::1", "db", "u", false, true),
            ("host all all fe80::/10 trust", "fec0::1", "db", "u", false, false),
            ("host all all 10.0.0.1/32 trust", "10.0.0.1", "db", "u", false, true),
            ("host sameuser all all trust", "10.0.0.1", "u", "u", false, true),
            ("host sameuser all all trust", "10.0.0.1", "db", "u", false, false),
            ("host app_* all all trust", "10.0.0.1", "app_1", "u", false, true),
            ("host app_* all all trust", "10.0.0.1", "app", "u", false, false),
            ("host all u* all trust", "10.0.0.1", "db", "v", false, false),
            ("host \"all\" all all trust", "10.0.0.1", "db", "u", false, false),
            ("host \"all\" all all trust", "10.0.0.1", "all", "u", false, true),
            ("host all all all trust", "10.0.0.1", "db", "u", true, false),
            ("host db all all trust", "10.0.0.1", "db", "u", true, false),
            ("host replication all all trust", "10.0.0.1", "db", "u", true, true),
            ("host replication all all trust", "10.0.0.1", "replication", "u", false, false),
        ];
        for (line, from, database, user, replication, expected) in cases {
            let rules = [rule(line)];
            let found = find(&rules, &peer(from), database, user, replication);
            assert_eq!(found.is_some(), expected, "{line} for {from} {database} {user} {replication}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_none_is_none() {
        let rules = [rule("host all bob all reject"), rule("host all all 10.0.0.0/8 trust")];
        let method = |user| find(&rules, &peer("10.0.0.1"), "db", user, false).map(|it| it.method);
        assert_eq!(method("bob"), Some(Method::Reject));
        assert_eq!(method("alice"), Some(Method::Trust));
        assert_eq!(find(&rules, &peer("11.0.0.1"), "db", "alice", false), None);
    }

    #[test]
    fn a_rule_covers_another_only_when_it_takes_all_of_it() {
        let cases = [
            ("host all all all trust", "host db u 10.0.0.0/8 trust", true),
            ("host all all all trust", "local all all - trust", false),
            ("host all all 10.0.0.0/8 trust", "host all all 10.1.0.0/16 trust", true),
            ("host all all 10.1.0.0/16 trust", "host all all 10.0.0.0/8 trust", false),
            ("host all all 0.0.0.0/0 trust", "host all all all trust", false),
            ("host all all all trust", "host replication all all trust", false),
            ("host replication all all trust", "host replication u all trust", true),
            ("host app* all all trust", "host app_* all all trust", true),
            ("host app_* all all trust", "host app* all all trust", false),
            ("host app* all all trust", "host sameuser all all trust", false),
            ("host all all all trust", "host sameuser all all trust", true),
        ];
        for (one, other, expected) in cases {
            assert_eq!(rule(one).covers(&rule(other)), expected, "{one} over {other}");
        }
    }

    #[test]
    fn a_mask_becomes_a_number_of_bits() {
        let check = |address: &str, mask: &str, expected: Option<&str>| {
            let found = Network::with_mask(ip(address), ip(mask)).map(|it| it.to_string());
            assert_eq!(found.as_deref(), expected, "{address} {mask}");
        };
        check("10.0.0.0", "255.0.0.0", Some("10.0.0.0/8"));
        check("10.0.0.0", "0.0.0.0", Some("10.0.0.0/0"));
        check("fe80::", "ffc0::", Some("fe80::/10"));
        check("10.0.0.0", "255.0.255.0", None);
        check("10.0.0.0", "ffff::", None);
        assert_eq!(Network::new(ip("10.0.0.0"), 33), None);
        assert_eq!(Network::new(ip("::"), 129), None);
    }

    /// The obvious, slow matcher to compare with.
    fn slow_match(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((b'*', pattern)), None) => slow_match(pattern, name),
            (Some((b'*', rest)), Some((_, after))) => slow_match(rest, name) || slow_match(pattern, after),
            (Some((one, pattern)), Some((other, name))) => one == other && slow_match(pattern, name),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_the_obvious_matcher_says(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            let expected = slow_match(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(pattern_matches(&pattern, &name), expected);
        }

        #[test]
        fn a_pattern_that_covers_another_matches_all_that_it_does(
            one in "[ab*]{0,5}", other in "[ab*]{0,5}", name in "[ab]{0,6}"
        ) {
            if pattern_matches(&one, &other) && pattern_matches(&other, &name) {
                prop_assert!(pattern_matches(&one, &name));
            }
        }

        #[test]
        fn a_network_holds_what_shares_its_first_bits(address: u32, other: u32, bits in 0u8..=32) {
            let mask = if bits == 0 { 0 } else { u32::MAX << (32 - u32::from(bits)) };
            let network = Network::new(IpAddr::from(address.to_be_bytes()), bits).unwrap();
            let expected = address & mask == other & mask;
            prop_assert_eq!(network.contains(IpAddr::from(other.to_be_bytes())), expected);
        }
    }
}
