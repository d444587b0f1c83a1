//! Networks of addresses in CIDR notation: `127.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
///
/// Both families are kept apart: an IPv4 network never contains an IPv6 address, except in the
/// mapped form `::ffff:a.b.c.d`, which [`IpNetwork::contains`] takes for what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpNetwork {
    address: IpAddr,
    prefix_bits: u8,
}

impl IpNetwork {
    /// The network of the first `prefix_bits` bits of `address`; the other bits are cleared.
    /// `None` when the family has fewer bits than that (32 or 128).
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if prefix_bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if prefix_bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { address, prefix_bits })
    }

    /// Whether `address` belongs to it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = if self.address.is_ipv4() { address.to_canonical() } else { address };
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.prefix_bits).is_some_and(|network| network == *self)
    }

    /// Its first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    #[must_use]
    pub const fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    /// Reads `address/bits` or an address alone. Bits behind the prefix must be 0, so that a slip
    /// such as `10.1.2.3/8` is seen.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            format!("{text:?} is no network such as \"192.0.2.0/24\" or \"2001:db8::/32\"")
        })?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|parsed| *parsed <= most && bits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| format!("the prefix length {bits:?} is not 0 to {most}"))?,
        };
        let network = Self::new(address, bits).ok_or("the prefix is too long")?;
        if network.address != address {
            return Err(format!("{text} has bits set behind its prefix; {network} may be meant"));
        }
        Ok(network)
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_bits)
    }
}

impl fmt::Debug for IpNetwork {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn contains_by_the_table() {
        for (network, address, wanted) in [
            ("127.0.0.0/8", "127.255.255.255", true),
            ("127.0.0.0/8", "128.0.0.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
        ] {
            let network: IpNetwork = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), wanted, "{network} {address}");
        }
    }

    #[test]
    fn refuses_what_is_no_network() {
        for bad in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "10.1.2.3/8",
            "::/129",
            "::1/0",
            "localhost",
            "10.0.0.0/ 8",
            "999.0.0.0/8",
        ] {
            assert!(bad.parse::<IpNetwork>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_bit_by_bit(a in any::<u32>(), b in any::<u32>(), bits in 0..=32_u8) {
            let network = IpNetwork::new(IpAddr::V4(a.into()), bits).unwrap();
            let same = (0..u32::from(bits)).all(|bit| (a >> (31 - bit)) & 1 == (b >> (31 - bit)) & 1);
            prop_assert_eq!(network.contains(IpAddr::V4(b.into())), same);
            prop_assert_eq!(network.to_string().parse::<IpNetwork>(), Ok(network));
        }
    }
}
