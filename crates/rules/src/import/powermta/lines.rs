//! Lines of a configuration of PowerMTA: comments, continuation, blocks, inclusion.

use super::super::draft::{DirectiveId, Draft, shown};
use super::super::{MOST_FILES, ReadInclude};
use crate::diagnostic::{Diagnostic, Source};
use crate::parse::source_of;

/// Blocks within blocks.
const DEEPEST_BLOCK: usize = 8;
/// Files that include files that include files.
const DEEPEST_INCLUSION: usize = 8;

/// A directive within its blocks.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) id: DirectiveId,
    /// In lower case.
    pub(super) name: String,
    pub(super) value: String,
}

/// What stands in a block, or outside of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) lines: Vec<Line>,
    pub(super) blocks: Vec<Block>,
}

impl Contents {
    /// The blocks of this name.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(move |block| block.name == name)
    }
}

/// A block with what stands in it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) id: DirectiveId,
    /// In lower case: `domain`.
    pub(super) name: String,
    pub(super) argument: String,
    pub(super) inside: Contents,
}

/// Reads files whole into `root`; answers their faults.
pub(super) fn read(
    draft: &mut Draft<'_>,
    files: &[Source<'_>],
    include: &mut ReadInclude<'_>,
    root: &mut Contents,
) -> Vec<Diagnostic> {
    let mut reading = Reading {
        draft,
        include,
        open: Vec::new(),
        including: Vec::new(),
        files: files.len(),
        faults: Vec::new(),
    };
    for file in files {
        reading.including.push(file.file.to_string());
        reading.file(root, file);
        reading.including.pop();
    }
    reading.faults
}

struct Reading<'r, 'o, 'i> {
    draft: &'r mut Draft<'o>,
    include: &'r mut ReadInclude<'i>,
    /// Blocks that are open, the innermost last.
    open: Vec<Block>,
    /// Names of the files that are being read.
    including: Vec<String>,
    files: usize,
    faults: Vec<Diagnostic>,
}

impl Reading<'_, '_, '_> {
    fn file(&mut self, root: &mut Contents, file: &Source<'_>) {
        let depth = self.open.len();
        let mut opened: Vec<usize> = Vec::new();
        for (start, text) in logical_lines(file.text) {
            if self.faults.len() > 200 {
                return;
            }
            if let Some(at) =
                text.find(|letter: char| letter.is_control() && !matches!(letter, '\t' | '\n'))
            {
                let help = "save the file as plain text";
                self.faults.push(file.diagnostic(
                    start + at..start + at + 1,
                    "a control character",
                    help,
                ));
                continue;
            }
            if !self.draft.has_room() {
                let help = "import the files in parts";
                self.faults.push(file.diagnostic(start..start, "too many directives", help));
                return;
            }
            let line = text.trim();
            let at = start + (text.len() - text.trim_start().len());
            if let Some(name) = line.strip_prefix("</") {
                self.close(root, file, at, line, name, depth, &mut opened);
            } else if let Some(inner) = line.strip_prefix('<') {
                self.open(file, at, line, inner, &mut opened);
            } else {
                self.directive(root, file, at, line);
            }
        }
        while self.open.len() > depth {
            let block = self.open.pop().expect("it is longer than the depth");
            let at = opened.pop().unwrap_or(0);
            let message = format!("<{}> is not closed", block.name);
            let help = format!("write </{}> behind its last directive", block.name);
            self.faults.push(file.diagnostic(at..at + 1, message, help));
        }
    }

    fn open(
        &mut self,
        file: &Source<'_>,
        at: usize,
        line: &str,
        inner: &str,
        opened: &mut Vec<usize>,
    ) {
        let Some(inner) = inner.strip_suffix('>') else {
            self.faults.push(file.diagnostic(
                at..at + line.len(),
                "a tag without `>`",
                "close it with `>`",
            ));
            return;
        };
        if self.open.len() >= DEEPEST_BLOCK {
            let message = format!("more than {DEEPEST_BLOCK} blocks within each other");
            self.faults.push(file.diagnostic(at..at + line.len(), message, ""));
            return;
        }
        let (name, argument) = split(inner);
        let shown = format!("{}<{inner}>", self.within());
        let id = self.draft.directive(file.place(at), &shown, "");
        let block = Block { id, name, argument: argument.to_owned(), inside: Contents::default() };
        self.open.push(block);
        opened.push(at);
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is the place of one closing tag")]
    fn close(
        &mut self,
        root: &mut Contents,
        file: &Source<'_>,
        at: usize,
        line: &str,
        name: &str,
        depth: usize,
        opened: &mut Vec<usize>,
    ) {
        let name = name.trim_end_matches('>').trim().to_ascii_lowercase();
        let fits =
            self.open.len() > depth && self.open.last().is_some_and(|open| open.name == name);
        if !fits {
            let open = self.open.get(depth..).and_then(<[Block]>::last);
            let help = open.map_or_else(
                || "no block is open here".to_owned(),
                |open| format!("the block that is open here is <{}>", open.name),
            );
            let message = format!("</{name}> closes nothing");
            self.faults.push(file.diagnostic(at..at + line.len(), message, help));
            return;
        }
        opened.pop();
        if let Some(block) = self.open.pop() {
            self.innermost(root).blocks.push(block);
        }
    }

    fn directive(&mut self, root: &mut Contents, file: &Source<'_>, at: usize, line: &str) {
        let (name, value) = split(line);
        let shown = format!("{}{name}", self.within());
        let id = self.draft.directive(file.place(at), &shown, value);
        if name == "include" {
            self.include(root, id, value);
            return;
        }
        let line = Line { id, name, value: value.to_owned() };
        self.innermost(root).lines.push(line);
    }

    fn include(&mut self, root: &mut Contents, id: DirectiveId, value: &str) {
        let name = value.trim().trim_matches('"');
        let bad_part =
            name.split(['/', '\\']).any(|part| part == ".." || part.is_empty() || part == ".");
        let refused = if name.starts_with(['/', '\\']) || bad_part || name.contains(':') {
            Some(
                "only files inside the folder of the first file are included, by a relative name; name this one on the command line",
            )
        } else if name.contains(['*', '?']) {
            Some("name the files on the command line: masks of files are not followed")
        } else if self.including.iter().any(|open| open == name) {
            Some("it includes itself")
        } else if self.including.len() >= DEEPEST_INCLUSION {
            Some("too many files that include files")
        } else if self.files >= MOST_FILES {
            Some("too many files")
        } else {
            None
        };
        if let Some(why) = refused {
            self.draft.not_taken(id, why);
            return;
        }
        self.files += 1;
        let bytes = match (self.include)(name) {
            Ok(bytes) => bytes,
            Err(why) => return self.draft.not_taken(id, why),
        };
        match source_of(name, &bytes) {
            Ok(source) => {
                self.draft.taken(id, "its directives are listed by themselves");
                self.including.push(name.to_owned());
                self.file(root, &source.without_secrets());
                self.including.pop();
            }
            Err(faults) => self.faults.extend(faults),
        }
    }

    /// What the next line stands in.
    fn innermost<'a>(&'a mut self, root: &'a mut Contents) -> &'a mut Contents {
        self.open.last_mut().map_or(root, |block| &mut block.inside)
    }

    /// The open blocks, for the name of a directive.
    fn within(&self) -> String {
        self.open
            .iter()
            .map(|block| match block.argument.is_empty() {
                true => format!("<{}> ", shown(&block.name)),
                false => format!("<{} {}> ", shown(&block.name), shown(&block.argument)),
            })
            .collect()
    }
}

/// The first word in lower case, and the rest.
fn split(text: &str) -> (String, &str) {
    let text = text.trim();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (text[..end].to_ascii_lowercase(), text[end..].trim())
}

/// Lines joined at a backslash at their end, without comments and empty ones, each with the byte at which it
/// begins.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    let mut start = 0;
    for raw in text.split('\n') {
        let begin = start;
        start += raw.len() + 1;
        let line = raw.strip_suffix('\r').unwrap_or(raw);
        let line = without_comment(line);
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(shorter) => (shorter, true),
            None => (line, false),
        };
        match &mut joined {
            Some((_, before)) => before.push_str(line.trim_start()),
            None => joined = Some((begin, line.to_owned())),
        }
        if !goes_on {
            lines.extend(joined.take());
        }
    }
    lines.extend(joined);
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

/// A line up to a `#` that begins it or stands behind a blank, outside of quotes and of `/patterns/`.
fn without_comment(line: &str) -> &str {
    let mut quote: Option<char> = None;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (None, '#') if before.is_whitespace() => return line[..at].trim_end(),
            (Some(open), _) if open == letter && before != '\\' => quote = None,
            (None, '"') => quote = Some('"'),
            // A pattern begins behind a blank; a path does too, but holds no blank before a `#`.
            (None, '/') if before.is_whitespace() && line[at + 1..].contains('/') => {
                quote = Some('/')
            }
            _ => {}
        }
        before = letter;
    }
    line.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let text = "# all\r\n<domain a> # here\r\n max-smtp-out \\\r\n   20\r\n\r\n reply /a #b/ mode=backoff # no\n x \"#y\"\n";
        let lines: Vec<String> =
            logical_lines(text).into_iter().map(|(_, line)| line.trim().to_owned()).collect();
        assert_eq!(
            lines,
            ["<domain a>", "max-smtp-out 20", "reply /a #b/ mode=backoff", "x \"#y\""]
        );
    }
}
