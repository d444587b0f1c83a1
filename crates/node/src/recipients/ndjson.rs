//! Rows that are JSON objects, one per line.

use core::fmt;

use mail::address::Mailbox;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use super::{COLUMN_LIMIT, Found, ROW_LIMIT, Reason, mailbox, utf8};

/// Reads the row at the start of `rest`, of which `searched` octets are known to hold no line end.
pub(super) fn row(rest: &[u8], searched: usize, ended: bool) -> Found {
    let (line, length) = match memchr::memchr(b'\n', &rest[searched..]) {
        Some(end) => (&rest[..searched + end], searched + end + 1),
        None if ended => (rest, rest.len()),
        None => return Found::Incomplete,
    };
    let line = line.trim_ascii();
    if line.is_empty() {
        return Found::Blank { length };
    }
    let outcome =
        if line.len() > ROW_LIMIT { Err(Reason::TooLong) } else { utf8(line).and_then(read) };
    Found::Row { length, outcome }
}

/// Reads one object.
fn read(line: &str) -> Result<(Mailbox, String), Reason> {
    let object: Object = serde_json::from_str(line).map_err(|fault| {
        // The position inside the line matters; its line number would always be 1.
        let why = fault.to_string().replace(" at line 1 column ", " at column ");
        match why.strip_prefix(TOO_MANY) {
            Some(_) => Reason::TooManyColumns,
            None => Reason::Json { why },
        }
    })?;
    let mut email = None;
    let mut members = serde_json::Map::new();
    for (name, value) in object.0 {
        if name.eq_ignore_ascii_case("email") {
            let Value::String(text) = value else { return Err(Reason::NoEmail) };
            if email.replace(text).is_some() {
                return Err(Reason::MemberTwice { name });
            }
        } else if members.contains_key(&name) {
            return Err(Reason::MemberTwice { name });
        } else {
            members.insert(name, value);
        }
    }
    let mailbox = mailbox(&email.ok_or(Reason::NoEmail)?)?;
    if members.is_empty() {
        return Ok((mailbox, String::new()));
    }
    let merge = serde_json::to_string(&members).expect("a JSON object can be written as JSON");
    Ok((mailbox, merge))
}

/// How the fault of an object with too many members begins.
const TOO_MANY: &str = "too many members";

/// The members of an object in their order, doubles included.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == COLUMN_LIMIT {
                        return Err(serde::de::Error::custom(TOO_MANY));
                    }
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
