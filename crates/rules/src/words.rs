//! The closed lists of words that a rule may use.

/// Declares an enum whose variants are single words in TOML, JSON and on the command line.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize,
            serde::Deserialize,
        )]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every word, in the order of this documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Their words, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word as written in a rule file.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value for a word of a rule file; `None` for any other text.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What a rule's limits count over (DESIGN 5.2).
    Scope {
        /// One budget per source over all targets of the rule. The default.
        #[default]
        Source = "source",
        /// One budget per source and target.
        Path = "path",
        /// One budget for all sources and targets together.
        Rule = "rule",
    }
}

words! {
    /// How an hour's messages are spread inside the hour.
    Pacing {
        /// Twelve periods of five minutes; each may send its twelfth as fast as possible. The
        /// default.
        #[default]
        Staircase = "staircase",
        /// One message every 3,600 s ÷ limit.
        Even = "even",
        /// As fast as possible until the hour's limit is reached.
        Burst = "burst",
    }
}

words! {
    /// Whether conversations are encrypted with STARTTLS (RFC 3207).
    TlsPolicy {
        /// What the configuration of the node says.
        #[default]
        Default = "default",
        /// STARTTLS is never used.
        Disabled = "disabled",
        /// STARTTLS where the server offers it; plain text otherwise.
        Opportunistic = "opportunistic",
        /// Nothing is sent without STARTTLS.
        Required = "required",
    }
}

words! {
    /// How far the figures of a rule can be trusted.
    Confidence {
        /// The rule carries no figure of its own, or says nothing about them. The default.
        #[default]
        None = "none",
        /// One operator's configuration or a secondary page.
        Low = "low",
        /// A maintained community rule set or the advice of a deliverability firm.
        Medium = "medium",
        /// The provider's own page, or given by the provider to a named project.
        High = "high",
    }
}
