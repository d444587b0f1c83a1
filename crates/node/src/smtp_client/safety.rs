//! Where connections may go: `[safety] only_targets`.
//!
//! **Promise.** With networks given, [`Safety::allows`] is false for every address outside them, however it is
//! written: an IPv4 address inside an IPv6 one counts as the IPv4 address.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A block of addresses, `127.0.0.0/8` or `fd00::/8`. A single address is a block of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network: {why}; write it like 127.0.0.0/8 or fd00::/8")]
pub struct BadNetwork {
    /// What was read.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Network {
    /// Whether the address lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                let difference = own.to_bits() ^ other.to_bits();
                difference.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                let difference = own.to_bits() ^ other.to_bits();
                difference.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    /// Reads an address, or an address and a prefix length; the bits after the prefix must be 0.
    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = |why| BadNetwork { text: text.to_owned(), why };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad("its address cannot be read"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| bad("its prefix length is too large"))?,
            Some(_) => return Err(bad("its prefix length is not a number")),
        };
        let host_bits = match address {
            IpAddr::V4(v4) => v4.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
            IpAddr::V6(v6) => v6.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
        };
        if host_bits {
            return Err(bad("the address has bits beyond its prefix"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// The guard that is asked right before every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Safety {
    /// The only networks to connect to; empty: anywhere.
    pub only: Vec<Network>,
}

impl Safety {
    /// Whether a connection to this address may be made.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.only.is_empty() || self.only.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_given_networks() {
        let safety = Safety {
            only: ["127.0.0.0/8", "10.1.2.3", "fd00::/8"].map(|n| n.parse().unwrap()).to_vec(),
        };
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("126.255.255.255", false),
            ("0.0.0.0", false),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("::ffff:127.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("::1", false),
            ("fdff::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(safety.allows(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(Safety::default().allows("8.8.8.8".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
    }

    #[test]
    fn reads_networks() {
        for bad in
            ["", "x", "127.0.0.1/8", "1.2.3.4/33", "1.2.3.0/+24", "::/129", "1.2.3.0/", "1/8"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert_eq!("127.0.0.0/8".parse::<Network>().unwrap().to_string(), "127.0.0.0/8");
        assert_eq!(
            "127.0.0.1/8".parse::<Network>().unwrap_err().to_string(),
            "`127.0.0.1/8` is not a network: the address has bits beyond its prefix; write it like 127.0.0.0/8 or fd00::/8"
        );
    }
}
