//! The closed lists of words in reaction rules.

use core::fmt;

use mail::attempt::Stage;
use serde::{Deserialize, Serialize};

/// When in a conversation something was said, as rules write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReactionStage {
    /// Instead of the greeting.
    Connect,
    /// To EHLO, HELO or LHLO.
    Ehlo,
    /// To STARTTLS.
    Starttls,
    /// To MAIL FROM.
    Mail,
    /// To RCPT TO.
    Rcpt,
    /// To DATA.
    Data,
    /// To the content.
    Content,
    /// While nothing was asked about a message: between two of them, or at the end.
    Between,
}

impl ReactionStage {
    /// Every stage, in the order of a conversation.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Ehlo,
        Self::Starttls,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Content,
        Self::Between,
    ];

    /// The word in files and options.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ehlo => "ehlo",
            Self::Starttls => "starttls",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Content => "content",
            Self::Between => "between",
        }
    }

    /// The stage with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }

    /// The word of the rules for how far a conversation had come.
    #[must_use]
    pub const fn of(stage: Stage) -> Self {
        match stage {
            Stage::Connect | Stage::Greeting => Self::Connect,
            Stage::Hello => Self::Ehlo,
            Stage::StartTls => Self::Starttls,
            Stage::MailFrom => Self::Mail,
            Stage::RcptTo => Self::Rcpt,
            Stage::Data => Self::Data,
            Stage::Content => Self::Content,
            Stage::Reset | Stage::Idle | Stage::Quit => Self::Between,
        }
    }
}

/// What a reaction is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReactionScope {
    /// One source at one target address.
    Path,
    /// One source at all MX hosts that the rule's masks match; without masks at those of the domain
    /// (the MX group) where it was heard.
    SourceAtProvider,
    /// One delivery, whatever it is sent from and to.
    Delivery,
    /// One source, wherever it sends to.
    Source,
}

impl ReactionScope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Path, Self::SourceAtProvider, Self::Delivery, Self::Source];

    /// The word in files and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::SourceAtProvider => "source-at-provider",
            Self::Delivery => "delivery",
            Self::Source => "source",
        }
    }

    /// The scope with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

impl fmt::Display for ReactionScope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReactionAction {
    /// Nothing is sent.
    Suspend,
    /// Messages, or connections, are spread over time.
    Slow,
    /// Fewer connections at the same time.
    FewerConnections,
    /// The figures of a lower level.
    LowerLevel,
    /// The delivery is paused until a person lets it go on.
    StopDelivery,
    /// Somebody is told.
    Alert,
}

impl ReactionAction {
    /// Every action.
    pub const ALL: [Self; 6] = [
        Self::Suspend,
        Self::Slow,
        Self::FewerConnections,
        Self::LowerLevel,
        Self::StopDelivery,
        Self::Alert,
    ];

    /// The word in files and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Slow => "slow",
            Self::FewerConnections => "fewer-connections",
            Self::LowerLevel => "lower-level",
            Self::StopDelivery => "stop-delivery",
            Self::Alert => "alert",
        }
    }

    /// The action with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }
}

/// How far the flow of messages is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateCut {
    /// To so many messages an hour, evenly spread.
    PerHour(u32),
    /// To so many hundredths of what the provider took in the last minute; 1 to 99.
    Percent(u8),
}

impl fmt::Display for RateCut {
    /// As people say it: `10 messages a minute`, `90 % of what was taken`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerHour(figure) if figure % 60 == 0 => {
                write!(out, "{} messages a minute", figure / 60)
            }
            Self::PerHour(figure) => write!(out, "{figure} messages an hour"),
            Self::Percent(percent) => write!(out, "{percent} % of what was taken"),
        }
    }
}
