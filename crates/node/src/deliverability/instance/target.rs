//! Where a request to a deliverability instance goes: scheme, host, port and path of a URL, and no more.
//!
//! **Absences.** No user name, no fragment, no scheme besides `https` and `http`, and at most [`LONGEST_URL`] octets:
//! what a redirection names was written by a stranger.

use core::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// Octets of a URL.
const LONGEST_URL: usize = 2_000;

/// A URL that can be asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    secure: bool,
    /// Lower case, without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// Begins with `/`; with its query.
    path: String,
}

impl Target {
    /// Reads a URL such as `https://rules.example.net` or `http://127.0.0.1:2590/rules`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_URL {
            return Err(format!("it is longer than {LONGEST_URL} octets"));
        }
        let uri: Uri = text.parse().map_err(|fault| format!("{text:?} is no URL: {fault}"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text:?} begins neither with https:// nor with http://")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{text:?} names no host"))?;
        if authority.as_str().contains('@') {
            return Err("a URL with a user name or password is not taken".to_owned());
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let bare = bare.trim_end_matches('.').to_ascii_lowercase();
        if bare.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        let port = match authority.port() {
            None if authority.as_str().len() > host.len() => {
                return Err(format!("{text:?} has no port that can be connected to"));
            }
            None if secure => 443,
            None => 80,
            Some(port) if port.as_u16() == 0 => return Err("port 0 cannot be connected to".into()),
            Some(port) => port.as_u16(),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, host: bare, port, path })
    }

    /// Reads the URL of an instance: below it stand the paths of the protocol, so it has no query.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse_base(text: &str) -> Result<Self, String> {
        let mut base = Self::parse(text)?;
        if base.path.contains('?') {
            return Err("the URL of an instance has no `?`".to_owned());
        }
        base.path.truncate(base.path.trim_end_matches('/').len());
        Ok(base)
    }

    /// What stands below a base.
    #[must_use]
    pub(super) fn below(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path), ..self.clone() }
    }

    /// Where a `Location` leads from here (RFC 9110, section 10.2.2).
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn follow(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or_default();
        if location.contains("://") {
            return Self::parse(location);
        }
        let scheme = if self.secure { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = match location.as_bytes().first() {
            None => return Err("it is empty".to_owned()),
            Some(b'/') => location.to_owned(),
            Some(_) => {
                let folder = self.path.split('?').next().unwrap_or_default();
                let folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        };
        Self::parse(&format!("{scheme}://{}{path}", self.authority()))
    }

    /// Whether both are the same scheme, host and port, so that what one may know the other may.
    #[must_use]
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host: a name or an address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    #[must_use]
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The address that the host is, where it is no name.
    #[must_use]
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether whoever wrote it meant this machine: a loopback address, or `localhost`.
    #[must_use]
    pub fn means_this_machine(&self) -> bool {
        let loopback = self.address().is_some_and(|address| address.to_canonical().is_loopback());
        loopback || self.host == "localhost"
    }

    /// Host and port as a URL and the field `Host` have them.
    #[must_use]
    pub(super) fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        // A query may hold what only its receiver should know.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(out, "{scheme}://{}{path}", self.authority())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_others_refused() {
        for (text, shown) in [
            ("https://rules.example.net", "https://rules.example.net"),
            ("https://Rules.Example.net./", "https://rules.example.net"),
            ("https://rules.example.net:443/a/", "https://rules.example.net/a"),
            ("http://127.0.0.1:2590", "http://127.0.0.1:2590"),
            ("http://[::1]:2590/x", "http://[::1]:2590/x"),
        ] {
            assert_eq!(Target::parse_base(text).unwrap().to_string(), shown, "{text}");
        }
        let long = format!("https://a.example/{}", "x".repeat(2_000));
        for bad in [
            "",
            "rules.example.net",
            "ftp://rules.example.net",
            "https://",
            "https://user:secret@rules.example.net",
            "https://rules.example.net:0",
            "https://rules.example.net:",
            "https://rules.example.net:99999",
            "https://rules.example.net/?a=1",
            "file:///etc/passwd",
            "https://a b.example",
            &long,
        ] {
            assert!(Target::parse_base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirections_are_followed_as_they_are_meant() {
        let base = Target::parse_base("https://rules.example.net/a").unwrap().below("/v1/bundle");
        for (location, wanted) in [
            ("/other", "https://rules.example.net/other"),
            ("next?x=1", "https://rules.example.net/a/v1/next"),
            ("//cdn.example.net/x", "https://cdn.example.net/x"),
            ("http://10.0.0.1/x#part", "http://10.0.0.1/x"),
        ] {
            assert_eq!(base.follow(location).unwrap().to_string(), wanted, "{location}");
        }
        assert_eq!(base.follow("next?x=1").unwrap().path(), "/a/v1/next?x=1");
        for bad in ["", "#x", "gopher://x/", "/\u{7f}", "https://a@b/"] {
            assert!(base.follow(bad).is_err(), "{bad:?}");
        }
        assert!(base.same_origin(&base.follow("/x").unwrap()));
        for other in ["//rules.example.net:444/", "http://rules.example.net/", "//x.example/"] {
            assert!(!base.same_origin(&base.follow(other).unwrap()), "{other}");
        }
    }
}
