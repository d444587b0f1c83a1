//! Random mail from a seed: everything that a message may be and a careless server might change.

use mail::address::Mailbox;

/// Chance from a seed: the same seed, the same mail.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.below(among.len())]
    }

    /// Visible ASCII and single blanks, beginning and ending with a letter.
    fn words(&mut self, length: usize) -> String {
        let octets = (0..length).map(|at| match self.below(9) {
            0 if at > 0 && at + 1 < length => b' ',
            1 if at > 0 => b'!' + self.below(94) as u8,
            _ => b'a' + self.below(26) as u8,
        });
        octets.map(char::from).collect()
    }
}

/// What the other side can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taste {
    /// Addresses and header fields in UTF-8.
    pub(super) utf8: bool,
    /// Local parts in quotes.
    pub(super) quoted: bool,
    /// A message may end without a line end.
    pub(super) unended: bool,
    /// Most recipients of a message.
    pub(super) recipients: usize,
}

/// The return path that a message is handed in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReturnPath {
    /// `<>`
    Null,
    /// The application's.
    Given(String),
}

impl ReturnPath {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Given(address) => address,
        }
    }
}

/// A message and its envelope.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) sender: ReturnPath,
    /// In normal form, no two of them alike in all samples.
    pub(super) recipients: Vec<String>,
    /// Header and body.
    pub(super) content: Vec<u8>,
}

impl Sample {
    /// Whether it can be sent with SMTPUTF8 only.
    pub(super) fn needs_smtputf8(&self) -> bool {
        let head = memchr::memmem::find(&self.content, b"\r\n\r\n")
            .map_or(&self.content[..], |end| &self.content[..end]);
        !head.is_ascii()
            || !self.sender.text().is_ascii()
            || self.recipients.iter().any(|recipient| !recipient.is_ascii())
    }

    /// As it must arrive: with a line end, and with the empty line that ends the header.
    pub(super) fn complete(&self) -> Vec<u8> {
        let mut whole = self.content.clone();
        if !whole.ends_with(b"\r\n") {
            whole.extend_from_slice(b"\r\n");
        }
        if memchr::memmem::find(&whole, b"\r\n\r\n").is_none() {
            whole.extend_from_slice(b"\r\n");
        }
        whole
    }
}

/// So many samples to recipients in `domain`; of each tenth one more copy goes to `other`.
pub(super) fn samples(
    seed: u64,
    count: usize,
    taste: Taste,
    domain: &str,
    other: Option<&str>,
) -> Vec<Sample> {
    let mut chance = Chance(seed);
    (0..count)
        .map(|number| {
            let recipients = match chance.below(12) {
                0 => chance.between(1, taste.recipients),
                _ => 1,
            };
            let mut recipients: Vec<String> = (0..recipients)
                .map(|at| address(&mut chance, taste, &format!("{number}.{at}"), domain))
                .collect();
            if let Some(other) = other.filter(|_| number % 10 == 0) {
                recipients.push(address(&mut chance, taste, &format!("{number}.o"), other));
            }
            let sender = match chance.below(8) {
                0 => ReturnPath::Null,
                _ => ReturnPath::Given(address(&mut chance, taste, "app", "sender.example")),
            };
            let mut content = header(&mut chance, taste, number);
            body(&mut chance, &mut content);
            if taste.unended && chance.one_in(5) && content.ends_with(b"\r\n") {
                content.truncate(content.len() - 2);
            }
            Sample { sender, recipients, content }
        })
        .collect()
}

/// An address in normal form that has `mark` in its local part.
fn address(chance: &mut Chance, taste: Taste, mark: &str, domain: &str) -> String {
    let local = match chance.below(12) {
        0 => format!("{:a<64}", format!("p{mark}.")),
        1 => format!("p{mark}!#$%&'*+-/=?^_`{{|}}~"),
        2 => format!("p{mark}+sub.address-{}", chance.below(1_000)),
        3 => format!("Person.{mark}_X"),
        4 => format!("{mark}-p--q="),
        5 | 6 if taste.quoted => match chance.below(4) {
            0 => format!("\"john doe {mark}\""),
            1 => format!("\"p..{mark}.\""),
            2 => format!("\"p@{mark},;:()<>[]\""),
            _ => format!("\"p\\\"{mark}\\\\\""),
        },
        7 | 8 if taste.utf8 => {
            chance.pick(&["jörg.", "用户", "δοκιμή+", "e\u{301}"]).to_owned() + mark
        }
        _ => format!("p{mark}"),
    };
    let domain =
        if taste.utf8 && chance.one_in(12) { format!("bücher.{domain}") } else { domain.into() };
    Mailbox::parse(&format!("{local}@{domain}")).unwrap().as_str().to_owned()
}

/// Field names that nobody gives a meaning.
const NAMES: [&str; 9] = [
    "X-Campaign",
    "X-a",
    "Comments",
    "Keywords",
    "x-UPPER-lower",
    "X-!#$%&'*+.^_`{|}~",
    "Organization",
    "X-Face",
    "List-Id",
];

/// The header, with what every message has, and its line ends.
fn header(chance: &mut Chance, taste: Taste, number: usize) -> Vec<u8> {
    let mut fields = vec![format!("X-Sample: {number}\r\n")];
    let from = chance.pick(&[
        "From: news@sender.example\r\n",
        "From: \"Shop, the\" <news@sender.example>\r\n",
        "From: =?utf-8?Q?J=C3=B6rg?=\r\n\t<news@sender.example>\r\n",
        "from:news@sender.example (comment)\r\n",
    ]);
    fields.push(from.into());
    // The rest may be missing. Date and Message-ID are then added where the mail is taken in.
    if !chance.one_in(8) {
        fields.push("Date: Sat, 21 Nov 2026 08:00:00 +0000\r\n".into());
    }
    if !chance.one_in(8) {
        fields.push(format!("Message-ID: <{number}.{}@sender.example>\r\n", chance.next()));
    }
    if !chance.one_in(8) {
        let subject = chance.words(60);
        fields.push(format!("Subject: {subject}\r\n"));
    }
    if !chance.one_in(4) {
        let to = chance.pick(&[
            "To: you@one.example\r\n",
            "To: undisclosed-recipients:;\r\n",
            "to: a@one.example,\r\n b@one.example ,\r\n\t\"c d\" <c@one.example>\r\n",
        ]);
        fields.push(to.into());
    }
    for _ in 0..chance.below(3) {
        fields.push(
            "Received: from a by b with SMTP id x;\r\n\tSat, 21 Nov 2026 07:00:00 +0000\r\n".into(),
        );
    }
    let more = if chance.one_in(15) { chance.between(50, 150) } else { chance.below(6) };
    for _ in 0..more {
        fields.push(field(chance, taste));
    }
    // Any order is allowed.
    for at in (1..fields.len()).rev() {
        fields.swap(at, chance.below(at + 1));
    }
    fields.concat().into_bytes()
}

fn field(chance: &mut Chance, taste: Taste) -> String {
    let name = chance.pick(&NAMES);
    match chance.below(9) {
        0 => format!("{name}:\r\n"),
        1 => format!("{name}: {} \t \r\n", chance.words(30)),
        2 => format!("{name}:  \t{}\r\n", chance.words(30)),
        // The longest line that there may be.
        3 => format!("{name}: {}\r\n", chance.words(998 - name.len() - 2)),
        4 | 5 => {
            let mut whole = format!("{name}: first");
            for _ in 0..chance.between(1, 20) {
                let fold = chance.pick(&[" ", "\t", "   ", "\t\t "]);
                let words = chance.between(1, 75);
                whole += &format!("\r\n{fold}{}", chance.words(words));
            }
            whole + "\r\n"
        }
        6 if taste.utf8 => format!("{name}: grüße, 你好, \u{1f4ee} {}\r\n", chance.words(20)),
        7 => format!("{name}: =?utf-8?B?Z3LDvMOfZQ==?=\r\n =?iso-8859-1?Q?gr=FC=DFe?=\r\n"),
        _ => format!("{name}: {}\r\n", chance.words(40)),
    }
}

/// Lines that mean something elsewhere: to a mailbox file, to a server, to a careless reader.
const LINES: [&str; 13] = [
    ".",
    "..",
    "...",
    ". ",
    ".\t.",
    "From here on",
    ">From there",
    "QUIT",
    "RCPT TO:<x@y.example>",
    "250 2.0.0 ok",
    "--boundary--",
    "Subject: not a field",
    "",
];

/// Puts fields that describe the body, the empty line and the body behind the header.
fn body(chance: &mut Chance, content: &mut Vec<u8>) {
    let kind = chance.below(13);
    // Nothing but a header.
    if kind == 0 {
        return;
    }
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let fields: &str = match kind {
        1 => "",
        2 => {
            lines.push(b"x".to_vec());
            ""
        }
        3 | 4 => {
            for _ in 0..chance.between(1, 40) {
                lines.push(chance.pick(&LINES).as_bytes().to_vec());
            }
            ""
        }
        5 => {
            for _ in 0..chance.between(1, 5) {
                let mut line = chance.words(998).into_bytes();
                line[0] = if chance.one_in(2) { b'.' } else { b'x' };
                lines.push(line);
            }
            ""
        }
        6 | 7 => {
            for _ in 0..chance.between(1, 30) {
                let length = chance.below(120);
                lines.push((0..length).map(|_| octet(chance)).collect());
            }
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
             Content-Transfer-Encoding: 8bit\r\n"
        }
        8 => {
            for _ in 0..chance.between(1, 20) {
                let blanks = chance.pick(&["", " ", "\t", "   ", " \t "]);
                let words = chance.below(40);
                lines.push((chance.words(words) + blanks).into_bytes());
            }
            lines.extend(vec![Vec::new(); chance.below(6)]);
            ""
        }
        9 => {
            lines.extend(
                ["preamble", "--b", "", "text", "--b"].map(|line| line.as_bytes().to_vec()),
            );
            lines.push(b"Content-Type: application/pdf; name=\"a b.pdf\"".to_vec());
            lines.push(b"Content-Transfer-Encoding: base64".to_vec());
            lines.push(Vec::new());
            let count = chance.between(1, 60);
            base64(chance, count, &mut lines);
            lines.push(b"--b--".to_vec());
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=b\r\n"
        }
        10 => {
            let count = chance.between(1, 60);
            base64(chance, count, &mut lines);
            "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
             Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment\r\n"
        }
        11 if chance.one_in(3) => {
            // 20 KB, seldom 300 KB.
            let count = if chance.one_in(10) { 3_950 } else { chance.between(260, 600) };
            base64(chance, count, &mut lines);
            ""
        }
        _ => {
            for _ in 0..chance.between(1, 25) {
                let words = chance.between(1, 76);
                lines.push(chance.words(words).into_bytes());
            }
            ""
        }
    };
    content.extend_from_slice(fields.as_bytes());
    content.extend_from_slice(b"\r\n");
    for line in lines {
        content.extend_from_slice(&line);
        content.extend_from_slice(b"\r\n");
    }
}

/// Any octet that may stand in a line.
fn octet(chance: &mut Chance) -> u8 {
    loop {
        let octet = chance.below(256) as u8;
        if !matches!(octet, 0 | b'\r' | b'\n') {
            return octet;
        }
    }
}

/// So many lines of 76 characters.
fn base64(chance: &mut Chance, count: usize, lines: &mut Vec<Vec<u8>>) {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for _ in 0..count {
        lines.push((0..76).map(|_| DIGITS[chance.below(64)]).collect());
    }
}
