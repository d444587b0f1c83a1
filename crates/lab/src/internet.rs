//! Ready-made worlds: a believable mail internet for demonstrations, a plain one for benchmarks,
//! and recipients for campaigns to them.
//!
//! The real mail domains and host names stand here only so that rules written for the real
//! internet match; every address behind them is on 127.0.0.0/8. Limits are those that senders are
//! commonly advised to keep; behaviour and texts are of the lab's making and say nothing about the real
//! providers.

use std::net::Ipv4Addr;

use crate::chance::{Sequence, fraction};
use crate::config::{Alias, LabConfig, MxConfig, Promise, ProviderConfig};
use crate::mood::{Mood, StartTls};
use crate::span::Span;
use crate::wording::Wording;

/// The limits of a host for which no other figure is known.
const COMMON_CONNECTIONS: u32 = 10;
const COMMON_MESSAGES: u32 = 100;
const COMMON_HOUR: u32 = 2_500;
/// Weight of each domain that cannot be delivered to, where the providers weigh about 100.
const ODD_WEIGHT: f64 = 0.1;
/// Providers with more domains than this take them evenly; others favour their first.
const FEW_DOMAINS: usize = 20;

/// A provider of the demonstration, as a row of its table.
struct Row {
    name: &'static str,
    domains: &'static [&'static str],
    /// Preference and name of each MX host, and how many addresses it has.
    hosts: &'static [(u16, &'static str, u8)],
    wording: Wording,
    share: f64,
    /// Connections, messages on a connection, messages in an hour; 0 for the common figure.
    limits: (u32, u32, u32),
    tls: bool,
}

const ROWS: [Row; 14] = [
    Row {
        name: "google",
        domains: &["gmail.com", "googlemail.com"],
        hosts: &[
            (5, "gmail-smtp-in.l.google.com", 2),
            (10, "alt1.gmail-smtp-in.l.google.com", 1),
            (20, "alt2.gmail-smtp-in.l.google.com", 1),
            (30, "alt3.gmail-smtp-in.l.google.com", 1),
            (40, "alt4.gmail-smtp-in.l.google.com", 1),
        ],
        wording: Wording::Google,
        share: 30.0,
        limits: (5, 50, 0),
        tls: true,
    },
    Row {
        name: "outlook",
        domains: &["outlook.com", "hotmail.com", "live.com", "msn.com"],
        hosts: &[(5, "outlook-com.olc.protection.outlook.com", 4)],
        wording: Wording::Microsoft,
        share: 15.0,
        limits: (5, 50, 0),
        tls: false,
    },
    Row {
        name: "icloud",
        domains: &["icloud.com", "me.com"],
        hosts: &[(10, "mx01.mail.icloud.com", 2), (10, "mx02.mail.icloud.com", 2)],
        wording: Wording::Apple,
        share: 7.0,
        limits: (10, 5, 0),
        tls: false,
    },
    Row {
        name: "orange",
        domains: &["orange.fr", "wanadoo.fr"],
        hosts: &[(10, "smtp-in.orange.fr", 2)],
        wording: Wording::Orange,
        share: 6.0,
        limits: (2, 100, 0),
        tls: true,
    },
    Row {
        name: "free",
        domains: &["free.fr"],
        hosts: &[(10, "mx1.free.fr", 1), (20, "mx2.free.fr", 1)],
        wording: Wording::Generic,
        share: 3.0,
        limits: (2, 0, 0),
        tls: false,
    },
    Row {
        name: "laposte",
        domains: &["laposte.net"],
        hosts: &[(10, "smtpz4.laposte.net", 2)],
        wording: Wording::LaPoste,
        share: 2.5,
        limits: (2, 100, 0),
        tls: false,
    },
    Row {
        name: "gmx",
        domains: &["gmx.net", "gmx.de"],
        hosts: &[(10, "mx00.emig.gmx.net", 1), (10, "mx01.emig.gmx.net", 1)],
        wording: Wording::Gmx,
        share: 7.0,
        limits: (4, 20, 0),
        tls: true,
    },
    Row {
        name: "t-online",
        domains: &["t-online.de"],
        hosts: &[(10, "mx00.t-online.de", 1), (10, "mx01.t-online.de", 1)],
        wording: Wording::Generic,
        share: 3.0,
        limits: (0, 0, 0),
        tls: false,
    },
    Row {
        name: "comcast",
        domains: &["comcast.net"],
        hosts: &[(5, "mx1a1.comcast.net", 2), (5, "mx2c1.comcast.net", 2)],
        wording: Wording::Comcast,
        share: 3.0,
        limits: (25, 1_000, 0),
        tls: true,
    },
    Row {
        name: "qq",
        domains: &["qq.com", "foxmail.com"],
        hosts: &[(10, "mx3.qq.com", 1), (20, "mx2.qq.com", 1), (30, "mx1.qq.com", 1)],
        wording: Wording::Tencent,
        share: 2.0,
        limits: (4, 8, 4_000),
        tls: true,
    },
    Row {
        name: "netease",
        domains: &["163.com", "126.com"],
        hosts: &[(10, "163mx01.mxmail.netease.com", 2), (50, "163mx00.mxmail.netease.com", 1)],
        wording: Wording::Netease,
        share: 1.5,
        limits: (4, 7, 4_000),
        tls: false,
    },
    Row {
        name: "mail.ru",
        domains: &["mail.ru", "bk.ru"],
        hosts: &[(10, "mxs.mail.ru", 2)],
        wording: Wording::MailRu,
        share: 2.0,
        limits: (0, 0, 0),
        tls: false,
    },
    Row {
        name: "microsoft365",
        domains: &["fabrikam-shop.example", "northwind-mill.example"],
        hosts: &[(0, "fabrikamshop-example.mail.protection.outlook.com", 3)],
        wording: Wording::Microsoft,
        share: 3.0,
        limits: (5, 50, 0),
        tls: false,
    },
    Row {
        name: "ovh",
        domains: &["boulangerie-du-port.example", "atelier-gris.example"],
        hosts: &[(1, "mx1.mail.ovh.net", 1), (5, "mx2.mail.ovh.net", 1)],
        wording: Wording::Generic,
        share: 0.7,
        limits: (0, 0, 0),
        tls: false,
    },
];

/// The world of `mailweir demo`: fifteen providers, most with real domains and host names, forty small
/// companies, and domains that cannot be delivered to.
///
/// Two in a hundred addresses are unknown, a few mailboxes are full, OVH's customers greylist,
/// Yahoo closes after 20 messages without a word, TLS is offered where it is demanded in real life.
/// With [`LabConfig::returns`], six in a thousand bounce after they were taken, two complain, eight are away.
/// The limits that senders are advised to keep are set as promises and enforced with 421; for other
/// figures (a level, own rules) call [`LabConfig::set_promise`]. The seed moves all chances.
#[must_use]
pub fn demo(seed: u64) -> LabConfig {
    let mut config = LabConfig { seed, ..LabConfig::default() };
    for (place, row) in (0u8..).zip(&ROWS) {
        config.providers.push(provider_of(row, place));
    }
    config.providers.insert(1, yahoo());
    if let Some(outlook) = config.provider_mut("outlook") {
        outlook.mx[0].domains = vec!["outlook.com".to_owned()];
        for (place, domain) in (0u8..).zip(["hotmail.com", "live.com", "msn.com"]) {
            // Each domain has its own host name, in front of addresses that overlap.
            outlook.mx.push(MxConfig {
                host: format!("{}.olc.protection.outlook.com", domain.replace('.', "-")),
                preference: 2,
                addresses: addresses(1, 1 + place, 4),
                domains: vec![domain.to_owned()],
            });
        }
    }
    if let Some(gmx) = config.provider_mut("gmx") {
        for mx in &mut gmx.mx {
            mx.domains = gmx.domains.clone();
        }
        gmx.domains.push("web.de".to_owned());
        for (host, last) in [("mx-ha02.web.de", 3), ("mx-ha03.web.de", 4)] {
            gmx.mx.push(MxConfig {
                host: host.to_owned(),
                preference: 100,
                addresses: addresses(6, last, 1),
                domains: vec!["web.de".to_owned()],
            });
        }
    }
    if let Some(ovh) = config.provider_mut("ovh") {
        ovh.mood.greylist = Some(Span::from_secs(300));
    }
    if let Some(google) = config.provider_mut("google") {
        google.mood.temporary_share = 0.003;
    }
    config.providers.push(small_companies());
    config.providers.push(ProviderConfig {
        name: "closed_door".to_owned(),
        domains: vec!["closed-door.example".to_owned()],
        share: ODD_WEIGHT,
        mood: Mood { refuse_connection: true, ..Mood::default() },
        mx: vec![MxConfig {
            host: "mx.closed-door.example".to_owned(),
            preference: 10,
            addresses: vec![Ipv4Addr::new(127, 1, 201, 1)],
            domains: Vec::new(),
        }],
        ..ProviderConfig::default()
    });
    config.null_mx = vec!["no-mail-here.example".to_owned()];
    config.nxdomain = vec!["gone-company.example".to_owned()];
    config.cname = vec![Alias { name: "old-name.example".to_owned(), target: small_domain(0) }];
    config
}

fn provider_of(row: &Row, place: u8) -> ProviderConfig {
    let (connections, messages, hour) = row.limits;
    let figure = |limit: u32, common: u32| Some(if limit > 0 { limit } else { common });
    let promise = Promise {
        max_connections: figure(connections, COMMON_CONNECTIONS),
        max_messages_per_connection: figure(messages, COMMON_MESSAGES),
        messages_per_hour: figure(hour, COMMON_HOUR),
    };
    let mut first = 1;
    let mut mx = Vec::new();
    for (preference, host, count) in row.hosts {
        mx.push(MxConfig {
            host: (*host).to_owned(),
            preference: *preference,
            addresses: addresses(place, first, *count),
            domains: Vec::new(),
        });
        first += count;
    }
    ProviderConfig {
        name: row.name.to_owned(),
        domains: row.domains.iter().map(|domain| (*domain).to_owned()).collect(),
        wording: row.wording,
        share: row.share,
        mood: Mood {
            unknown_users: 0.02,
            mailbox_full: 0.004,
            bounces_later: 0.006,
            complaints: 0.002,
            out_of_office: 0.008,
            max_connections: promise.max_connections,
            max_messages_per_connection: promise.max_messages_per_connection,
            messages_per_hour: promise.messages_per_hour,
            starttls: if row.tls { StartTls::Good } else { StartTls::None },
            ..Mood::default()
        },
        promise,
        mx,
        ..ProviderConfig::default()
    }
}

/// Addresses of a provider: 127.1.`place`.`first` and following.
fn addresses(place: u8, first: u8, count: u8) -> Vec<Ipv4Addr> {
    (first..first + count).map(|last| Ipv4Addr::new(127, 1, place, last)).collect()
}

/// Three hosts of eight addresses each, sixteen of them distinct: each host shares four with the
/// one before it.
fn yahoo() -> ProviderConfig {
    let row = Row {
        name: "yahoo",
        domains: &["yahoo.com", "aol.com", "ymail.com", "yahoo.fr"],
        hosts: &[],
        wording: Wording::Yahoo,
        share: 10.0,
        limits: (0, 20, 0),
        tls: false,
    };
    let mut provider = provider_of(&row, 200);
    provider.mood.close_silently = true;
    provider.mx = [("mta5", 1), ("mta6", 5), ("mta7", 9)]
        .map(|(host, first)| MxConfig {
            host: format!("{host}.am0.yahoodns.net"),
            preference: 1,
            addresses: addresses(200, first, 8),
            domains: Vec::new(),
        })
        .into();
    provider
}

fn small_domain(number: usize) -> String {
    const FIRST: [&str; 8] = ["alder", "birch", "cedar", "dune", "elm", "fern", "grove", "heath"];
    const SECOND: [&str; 5] = ["books", "bikes", "garden", "press", "tools"];
    format!(
        "{}-{}.example",
        FIRST[number % FIRST.len()],
        SECOND[number / FIRST.len() % SECOND.len()]
    )
}

fn small_companies() -> ProviderConfig {
    let mut provider = ProviderConfig {
        name: "small_companies".to_owned(),
        share: 4.0,
        mood: Mood {
            unknown_users: 0.02,
            mailbox_full: 0.004,
            bounces_later: 0.006,
            complaints: 0.002,
            out_of_office: 0.008,
            ..Mood::default()
        },
        // One generic rule stands for all of them, and its budget is one for each source.
        promise: Promise {
            max_connections: Some(COMMON_CONNECTIONS),
            max_messages_per_connection: Some(COMMON_MESSAGES),
            messages_per_hour: Some(COMMON_HOUR),
        },
        ..ProviderConfig::default()
    };
    for (number, last) in (0..40).zip((1u8..).step_by(2)) {
        let domain = small_domain(number);
        let hosts = 1 + u8::from(number % 2 == 1);
        for host in 0..hosts {
            provider.mx.push(MxConfig {
                host: format!("mx{}.{domain}", host + 1),
                preference: 10 * (u16::from(host) + 1),
                addresses: vec![Ipv4Addr::new(127, 1, 210, last + host)],
                domains: vec![domain.clone()],
            });
        }
        provider.domains.push(domain);
    }
    // A company that never wrote an MX record: its host is its domain.
    provider.implicit_mx.push("no-mx-record.example".to_owned());
    provider
}

/// The world of the benchmarks: d000.bench.example to d099.bench.example, each with one MX host on
/// its own address 127.2.0.x, all accepting; keys and data are not examined.
#[must_use]
pub fn hundred_domains() -> LabConfig {
    let mut provider =
        ProviderConfig { name: "bench".to_owned(), share: 1.0, ..ProviderConfig::default() };
    for (number, last) in (0..100).zip(1u8..) {
        let domain = format!("d{number:03}.bench.example");
        provider.mx.push(MxConfig {
            host: format!("mx.{domain}"),
            preference: 10,
            addresses: vec![Ipv4Addr::new(127, 2, 0, last)],
            domains: vec![domain.clone()],
        });
        provider.domains.push(domain);
    }
    LabConfig {
        record_keys: false,
        inspect_data: false,
        providers: vec![provider],
        ..LabConfig::default()
    }
}

impl LabConfig {
    /// Sets what senders promise a provider. Limits that its mood enforces follow the promise, so
    /// that a sender that keeps it is never turned away. False when there is no such provider.
    pub fn set_promise(&mut self, provider: &str, promise: Promise) -> bool {
        let Some(provider) = self.provider_mut(provider) else { return false };
        provider.promise = promise;
        let mood = &mut provider.mood;
        let follow = |enforced: &mut Option<u32>, promised: Option<u32>| {
            if enforced.is_some() {
                *enforced = promised;
            }
        };
        follow(&mut mood.max_connections, promise.max_connections);
        follow(&mut mood.max_messages_per_connection, promise.max_messages_per_connection);
        follow(&mut mood.messages_per_hour, promise.messages_per_hour);
        true
    }
}

/// Somebody to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The address.
    pub email: String,
    /// First name.
    pub first_name: &'static str,
    /// Last name.
    pub last_name: &'static str,
    /// Where they live.
    pub city: &'static str,
    /// Their language, as in RFC 5646.
    pub language: &'static str,
    /// A number that the sender knows them by; unique in a run.
    pub customer: u64,
}

const PEOPLE: [(&str, &str, &str); 24] = [
    ("Ada", "Berger", "de"),
    ("Anna", "Martin", "fr"),
    ("Ben", "Carter", "en"),
    ("Camille", "Leroy", "fr"),
    ("Chen", "Wang", "zh"),
    ("Dora", "Novak", "cs"),
    ("Emil", "Fischer", "de"),
    ("Elise", "Moreau", "fr"),
    ("Finn", "Hansen", "da"),
    ("Grace", "Turner", "en"),
    ("Hugo", "Petit", "fr"),
    ("Ines", "Garcia", "es"),
    ("Ivan", "Petrov", "ru"),
    ("Jonas", "Weber", "de"),
    ("Karin", "Lind", "sv"),
    ("Li", "Zhang", "zh"),
    ("Marta", "Rossi", "it"),
    ("Noah", "Walker", "en"),
    ("Olga", "Sokolova", "ru"),
    ("Paul", "Girard", "fr"),
    ("Rosa", "Silva", "pt"),
    ("Sam", "Cooper", "en"),
    ("Tom", "Jansen", "nl"),
    ("Vera", "Klein", "de"),
];

const CITIES: [&str; 12] = [
    "Berlin", "Boston", "Brno", "Dublin", "Lille", "Lisbon", "Lyon", "Malmo", "Milan", "Porto",
    "Utrecht", "Vienna",
];

/// Recipients for a campaign to a lab: as many as asked for, all different, the same for the same
/// configuration and seed. Providers get their [`ProviderConfig::share`] of them (equal parts when
/// no provider has one); domains with a null MX, without existence or with broken DNS get one in a
/// thousand each.
pub fn recipients(
    config: &LabConfig,
    count: u64,
    seed: u64,
) -> impl Iterator<Item = Recipient> + use<> {
    let equal = config.providers.iter().all(|provider| provider.share <= 0.0);
    let mut pools: Vec<(f64, Vec<String>)> = config
        .providers
        .iter()
        .map(|provider| {
            let named = provider.domains.iter().chain(&provider.implicit_mx);
            let domains = named
                .map(|domain| match domain.strip_prefix("*.") {
                    Some(suffix) => format!("news.{suffix}"),
                    None => domain.clone(),
                })
                .collect();
            (if equal { 1.0 } else { provider.share }, domains)
        })
        .filter(|(weight, domains): &(f64, Vec<String>)| *weight > 0.0 && !domains.is_empty())
        .collect();
    let whole: f64 = pools.iter().map(|(weight, _)| weight).sum();
    let odd = config.null_mx.iter().chain(&config.nxdomain).chain(&config.servfail);
    let odd_weight = if whole > 0.0 { whole * ODD_WEIGHT / 100.0 } else { 1.0 };
    pools.extend(odd.map(|domain| (odd_weight, vec![domain.clone()])));
    let whole: f64 = pools.iter().map(|(weight, _)| weight).sum();
    let count = if pools.is_empty() { 0 } else { count };
    let mut chance = Sequence::new(seed);
    (0..count).map(move |number| recipient(number, &pools, whole, &mut chance))
}

fn recipient(
    number: u64,
    pools: &[(f64, Vec<String>)],
    whole: f64,
    chance: &mut Sequence,
) -> Recipient {
    let mut point = fraction(chance.next()) * whole;
    // Rounding may leave the point just past the last pool; then the last it is.
    let mut domains = pools.last().map_or(&[][..], |(_, domains)| domains.as_slice());
    for (weight, pool) in pools {
        if point < *weight {
            domains = pool;
            break;
        }
        point -= weight;
    }
    let mut at = chance.below(domains.len());
    if domains.len() <= FEW_DOMAINS {
        at = at.min(chance.below(domains.len()));
    }
    let domain = domains.get(at).map_or("", String::as_str);
    let (first_name, _, language) = PEOPLE[chance.below(PEOPLE.len())];
    let (_, last_name, _) = PEOPLE[chance.below(PEOPLE.len())];
    let city = CITIES[chance.below(CITIES.len())];
    let email = format!(
        "{}.{}{number}@{domain}",
        first_name.to_ascii_lowercase(),
        last_name.to_ascii_lowercase()
    );
    Recipient { email, first_name, last_name, city, language, customer: 100_000 + number }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use super::*;

    #[test]
    fn worlds_are_sound_and_yahoo_has_sixteen_addresses() {
        let config = demo(1);
        config.check().unwrap();
        hundred_domains().check().unwrap();
        assert!(config.providers.len() >= 14);
        let yahoo = config.provider("yahoo").unwrap();
        assert_eq!(yahoo.mx.iter().map(|mx| mx.addresses.len()).collect::<Vec<_>>(), [8, 8, 8]);
        let distinct: BTreeSet<_> = yahoo.mx.iter().flat_map(|mx| &mx.addresses).collect();
        assert_eq!(distinct.len(), 16);
        assert_eq!(config.provider("small_companies").unwrap().domains.len(), 40);
        assert_eq!(LabConfig::from_toml(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn recipients_follow_the_shares_and_the_seed() {
        let config = demo(1);
        let first: Vec<Recipient> = recipients(&config, 20_000, 7).collect();
        assert_eq!(first, recipients(&config, 20_000, 7).collect::<Vec<_>>());
        assert_ne!(first[..50], recipients(&config, 50, 8).collect::<Vec<_>>()[..]);
        let unique: HashSet<&str> =
            first.iter().map(|recipient| recipient.email.as_str()).collect();
        assert_eq!(unique.len(), first.len());
        let mut by_domain: BTreeMap<&str, usize> = BTreeMap::new();
        for recipient in &first {
            *by_domain.entry(recipient.email.split_once('@').unwrap().1).or_default() += 1;
        }
        let google = by_domain["gmail.com"] + by_domain["googlemail.com"];
        assert!((5_400..6_600).contains(&google), "{google}");
        assert!(by_domain["gmail.com"] > 2 * by_domain["googlemail.com"]);
        for domain in ["no-mail-here.example", "gone-company.example", "closed-door.example"] {
            assert!((5..50).contains(&by_domain[domain]), "{domain}");
        }
    }

    #[test]
    fn enforced_limits_follow_the_promise() {
        let mut config = demo(1);
        let promise = Promise { max_connections: Some(8), ..Promise::default() };
        assert!(config.set_promise("google", promise));
        let google = config.provider("google").unwrap();
        assert_eq!(google.mood.max_connections, Some(8));
        assert_eq!(google.mood.max_messages_per_connection, None);
        assert!(!config.set_promise("nobody", promise));
    }
}
