//! AUTH PLAIN and LOGIN (RFC 4954, 4616; LOGIN as it is in use).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most octets of a user name or password.
const LONGEST_CREDENTIAL: usize = 255;

/// Where an AUTH dialogue stands: what the next line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialogue {
    Plain,
    LoginUser,
    LoginPassword { user: String },
}

/// What a line of the dialogue led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for the next line with this reply.
    Ask(Dialogue, &'static str),
    /// Check these.
    Check { user: String, password: String },
    /// It failed with this reply.
    Fail(&'static str),
}

/// Begins a dialogue from the arguments of AUTH.
pub(super) fn begin(arguments: &str) -> Step {
    let (mechanism, initial) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let initial = initial.trim_matches(' ');
    let dialogue = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => Dialogue::Plain,
        "LOGIN" => Dialogue::LoginUser,
        "" => return Step::Fail("501 5.5.4 AUTH needs a mechanism: PLAIN or LOGIN"),
        _ => return Step::Fail("504 5.5.4 this mechanism is not offered: use PLAIN or LOGIN"),
    };
    match (initial, dialogue) {
        ("", Dialogue::Plain) => Step::Ask(Dialogue::Plain, "334 "),
        ("", dialogue) => Step::Ask(dialogue, "334 VXNlcm5hbWU6"),
        // RFC 4954, 4: an empty initial response is written as an equals sign.
        ("=", dialogue) => go_on(dialogue, ""),
        (initial, dialogue) => go_on(dialogue, initial),
    }
}

/// Reads one line of the dialogue.
pub(super) fn go_on(dialogue: Dialogue, line: &str) -> Step {
    if line == "*" {
        return Step::Fail("501 5.7.0 authentication cancelled");
    }
    let Some(text) = STANDARD.decode(line).ok().and_then(|octets| String::from_utf8(octets).ok())
    else {
        return Step::Fail("501 5.5.2 this is not base64 of UTF-8 text");
    };
    match dialogue {
        Dialogue::Plain => {
            let parts: Vec<&str> = text.split('\0').collect();
            let [authorize, user, password] = parts[..] else {
                return Step::Fail("501 5.5.2 PLAIN needs two NUL octets");
            };
            // Acting for somebody else is not offered.
            if !authorize.is_empty() && authorize != user {
                return Step::Fail("535 5.7.8 authentication failed");
            }
            check(user.to_owned(), password.to_owned())
        }
        Dialogue::LoginUser => {
            Step::Ask(Dialogue::LoginPassword { user: text }, "334 UGFzc3dvcmQ6")
        }
        Dialogue::LoginPassword { user } => check(user, text),
    }
}

fn check(user: String, password: String) -> Step {
    let fits = |text: &str| {
        !text.is_empty() && text.len() <= LONGEST_CREDENTIAL && !text.chars().any(char::is_control)
    };
    if fits(&user) && fits(&password) {
        Step::Check { user, password }
    } else {
        Step::Fail("535 5.7.8 authentication failed")
    }
}
