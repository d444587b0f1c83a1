//! What this machine is called and which addresses it has, read from `/proc` and `/etc/hosts`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use node::config::TargetPolicy;

/// The addresses that mail could leave from: the public ones; without any, the one by which this
/// machine reaches others. Addresses of containers and bridges do not count then. The one by which
/// others are reached comes first.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found: Vec<IpAddr> =
        [outgoing("192.0.2.1:9"), outgoing("[2001:db8::1]:9")].into_iter().flatten().collect();
    found.extend(local_ipv4(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4));
    found.extend(local_ipv6(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6));
    chosen(found)
}

/// The address from which packets to `target` would leave. No packet is sent.
fn outgoing(target: &str) -> Option<IpAddr> {
    let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn chosen(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let usable = |address: &IpAddr| {
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !address.is_loopback() && !address.is_unspecified() && !link_local
    };
    let usable: Vec<IpAddr> =
        found.into_iter().filter(usable).filter(|address| seen.insert(*address)).collect();
    let on_the_internet = TargetPolicy::default();
    let public: Vec<IpAddr> =
        usable.iter().copied().filter(|address| on_the_internet.allows(*address)).collect();
    if public.is_empty() { usable.into_iter().take(1).collect() } else { public }
}

/// The local addresses in the routing trie of the kernel: each is a leaf, followed by the line
/// `/32 host LOCAL`.
fn local_ipv4(trie: &str) -> Vec<Ipv4Addr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf.take()
        {
            found.push(address);
        }
    }
    found
}

/// The global, lasting addresses of `/proc/net/if_inet6`: address, interface, prefix length, scope,
/// flags and name, in hexadecimal.
fn local_ipv6(list: &str) -> Vec<Ipv6Addr> {
    /// Temporary (privacy), duplicate, deprecated or tentative: nothing to send mail from.
    const UNFIT: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, ..] = fields.as_slice() else { return None };
        let address = u128::from_str_radix(address, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (*scope == "00" && flags & UNFIT == 0).then(|| Ipv6Addr::from(address))
    };
    list.lines().filter_map(read).collect()
}

/// The full host name: that of the kernel, made complete by `/etc/hosts` where it has no dot.
#[must_use]
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    full_name(name.trim(), &hosts)
}

fn full_name(name: &str, hosts: &str) -> String {
    if name.contains('.') {
        return name.to_owned();
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    for line in lines {
        let names: Vec<&str> = line.split_whitespace().skip(1).collect();
        if names.iter().any(|other| other.eq_ignore_ascii_case(name))
            && let Some(full) = names.iter().find(|other| other.contains('.'))
        {
            return (*full).to_owned();
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 203.0.113.5\n        /32 host LOCAL\n     |-- 203.0.113.255\n        /32 link BROADCAST\n\
                    Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 203.0.113.5\n        /32 host LOCAL\n";
        let found = local_ipv4(trie);
        assert_eq!(found, [[203, 0, 113, 5], [127, 0, 0, 1], [203, 0, 113, 5]].map(Ipv4Addr::from));
        let list = "20010db8000000000000000000000025 02 40 00 80     eth0\n\
                    20010db8000000000000000000000026 02 40 00 01     eth0\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\nbroken\n";
        assert_eq!(local_ipv6(list), ["2001:db8::25".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn public_addresses_go_before_private_ones() {
        let of = |list: &[&str]| {
            let found = chosen(list.iter().map(|text| text.parse().unwrap()).collect());
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&["10.0.0.5", "127.0.0.1", "8.8.4.4", "10.0.0.5"]), "8.8.4.4");
        assert_eq!(of(&["10.0.0.5", "172.17.0.1", "127.0.0.1"]), "10.0.0.5");
        assert_eq!(of(&["127.0.0.1", "169.254.1.1", "fe80::1"]), "");
    }

    #[test]
    fn a_short_name_is_completed() {
        let hosts = "127.0.0.1 localhost\n203.0.113.5 mail.example.com mail # us\n";
        assert_eq!(full_name("mail", hosts), "mail.example.com");
        assert_eq!(full_name("other", hosts), "other");
        assert_eq!(full_name("mx.example.org", hosts), "mx.example.org");
    }
}
