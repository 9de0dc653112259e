//! From a server of the configuration to the addresses to connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::config::{ServerConfig, ServerHost};
use crate::net::{Target, sleep};
use crate::segment::{ADDRESSES_MAX, Server};

/// How often the segment is looked at while a child of main looks a name up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server whose address is not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot find the address of server host {host:?}")]
pub struct AddressError {
    /// The name.
    pub host: String,
}

/// Where to connect to for `server`. A name that is being looked up is waited for; the caller sets the time limit.
///
/// # Errors
/// The name cannot be resolved.
pub async fn target_of(server: &ServerConfig, table: &Server) -> Result<Target, AddressError> {
    match &server.host {
        ServerHost::Ip(ip) => Ok(Target::Tcp(vec![SocketAddr::new(*ip, server.port)])),
        ServerHost::UnixDirectory(directory) => {
            Ok(Target::Unix(directory.join(format!(".s.PGSQL.{}", server.port))))
        }
        ServerHost::Name(name) => loop {
            let addresses = load_addresses(table);
            if !addresses.is_empty() {
                let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, server.port)).collect();
                return Ok(Target::Tcp(addresses));
            }
            if table.resolve_failed_at_ms.load(Acquire) != 0 {
                return Err(AddressError { host: name.clone() });
            }
            sleep(LOOK_EVERY).await;
        },
    }
}

/// Writes what a look-up has found. Only one child of main does so at a time.
pub fn store_addresses(table: &Server, addresses: &[IpAddr], now_ms: u64) {
    table.addresses_sequence.fetch_add(1, Release);
    let count = addresses.len().min(ADDRESSES_MAX);
    for (entry, ip) in table.addresses.iter().zip(addresses) {
        let (family, octets) = match ip {
            IpAddr::V4(v4) => (4, v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => (6, v6.octets()),
        };
        let (high, low) = octets.split_at(8);
        entry[0].store(family, Relaxed);
        entry[1].store(u64::from_be_bytes(high.try_into().unwrap_or_default()), Relaxed);
        entry[2].store(u64::from_be_bytes(low.try_into().unwrap_or_default()), Relaxed);
    }
    table.addresses_count.store(u32::try_from(count).unwrap_or(0), Relaxed);
    table.addresses_sequence.fetch_add(1, Release);
    table.resolve_failed_at_ms.store(0, Relaxed);
    table.resolved_at_ms.store(now_ms, Release);
}

fn load_addresses(table: &Server) -> Vec<IpAddr> {
    // A writer that died in the middle leaves the number odd: what is there is then taken as it is.
    for _ in 0..100 {
        let before = table.addresses_sequence.load(Acquire);
        let found = read_addresses(table);
        if before.is_multiple_of(2) && table.addresses_sequence.load(Acquire) == before {
            return found;
        }
    }
    read_addresses(table)
}

fn read_addresses(table: &Server) -> Vec<IpAddr> {
    let count = table.addresses_count.load(Relaxed) as usize;
    let entries = table.addresses.iter().take(count.min(ADDRESSES_MAX));
    entries
        .map(|entry| {
            let mut octets = [0u8; 16];
            octets[..8].copy_from_slice(&entry[1].load(Acquire).to_be_bytes());
            octets[8..].copy_from_slice(&entry[2].load(Acquire).to_be_bytes());
            let v6 = Ipv6Addr::from(octets);
            if entry[0].load(Acquire) == 4 {
                IpAddr::V4(v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED))
            } else {
                IpAddr::V6(v6)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_segment() {
        let table = Server::default();
        let addresses: Vec<IpAddr> =
            ["127.0.0.1", "::1", "2001:db8::2"].iter().map(|a| a.parse().unwrap()).collect();
        store_addresses(&table, &addresses, 5);
        assert_eq!(load_addresses(&table), addresses);
        store_addresses(&table, &addresses[..1], 6);
        assert_eq!(load_addresses(&table), addresses[..1]);
    }
}
