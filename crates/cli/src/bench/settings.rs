//! The configuration of a node that is measured: one source, rules under which nothing but the machine limits the rate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use lab::Lab;

/// Where no name server is: the port "discard".
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

const RULES: &str = r#"
schema_version = 1
[[rule]]
name = "bench"
provider = "the benchmark's sink"
mask = "*.bench.example"
scope = "path"
pacing = "burst"
max_connections = 10
max_messages_per_connection = 100000
messages_per_hour = 100000000
tls = "disabled"
source_of_figures = "the benchmark"
matches = ["mx.d000.bench.example"]
matches_not = ["mx.d000.bench.test"]
"#;

/// What differs from one measurement to the next.
pub(super) struct Settings<'a> {
    /// The world that mail goes to.
    pub(super) lab: &'a Lab,
    /// Whether DNS answers; without it everything stays in the queue.
    pub(super) routes: bool,
    /// Where mail is submitted; port 0: any.
    pub(super) submission: SocketAddr,
    /// Where the HTTP API is, if anywhere.
    pub(super) http: Option<SocketAddr>,
    /// Further sections.
    pub(super) more: &'a str,
}

impl Settings<'_> {
    /// Writes the rules into the folder and gives the text of a configuration that lies there.
    ///
    /// # Errors
    /// The rules cannot be written.
    pub(super) fn write_rules(&self, folder: &Path) -> std::io::Result<String> {
        std::fs::write(folder.join("mx.toml"), RULES)?;
        Ok(format!(
            r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.31"
helo = "m1.sender.example"
[rules]
mx = "mx.toml"
level = "custom"
[smtp_client]
port = {port}
[dns]
servers = ["{dns}"]
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
listen = ["{submission}"]
[http]
listen = [{http}]
{more}
"#,
            port = self.lab.port(),
            dns = if self.routes { self.lab.dns_address() } else { NOBODY },
            submission = self.submission,
            http = self.http.map(|http| format!("{:?}", http.to_string())).unwrap_or_default(),
            more = self.more,
        ))
    }
}

/// Address of a recipient: a hundred domains take turns unless `domains` says less.
pub(super) fn recipient(number: u64, domains: u64) -> String {
    format!("person{number}@d{:03}.bench.example", number % domains)
}

/// What the template of [`content`](super::world::content) asks of each recipient, as JSON.
pub(super) fn merge(number: u64) -> String {
    format!("\"first_name\":\"Person {number}\",\"city\":\"Springfield\"")
}
