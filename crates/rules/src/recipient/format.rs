//! Format rules: the MIME structure and the encodings of mail to a domain.

use core::ops::{Range, RangeInclusive};
use std::sync::OnceLock;

use toml::Spanned;
use toml::de::DeValue;

use super::parse::{self, Particular};
use super::{RecipientRuleFile, RecipientRules};
use crate::diagnostic::Diagnostic;
use crate::parse::Reader;
use crate::parse::versioned::truth;
use crate::words::words;

words! {
    /// Which bodies a message has.
    Structure {
        /// Those that its content has. The default.
        #[default]
        AsWritten = "as-written",
        /// HTML and text beside one another; a text is made of the HTML where the content has none.
        Multipart = "multipart",
        /// HTML alone, where the content has any.
        Html = "html",
        /// Text alone; it is made of the HTML where the content has none.
        Text = "text",
    }
}

words! {
    /// A character set by its MIME name. A subject that it cannot carry is sent in UTF-8; of a body the characters that
    /// it cannot carry become character references in HTML, and `?` in text.
    Charset {
        /// RFC 3629. The default.
        #[default]
        Utf8 = "utf-8",
        /// What Japanese mobile networks read: RFC 1468, 7-bit.
        Iso2022Jp = "iso-2022-jp",
        /// What Japanese mobile networks read, 8-bit.
        ShiftJis = "shift_jis",
        /// Japanese on Unix.
        EucJp = "euc-jp",
        /// Korean.
        EucKr = "euc-kr",
        /// Chinese, simplified.
        Gb18030 = "gb18030",
        /// Chinese, traditional.
        Big5 = "big5",
        /// Western European.
        Windows1252 = "windows-1252",
        /// Central European.
        Iso8859_2 = "iso-8859-2",
        /// Cyrillic.
        Koi8R = "koi8-r",
    }
}

words! {
    /// How the octets of a body travel (RFC 2045, 6).
    Transfer {
        /// As is shorter: quoted-printable or base 64. The default.
        #[default]
        Shorter = "shorter",
        /// Lines of ASCII.
        SevenBit = "7bit",
        /// Lines of any octets (RFC 6152). A server that does not offer 8BITMIME gets no such message: it fails.
        EightBit = "8bit",
        /// RFC 2045, 6.7.
        QuotedPrintable = "quoted-printable",
        /// RFC 2045, 6.8.
        Base64 = "base64",
    }
}

/// What a format rule says beside [`super::Recipients`].
///
/// ```toml
/// [[rule]]
/// name = "docomo"
/// mask = "docomo.ne.jp"
/// structure = "multipart"
/// subject_charset = "shift_jis"
/// html_charset = "shift_jis"
/// html_transfer = "8bit"
/// text_charset = "iso-2022-jp"
/// text_transfer = "7bit"
/// text_octets_max = 10_000
/// matches = ["docomo.ne.jp"]
/// matches_not = ["docomo.ne.jp.example.net"]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormatTreatment {
    /// `structure`: `as-written` (the default), `multipart`, `html` or `text`.
    pub structure: Structure,
    /// `related`: `true` puts the HTML into multipart/related even where it shows no file of its own.
    pub related: bool,
    /// `subject_charset`, of encoded words (RFC 2047). Absent: UTF-8.
    pub subject_charset: Charset,
    /// `html_charset`. Absent: UTF-8.
    pub html_charset: Charset,
    /// `html_transfer`. Absent: the shorter of quoted-printable and base64.
    pub html_transfer: Transfer,
    /// `text_charset`. Absent: UTF-8.
    pub text_charset: Charset,
    /// `text_transfer`. Absent: the shorter of quoted-printable and base64.
    pub text_transfer: Transfer,
    /// `text_octets_max`: the encoded text should have no more octets; more is a warning.
    pub text_octets_max: Option<u64>,
    /// `html_octets_max`: the encoded HTML should have no more octets; more is a warning.
    pub html_octets_max: Option<u64>,
    /// `images_octets_max`: files shown by the HTML should have no more octets together; more is a warning.
    pub images_octets_max: Option<u64>,
    /// `images_max`: the HTML should show no more files; more is a warning.
    pub images_max: Option<u64>,
}

/// A checked file of format rules.
pub type FormatRuleFile = RecipientRuleFile<FormatTreatment>;
/// Compiled format rules.
pub type FormatRules = RecipientRules<FormatTreatment>;

const PARTICULAR: Particular<FormatTreatment> = Particular {
    keys: &[
        "structure",
        "related",
        "subject_charset",
        "html_charset",
        "html_transfer",
        "text_charset",
        "text_transfer",
        "text_octets_max",
        "html_octets_max",
        "images_octets_max",
        "images_max",
    ],
    read,
    check,
};

const LIMITS: RangeInclusive<u64> = 1..=100_000_000;

impl FormatRuleFile {
    /// Reads a file. `file_name` is used in messages only.
    ///
    /// # Errors
    ///
    /// Every fault, sorted by place, at least one and at most 201.
    pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        parse::parse(file_name, bytes, &PARTICULAR)
    }
}

fn read(
    reader: &mut Reader<'_, '_>,
    rule: &mut FormatTreatment,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) {
    let charset = |reader: &mut Reader<'_, '_>| {
        reader.word(key, value, Charset::from_word, Charset::WORDS).unwrap_or_default()
    };
    let transfer = |reader: &mut Reader<'_, '_>| {
        reader.word(key, value, Transfer::from_word, Transfer::WORDS).unwrap_or_default()
    };
    match key {
        "structure" => {
            let word = reader.word(key, value, Structure::from_word, Structure::WORDS);
            rule.structure = word.unwrap_or_default();
        }
        "related" => rule.related = truth(reader, key, value),
        "subject_charset" => rule.subject_charset = charset(reader),
        "html_charset" => rule.html_charset = charset(reader),
        "text_charset" => rule.text_charset = charset(reader),
        "html_transfer" => rule.html_transfer = transfer(reader),
        "text_transfer" => rule.text_transfer = transfer(reader),
        "text_octets_max" => rule.text_octets_max = reader.whole_number(key, value, &LIMITS),
        "html_octets_max" => rule.html_octets_max = reader.whole_number(key, value, &LIMITS),
        "images_octets_max" => rule.images_octets_max = reader.whole_number(key, value, &LIMITS),
        _ => rule.images_max = reader.whole_number(key, value, &LIMITS),
    }
}

fn check(reader: &mut Reader<'_, '_>, rule: &FormatTreatment, header: &Range<usize>) {
    let parts = [
        ("html", rule.html_charset, rule.html_transfer),
        ("text", rule.text_charset, rule.text_transfer),
    ];
    for (part, charset, transfer) in parts {
        if transfer == Transfer::SevenBit && charset != Charset::Iso2022Jp {
            let message = format!("`{part}_transfer = \"7bit\"` cannot carry {charset}");
            let help =
                format!("only iso-2022-jp is 7-bit: set `{part}_charset`, or another transfer");
            reader.fault(header.clone(), message, help);
        }
    }
    if rule.related && rule.structure == Structure::Text {
        let help = "drop `related`, or send the HTML";
        reader.fault(header.clone(), "a text alone cannot be related to files", help);
    }
}

/// The text of the shipped rules, `rules/formats.toml`.
pub const SHIPPED_FORMATS_TOML: &[u8] = include_bytes!("../../../../rules/formats.toml");

/// The format rules that come with the program, from `rules/formats.toml`.
///
/// Read at the first call; later calls are free.
#[must_use]
pub fn shipped_format_rules() -> &'static FormatRuleFile {
    static SHIPPED: OnceLock<FormatRuleFile> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        FormatRuleFile::parse("rules/formats.toml", SHIPPED_FORMATS_TOML)
            .expect("the shipped rules have no fault; a test holds it")
    })
}
