//! Reaction rules of a world, drawn from its seed, and put in the place of others in mid-flight.

use core::fmt::Write as _;
use core::time::Duration;
use std::sync::Arc;

use rules::reaction::{ReactionFile, ReactionRules};

use crate::chance::Chance;

/// What a server says that has had too many messages; see [`crate::fleet`].
pub(crate) const TOO_MANY: &str = "too many messages";

/// A rule whose effect the judge works out for itself: [`TOO_MANY`] suspends the path at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrawnReaction {
    /// For how long.
    pub(crate) lasts: Duration,
}

/// The reaction rules of some time of a world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reactions {
    /// `[[rule]]` tables.
    pub(crate) text: String,
    pub(crate) drawn: Option<DrawnReaction>,
    /// Those that come with the program stand behind them.
    pub(crate) shipped: bool,
}

/// What a rule that is not judged says and does: pattern, an example of it, and the lines of its effect.
const OTHERS: [(&str, &str, &str); 5] = [
    (
        "mailbox full",
        "452 4.2.2 mailbox full",
        "hits = 2\nwithin = \"10m\"\nscope = \"source-at-provider\"\naction = \"slow\"\nmessages_per_minute = 6\nfor = \"5m\"\nrecovery = { steps = 3, every = \"1m\" }",
    ),
    (
        "not this recipient",
        "421 4.3.0 not this recipient, not on this connection",
        "hits = 3\nwithin = \"1h\"\nscope = \"source-at-provider\"\naction = \"fewer-connections\"\nconnections = 1\nfor = \"10m\"",
    ),
    (
        "too many connections",
        "421 4.7.0 too many connections",
        "scope = \"source-at-provider\"\naction = \"slow\"\nconnections_per_hour = 60\nfor = \"5m\"",
    ),
    (
        "no such user",
        "550 5.1.1 no such user",
        "hits = 4\nwithin = \"10m\"\nscope = \"delivery\"\naction = \"suspend\"\nfor = \"3m\"\nrecovery = { steps = 2, every = \"1m\" }",
    ),
    (
        "greylisted",
        "451 4.7.1 greylisted, come back later",
        "hits = 2\nwithin = \"10m\"\nscope = \"source\"\naction = [\"lower-level\", \"alert\"]\nlevels = 1\nfor = \"10m\"",
    ),
];

impl Reactions {
    /// Only those that come with the program.
    pub(crate) fn shipped() -> Self {
        Self { shipped: true, ..Self::default() }
    }

    /// Draws some.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut own = Self { shipped: chance.percent(50), ..Self::default() };
        if chance.percent(75) {
            let minutes = chance.between(1, 40);
            own.drawn = Some(DrawnReaction { lasts: Duration::from_secs(minutes * 60) });
            let effect = format!("scope = \"path\"\naction = \"suspend\"\nfor = \"{minutes}m\"");
            own.add(TOO_MANY, "421 4.7.0 too many messages", &effect);
        }
        for (pattern, example, effect) in OTHERS {
            if chance.percent(40) {
                own.add(pattern, example, effect);
            }
        }
        own
    }

    fn add(&mut self, pattern: &str, example: &str, effect: &str) {
        let name = pattern.replace(' ', "-");
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            "[[rule]]\nname = \"{name}\"\ntext = \"{pattern}\"\n{effect}\nsource = \"drawn\"\nmatches = [\"{example}\"]\nmatches_not = [\"250 ok\"]"
        );
    }

    /// The rules, under a version of their own.
    pub(crate) fn compile(&self, number: usize) -> Arc<ReactionRules> {
        if self.text.is_empty() {
            return if self.shipped { ReactionRules::shipped() } else { ReactionRules::none() };
        }
        let text = format!("schema_version = 1\nversion = \"drawn-{number}\"\n{}", self.text);
        let own = ReactionFile::parse("reactions.toml", text.as_bytes())
            .expect("the drawn rules are well formed");
        let file = match self.shipped {
            true => ReactionFile::combine(Some(&own), rules::reaction::shipped_reactions()),
            false => own,
        };
        Arc::new(ReactionRules::compile(&file))
    }
}
