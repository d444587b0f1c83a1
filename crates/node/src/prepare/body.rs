//! The body of a message made of templates: its MIME structure, and what of it is encoded once.
//!
//! Quoted-printable encodes each line by itself. So of a text with plain variables only, every line
//! without a variable is encoded when the content is compiled, and the others when a message is made.

use mail::compose::{
    HeaderFault, Headers, Multipart, TextCharset, TransferEncoding, Unmappable, base64,
};
use rules::recipient::{Charset, FormatTreatment, Transfer};

use super::program::{Merge, Piece, Program, Programs};
use super::{Attachment, Part, RenderFault, TemplateFault, TemplateSpec};

/// Most attachments of a content.
const ATTACHMENTS_LIMIT: usize = 100;

/// A body in the order of its octets.
#[derive(Debug)]
pub(super) struct Body {
    items: Vec<Item>,
    fixed_octets: usize,
}

#[derive(Debug)]
enum Item {
    /// The same in every message.
    Fixed(Vec<u8>),
    /// A text that is run and encoded.
    Text(Box<MergedText>),
}

/// A text with markers.
#[derive(Debug)]
struct MergedText {
    program: Program,
    coding: Coding,
    /// What of it is encoded already; `None`: nothing.
    segments: Option<Vec<Segment>>,
}

#[derive(Debug)]
enum Segment {
    /// Encoded whole lines.
    Encoded(Vec<u8>),
    /// Whole lines that have variables.
    Lines(Vec<Piece>),
}

impl Body {
    /// Plans the body and writes the MIME fields of the message's header.
    pub(super) fn compile(
        spec: &TemplateSpec,
        format: &FormatTreatment,
        programs: &mut Programs,
        header: &mut Headers,
    ) -> Result<Self, TemplateFault> {
        let texts = [(Part::Text, "text/plain", &spec.text), (Part::Html, "text/html", &spec.html)];
        let mut parts = Vec::new();
        for (part, media, source) in texts {
            if let Some(source) = source {
                let coding = Coding::of(&part, source, format);
                let program = programs.add(part, source)?;
                parts.push(TextPart { media, program, coding });
            }
        }
        if parts.is_empty() {
            let message = "the content has neither an html nor a text body";
            return Err(TemplateFault::whole(Part::Text, message));
        }
        if spec.attachments.len() > ATTACHMENTS_LIMIT {
            let message = format!("more than {ATTACHMENTS_LIMIT} attachments");
            return Err(TemplateFault::whole(Part::Attachment("".into()), message));
        }
        let (inline, attached): (Vec<&Attachment>, Vec<&Attachment>) =
            spec.attachments.iter().partition(|attachment| attachment.content_id.is_some());
        let mut writer = Writer { body: Self { items: Vec::new(), fixed_octets: 0 } };
        let seed = seed(spec);
        let related = format.related && spec.html.is_some();
        let tree = Tree { seed: &seed, inline: &inline, attached: &attached, related };
        header.tokens("MIME-Version", "1.0").map_err(unexpected)?;
        writer.mixed(&tree, parts, header)?;
        Ok(writer.body)
    }

    /// About how many octets it has.
    pub(super) fn size_hint(&self) -> usize {
        self.fixed_octets + self.fixed_octets / 4 + 1_024
    }

    /// Its texts with markers.
    pub(super) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.items.iter().filter_map(|item| match item {
            Item::Text(text) => Some(&text.program),
            Item::Fixed(_) => None,
        })
    }

    /// Appends the body of one message.
    pub(super) fn render(
        &self,
        programs: &Programs,
        merge: &Merge<'_>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), RenderFault> {
        let mut scratch = String::new();
        for item in &self.items {
            match item {
                Item::Fixed(octets) => out.extend_from_slice(octets),
                Item::Text(text) => text.render(programs, merge, limit, &mut scratch, out)?,
            }
            if out.len() > limit {
                return Err(RenderFault::TooLarge { limit });
            }
        }
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

impl MergedText {
    fn render(
        &self,
        programs: &Programs,
        merge: &Merge<'_>,
        limit: usize,
        scratch: &mut String,
        out: &mut Vec<u8>,
    ) -> Result<(), RenderFault> {
        if let (Some(segments), Some(pieces)) = (&self.segments, self.program.pieces())
            && merge.serves(pieces)
        {
            for segment in segments {
                match segment {
                    Segment::Encoded(octets) => out.extend_from_slice(octets),
                    Segment::Lines(pieces) => {
                        scratch.clear();
                        for piece in pieces {
                            programs.push_piece(&self.program, piece, merge, scratch)?;
                        }
                        self.coding.encode(scratch, out);
                    }
                }
                if out.len() > limit {
                    return Err(RenderFault::TooLarge { limit });
                }
            }
            return Ok(());
        }
        scratch.clear();
        programs.run(&self.program, merge, limit, scratch)?;
        let begin = out.len();
        self.coding.encode(scratch, out);
        // Whoever has had a message of this content knows its boundaries and could have himself
        // entered in a list under such a name.
        if self.coding.is_plain() && Multipart::has_delimiter(&out[begin..]) {
            return Err(RenderFault::Template {
                part: self.program.part().clone(),
                line: 0,
                message: "a line of it would end its part of the message".into(),
            });
        }
        Ok(())
    }
}

/// A text body before it is placed.
struct TextPart {
    media: &'static str,
    program: Program,
    coding: Coding,
}

/// How the characters of a text become octets that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Coding {
    transfer: TransferEncoding,
    charset: TextCharset,
    otherwise: Unmappable,
}

impl Coding {
    /// What a format rule asks for.
    fn of(part: &Part, source: &str, format: &FormatTreatment) -> Self {
        let (charset, transfer, otherwise) = match part {
            Part::Html => {
                (format.html_charset, format.html_transfer, Unmappable::CharacterReference)
            }
            _ => (format.text_charset, format.text_transfer, Unmappable::QuestionMark),
        };
        let transfer = match transfer {
            Transfer::Shorter => TransferEncoding::shorter_for(source),
            Transfer::SevenBit => TransferEncoding::SevenBit,
            Transfer::EightBit => TransferEncoding::EightBit,
            Transfer::QuotedPrintable => TransferEncoding::QuotedPrintable,
            Transfer::Base64 => TransferEncoding::Base64,
        };
        Self { transfer, charset: charset_of(charset), otherwise }
    }

    /// Whether the text travels as it is.
    fn is_plain(self) -> bool {
        matches!(self.transfer, TransferEncoding::SevenBit | TransferEncoding::EightBit)
    }

    fn encode(self, text: &str, out: &mut Vec<u8>) {
        if self.charset.is_utf8() {
            self.transfer.encode_text(text, out);
        } else {
            self.transfer.encode_text_in(text, self.charset, self.otherwise, out);
        }
    }
}

/// The character set of a format rule.
pub(super) fn charset_of(charset: Charset) -> TextCharset {
    TextCharset::for_name(charset.word()).expect("a test holds that every word names a set")
}

/// What the structure of a body depends on.
struct Tree<'a> {
    seed: &'a [u8],
    inline: &'a [&'a Attachment],
    attached: &'a [&'a Attachment],
    /// The HTML is put into multipart/related even where it shows no file.
    related: bool,
}

impl Tree<'_> {
    fn multipart(&self, name: &str) -> Multipart {
        Multipart::new(&[self.seed, name.as_bytes()].concat())
    }
}

/// Octets that the boundaries follow from: the same content has the same boundaries.
fn seed(spec: &TemplateSpec) -> Vec<u8> {
    let texts = [Some(&spec.subject), spec.html.as_ref(), spec.text.as_ref()];
    texts.into_iter().flatten().flat_map(|text| text.bytes().chain([0])).collect()
}

/// A field made of our own words cannot break a rule, but an error is better than an assumption.
fn unexpected(fault: HeaderFault) -> TemplateFault {
    TemplateFault::whole(Part::Text, fault)
}

/// Writes a body. Each method writes the MIME fields of one entity into `header`, and its content
/// into the body.
struct Writer {
    body: Body,
}

impl Writer {
    /// Attachments around everything else.
    fn mixed(
        &mut self,
        tree: &Tree<'_>,
        parts: Vec<TextPart>,
        header: &mut Headers,
    ) -> Result<(), TemplateFault> {
        if tree.attached.is_empty() {
            return self.alternative(tree, parts, header);
        }
        let multipart = tree.multipart("mixed");
        multipart.content_type(header, "mixed").map_err(unexpected)?;
        self.part(&multipart, |writer, header| writer.alternative(tree, parts, header))?;
        self.attachments(&multipart, tree.attached)?;
        self.fixed(|out| multipart.close(out));
        Ok(())
    }

    /// Text and HTML beside one another; the last is the one to prefer.
    fn alternative(
        &mut self,
        tree: &Tree<'_>,
        mut parts: Vec<TextPart>,
        header: &mut Headers,
    ) -> Result<(), TemplateFault> {
        let last = parts.pop().expect("a body has at least one text");
        if parts.is_empty() {
            return self.related(tree, last, header);
        }
        let multipart = tree.multipart("alternative");
        multipart.content_type(header, "alternative").map_err(unexpected)?;
        for part in parts {
            self.part(&multipart, |writer, header| writer.text(part, header))?;
        }
        self.part(&multipart, |writer, header| writer.related(tree, last, header))?;
        self.fixed(|out| multipart.close(out));
        Ok(())
    }

    /// A text with the files that it shows.
    fn related(
        &mut self,
        tree: &Tree<'_>,
        part: TextPart,
        header: &mut Headers,
    ) -> Result<(), TemplateFault> {
        let related = tree.related && part.media == "text/html";
        if tree.inline.is_empty() && !related {
            return self.text(part, header);
        }
        let multipart = tree.multipart("related");
        multipart.content_type(header, "related").map_err(unexpected)?;
        self.part(&multipart, |writer, header| writer.text(part, header))?;
        self.attachments(&multipart, tree.inline)?;
        self.fixed(|out| multipart.close(out));
        Ok(())
    }

    /// One text.
    fn text(&mut self, part: TextPart, header: &mut Headers) -> Result<(), TemplateFault> {
        let TextPart { media, program, coding } = part;
        let charset = coding.charset.name();
        header.parameters("Content-Type", media, &[("charset", &charset)]).map_err(unexpected)?;
        let transfer = coding.transfer.name();
        header.tokens("Content-Transfer-Encoding", transfer).map_err(unexpected)?;
        if let Some(text) = program.static_text() {
            let text = text.to_owned();
            self.fixed(|out| coding.encode(&text, out));
            return Ok(());
        }
        let by_lines = coding.transfer == TransferEncoding::QuotedPrintable;
        let segments = match (by_lines && coding.charset.is_utf8(), program.pieces()) {
            (true, Some(pieces)) => Some(segments(pieces)),
            _ => None,
        };
        let encoded = segments.iter().flatten().map(|segment| match segment {
            Segment::Encoded(octets) => octets.len(),
            Segment::Lines(_) => 200,
        });
        self.body.fixed_octets += encoded.sum::<usize>();
        self.body.items.push(Item::Text(Box::new(MergedText { program, coding, segments })));
        Ok(())
    }

    /// Files, each as a part of its own.
    fn attachments(
        &mut self,
        multipart: &Multipart,
        attachments: &[&Attachment],
    ) -> Result<(), TemplateFault> {
        for attachment in attachments {
            let part = || Part::Attachment(attachment.name.chars().take(80).collect());
            let fault = |fault: HeaderFault| TemplateFault::whole(part(), fault);
            let media = attachment.content_type.as_str();
            let sound = media.split_once('/').is_some_and(|(kind, subtype)| {
                let token = |text: &str| {
                    !text.is_empty()
                        && text.bytes().all(|octet| {
                            octet.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&octet)
                        })
                };
                token(kind)
                    && token(subtype)
                    && !kind.eq_ignore_ascii_case("multipart")
                    && !media.eq_ignore_ascii_case("message/rfc822")
            });
            if !sound {
                let message = format!("{media:?} is not a media type for an attachment");
                return Err(TemplateFault::whole(part(), message));
            }
            // A name is shown to people, so it must be the name of one file and not hide its end.
            let hidden = |c: char| {
                "/\\".contains(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            let nameless = ["", ".", ".."].contains(&attachment.name.as_str());
            if nameless || attachment.name.contains(hidden) {
                let message = "an attachment needs a file name without a path";
                return Err(TemplateFault::whole(part(), message));
            }
            let mut header = Headers::new();
            header
                .parameters("Content-Type", media, &[("name", &attachment.name)])
                .map_err(fault)?;
            header.tokens("Content-Transfer-Encoding", "base64").map_err(fault)?;
            let disposition = match &attachment.content_id {
                Some(id) => {
                    if id.is_empty() || id.contains(['<', '>', ' ']) {
                        return Err(TemplateFault::whole(
                            part(),
                            "a content_id has no < > or spaces",
                        ));
                    }
                    header.tokens("Content-ID", &format!("<{id}>")).map_err(fault)?;
                    "inline"
                }
                None => "attachment",
            };
            header
                .parameters("Content-Disposition", disposition, &[("filename", &attachment.name)])
                .map_err(fault)?;
            self.fixed(|out| {
                multipart.open_part(&header, out);
                base64(&attachment.content, out);
            });
        }
        Ok(())
    }

    /// One part of a multipart, whose fields and content `write` makes.
    fn part(
        &mut self,
        multipart: &Multipart,
        write: impl FnOnce(&mut Self, &mut Headers) -> Result<(), TemplateFault>,
    ) -> Result<(), TemplateFault> {
        let mut header = Headers::new();
        let mut inner = Self { body: Body { items: Vec::new(), fixed_octets: 0 } };
        write(&mut inner, &mut header)?;
        self.fixed(|out| multipart.open_part(&header, out));
        for item in inner.body.items {
            match item {
                Item::Fixed(octets) => self.fixed(|out| out.extend_from_slice(&octets)),
                text => self.body.items.push(text),
            }
        }
        self.body.fixed_octets += inner.body.fixed_octets;
        Ok(())
    }

    /// Octets that are the same in every message.
    fn fixed(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.body.items.last(), Some(Item::Fixed(_))) {
            self.body.items.push(Item::Fixed(Vec::new()));
        }
        if let Some(Item::Fixed(octets)) = self.body.items.last_mut() {
            let before = octets.len();
            write(octets);
            self.body.fixed_octets += octets.len() - before;
        }
    }
}

/// Cuts a text into lines with and without variables, and encodes those without.
fn segments(pieces: &[Piece]) -> Vec<Segment> {
    let mut segments = Vec::new();
    // The line that is being put together.
    let mut open: Vec<Piece> = Vec::new();
    for piece in pieces {
        let Piece::Literal(text) = piece else {
            open.push(piece.clone());
            continue;
        };
        let mut rest = text.as_str();
        if !open.is_empty() {
            // Up to its end this literal belongs to the line before it.
            let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
            let (line, after) = rest.split_at(end);
            open.push(Piece::Literal(line.to_owned()));
            rest = after;
            if line.ends_with('\n') {
                segments.push(Segment::Lines(core::mem::take(&mut open)));
            }
        }
        let whole = rest.rfind('\n').map_or(0, |end| end + 1);
        let (lines, begun) = rest.split_at(whole);
        if !lines.is_empty() {
            let mut encoded = Vec::new();
            TransferEncoding::QuotedPrintable.encode_text(lines, &mut encoded);
            segments.push(Segment::Encoded(encoded));
        }
        if !begun.is_empty() {
            open.push(Piece::Literal(begun.to_owned()));
        }
    }
    if !open.is_empty() {
        segments.push(Segment::Lines(open));
    }
    segments
}
