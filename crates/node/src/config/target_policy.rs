//! Where this node may connect to.
//!
//! MX records are written by strangers. Without a policy a domain whose MX points to `127.0.0.1`
//! or `169.254.169.254` would make us speak to our own services. So addresses that no mail
//! exchanger on the Internet can have are refused unless the configuration allows them, and a
//! node with `only_targets` connects nowhere else at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::IpNetwork;

/// Which targets may be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetPolicy {
    /// If not empty: only these, whatever else is said. An address listed here is allowed even
    /// when it is private.
    pub only_targets: Vec<IpNetwork>,
    /// Allows what is refused by default: loopback, private, link-local and shared addresses.
    /// Addresses that no host can have (0.0.0.0/8, multicast, broadcast) stay refused.
    pub allow_private_targets: bool,
}

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetRefused {
    /// `[safety] only_targets` does not list it.
    #[error("{0} is not in [safety] only_targets")]
    NotListed(IpAddr),
    /// It is of a kind that mail exchangers on the Internet do not have.
    #[error("{address} is {kind}; [safety] allow_private_targets or only_targets can permit it")]
    Private {
        /// The address.
        address: IpAddr,
        /// Its kind: "a loopback address", ...
        kind: &'static str,
    },
    /// No single host can have it.
    #[error("{address} is {kind}: no host to connect to")]
    NoHost {
        /// The address.
        address: IpAddr,
        /// Its kind.
        kind: &'static str,
    },
}

impl TargetPolicy {
    /// Only loopback: for the demo, the lab and tests.
    #[must_use]
    pub fn loopback_only() -> Self {
        let only_targets = [
            IpNetwork::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
            IpNetwork::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ];
        Self {
            only_targets: only_targets.into_iter().flatten().collect(),
            allow_private_targets: false,
        }
    }

    /// Whether a connection to this address may be opened because DNS named it.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.check(address).is_ok()
    }

    /// Like [`TargetPolicy::allows`], with the reason.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, address: IpAddr) -> Result<(), TargetRefused> {
        self.check_with(address, self.allow_private_targets)
    }

    /// For the hosts of a `[[relay]]`: a person wrote them into the configuration, so private
    /// addresses are as good as any. `only_targets` holds here too.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_relay(&self, address: IpAddr) -> Result<(), TargetRefused> {
        self.check_with(address, true)
    }

    fn check_with(&self, address: IpAddr, private_allowed: bool) -> Result<(), TargetRefused> {
        let plain = innermost(address);
        if let Some(kind) = no_host_kind(plain) {
            return Err(TargetRefused::NoHost { address, kind });
        }
        if !self.only_targets.is_empty() {
            let listed = self.only_targets.iter().any(|network| network.contains(address));
            return if listed { Ok(()) } else { Err(TargetRefused::NotListed(address)) };
        }
        match private_kind(plain) {
            Some(kind) if !private_allowed => Err(TargetRefused::Private { address, kind }),
            _ => Ok(()),
        }
    }
}

/// The IPv4 address that an IPv6 address stands for (mapped, NAT64 or 6to4), else the address.
fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let [a, b, c, d, .., last_but_one, last] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(((u32::from(high) << 16) | u32::from(low)).into());
    match (a, b) {
        (0x64, 0xff9b) => v4(last_but_one, last),
        (0x2002, _) => v4(b, c),
        // The deprecated "IPv4-compatible" form; ::1 and :: are not meant.
        (0, 0) if c == 0 && d == 0 && v6.segments()[4..6] == [0, 0] && last_but_one != 0 => {
            v4(last_but_one, last)
        }
        _ => IpAddr::V6(v6),
    }
}

/// The kind of an address that no single host has.
fn no_host_kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("in 0.0.0.0/8"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ => None,
    }
}

/// The kind of an address that only a local network has.
fn private_kind(address: IpAddr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("a loopback address");
    }
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            match first {
                _ if v4.is_private() => Some("a private address"),
                _ if v4.is_link_local() => Some("a link-local address"),
                100 if second & 0xc0 == 64 => Some("a shared address (100.64.0.0/10)"),
                198 if second & 0xfe == 18 => Some("a benchmarking address (198.18.0.0/15)"),
                240.. => Some("a reserved address (240.0.0.0/4)"),
                _ => None,
            }
        }
        IpAddr::V6(v6) => match v6.segments()[0] {
            _ if v6.is_unique_local() => Some("a unique local address (fc00::/7)"),
            _ if v6.is_unicast_link_local() => Some("a link-local address"),
            first if first & 0xffc0 == 0xfec0 => Some("a site-local address (fec0::/10)"),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind of answer for an address: `+` allowed, `p` private, `n` no host, `l` not listed.
    fn verdict(policy: &TargetPolicy, address: &str) -> char {
        match policy.check(address.parse().unwrap()) {
            Ok(()) => '+',
            Err(TargetRefused::Private { .. }) => 'p',
            Err(TargetRefused::NoHost { .. }) => 'n',
            Err(TargetRefused::NotListed(_)) => 'l',
        }
    }

    #[test]
    fn strangers_cannot_point_inwards() {
        let by_default = TargetPolicy::default();
        let open = TargetPolicy { allow_private_targets: true, ..TargetPolicy::default() };
        let demo = TargetPolicy::loopback_only();
        for (address, wanted) in [
            ("8.8.8.8", "++l"),
            ("2001:4860::8888", "++l"),
            ("0.0.0.0", "nnn"),
            ("0.1.2.3", "nnn"),
            ("255.255.255.255", "nnn"),
            ("224.0.0.1", "nnn"),
            ("239.255.255.255", "nnn"),
            ("ff02::1", "nnn"),
            ("::", "nnn"),
            ("127.0.0.1", "p++"),
            ("127.9.8.7", "p++"),
            ("::1", "p++"),
            ("::ffff:127.0.0.1", "p++"),
            ("10.0.0.1", "p+l"),
            ("172.16.0.1", "p+l"),
            ("172.32.0.1", "++l"),
            ("192.168.1.1", "p+l"),
            ("169.254.169.254", "p+l"),
            ("100.64.0.1", "p+l"),
            ("100.128.0.1", "++l"),
            ("198.19.255.255", "p+l"),
            ("240.0.0.1", "p+l"),
            ("fe80::1", "p+l"),
            ("fc00::1", "p+l"),
            ("fec0::1", "p+l"),
            ("64:ff9b::7f00:1", "p+l"),
            ("64:ff9b::808:808", "++l"),
            ("2002:a00:1::", "p+l"),
            ("2002:7f00:1::", "p+l"),
            ("::127.0.0.1", "p+l"),
        ] {
            let found: String =
                [&by_default, &open, &demo].iter().map(|policy| verdict(policy, address)).collect();
            assert_eq!(found, wanted, "{address}");
        }
    }

    #[test]
    fn a_relay_may_be_private_but_only_targets_holds() {
        let private = "10.0.0.5".parse().unwrap();
        assert!(TargetPolicy::default().check_relay(private).is_ok());
        assert!(TargetPolicy::loopback_only().check_relay(private).is_err());
        assert!(TargetPolicy::default().check_relay("0.0.0.0".parse().unwrap()).is_err());
    }
}
