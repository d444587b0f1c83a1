//! Templated texts: parsed once, run for each recipient.
//!
//! Most texts are made of words and plain `{{ variable }}` markers. These are cut into pieces when
//! the content is compiled and put together without the template engine; the engine runs the others,
//! and also these where a variable's value is not a text or a whole number (how it prints anything
//! else is its own business). Both ways give the same text, which a property test holds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::bounded::{self, Charged};
use super::{Part, RenderFault, TemplateFault};

/// Instructions that one templated text may run for one recipient.
pub const FUEL: u64 = 500_000;
/// How deep macros may call one another.
const RECURSION_LIMIT: usize = 50;
/// Most octets of one templated text.
const SOURCE_LIMIT: usize = 2 << 20;
/// Names that look like variables and are not.
const RESERVED: [&str; 16] = [
    "true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else",
    "loop", "self", "super",
];

/// A piece of a plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Words.
    Literal(String),
    /// The value of a variable, by its place among the template's variables, and its line.
    Variable { slot: usize, line: usize },
}

/// One templated text of a content.
#[derive(Debug)]
pub(super) struct Program {
    part: Part,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// No markers.
    Static(String),
    /// Plain variables; also in the engine under the same name.
    Plain { pieces: Vec<Piece>, name: String },
    /// The engine's.
    Engine { name: String },
}

impl Program {
    /// Which part of the content it is.
    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Whether it is the same text for every recipient.
    pub(super) fn is_static(&self) -> bool {
        matches!(self.kind, Kind::Static(_))
    }

    /// The text, when it is the same for every recipient.
    pub(super) fn static_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Static(text) => Some(text),
            _ => None,
        }
    }

    /// Its pieces, when it is words and plain variables.
    pub(super) fn pieces(&self) -> Option<&[Piece]> {
        match &self.kind {
            Kind::Plain { pieces, .. } => Some(pieces),
            _ => None,
        }
    }

    /// Whether what it prints is escaped for HTML.
    fn escapes(&self) -> bool {
        self.part == Part::Html
    }
}

/// All templated texts of one content.
pub(super) struct Programs {
    engine: Environment<'static>,
    /// The sources as people wrote them, and as the engine has them, by the names of the parts.
    sources: BTreeMap<String, (String, Charged)>,
    /// Variables of plain texts; a place in here is a slot of [`Merge`].
    variables: Vec<String>,
}

impl fmt::Debug for Programs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Programs").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Programs {
    pub(super) fn new() -> Self {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_keep_trailing_newline(true);
        engine.set_fuel(Some(FUEL));
        engine.set_recursion_limit(RECURSION_LIMIT);
        engine.set_debug(false);
        engine.set_auto_escape_callback(|name| {
            if name == "html" { AutoEscape::Html } else { AutoEscape::None }
        });
        // The engine's own debugging aid would print all merge data.
        engine.remove_global("debug");
        bounded::install(&mut engine);
        engine.set_formatter(|out, state, value| {
            if value.is_none() {
                return Err(minijinja::Error::new(ErrorKind::UndefinedError, "null"));
            }
            bounded::printed(state, value)?;
            minijinja::escape_formatter(out, state, value)
        });
        Self { engine, sources: BTreeMap::new(), variables: Vec::new() }
    }

    /// Parses a text.
    pub(super) fn add(&mut self, part: Part, source: &str) -> Result<Program, TemplateFault> {
        if source.len() > SOURCE_LIMIT {
            let message = format!("the template is longer than {SOURCE_LIMIT} octets");
            return Err(TemplateFault::whole(part, message));
        }
        if !["{{", "{%", "{#"].iter().any(|mark| source.contains(mark)) {
            return Ok(Program { part, kind: Kind::Static(source.to_owned()) });
        }
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        refuse_foreign_tags(&part, &source)?;
        let name = part.to_string();
        if let Ok(Some(place)) = bounded::endless_chain(&source) {
            let (line, column) = position(&source, place);
            let message = "too many operators in one tag, or too many elif: cut it into several";
            return Err(TemplateFault { part, line, column, message: message.to_owned() });
        }
        let added = bounded::charged(&source).and_then(|charged| {
            self.engine.add_template_owned(name.clone(), charged.source.clone()).map(|()| charged)
        });
        let charged = match added {
            Ok(charged) => charged,
            Err(fault) => return Err(syntax_fault(part, &source, &fault, |index| index)),
        };
        self.refuse_unknown_names(&part, &name, &source, &charged)?;
        let kind = self.plain(&source);
        self.sources.insert(name.clone(), (source, charged));
        let kind = match kind {
            Some(pieces) => Kind::Plain { pieces, name },
            None => Kind::Engine { name },
        };
        Ok(Program { part, kind })
    }

    /// Cuts a text into pieces, if it is words and plain variables only.
    fn plain(&mut self, source: &str) -> Option<Vec<Piece>> {
        if source.contains("{%") || source.contains("{#") {
            return None;
        }
        let mut parsed = Vec::new();
        let mut rest = source;
        while let Some(start) = rest.find("{{") {
            let end = start + rest[start..].find("}}")?;
            let variable = rest[start + 2..end].trim_matches([' ', '\t', '\n']);
            let is_name = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && variable.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
            let global = self.engine.globals().any(|(name, _)| name == variable);
            if !is_name || global || RESERVED.contains(&variable) {
                return None;
            }
            parsed.push((&rest[..start], variable));
            rest = &rest[end + 2..];
        }
        let mut pieces = Vec::with_capacity(parsed.len() * 2 + 1);
        let mut line = 1;
        for (literal, variable) in parsed {
            line += literal.matches('\n').count();
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            let slot = self.slot(variable).unwrap_or_else(|| {
                self.variables.push(variable.to_owned());
                self.variables.len() - 1
            });
            pieces.push(Piece::Variable { slot, line });
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Some(pieces)
    }

    fn slot(&self, variable: &str) -> Option<usize> {
        self.variables.iter().position(|other| other == variable)
    }

    /// Runs a text for one recipient and appends what comes out, at most `limit` octets.
    pub(super) fn run(
        &self,
        program: &Program,
        merge: &Merge<'_>,
        limit: usize,
        out: &mut String,
    ) -> Result<(), RenderFault> {
        match &program.kind {
            Kind::Static(text) => out.push_str(text),
            Kind::Plain { pieces, .. } if merge.serves(pieces) => {
                for piece in pieces {
                    self.push_piece(program, piece, merge, out)?;
                }
            }
            Kind::Plain { name, .. } | Kind::Engine { name } => {
                self.run_in_engine(program, name, merge, limit, out)?;
            }
        }
        if out.len() > limit { Err(RenderFault::TooLarge { limit }) } else { Ok(()) }
    }

    /// Appends one piece of a plain text.
    pub(super) fn push_piece(
        &self,
        program: &Program,
        piece: &Piece,
        merge: &Merge<'_>,
        out: &mut String,
    ) -> Result<(), RenderFault> {
        match *piece {
            Piece::Literal(ref text) => out.push_str(text),
            Piece::Variable { slot, line } => match &merge.slots[slot] {
                Slot::Text(text) if program.escapes() => push_escaped(text, out),
                Slot::Text(text) => out.push_str(text),
                Slot::Number(number) => out.push_str(&number.to_string()),
                Slot::Missing | Slot::Other => {
                    return Err(RenderFault::Undefined {
                        part: program.part.clone(),
                        line,
                        variable: self.variables[slot].clone(),
                    });
                }
            },
        }
        Ok(())
    }

    fn run_in_engine(
        &self,
        program: &Program,
        name: &str,
        merge: &Merge<'_>,
        limit: usize,
        out: &mut String,
    ) -> Result<(), RenderFault> {
        let template = self.engine.get_template(name).expect("the engine has every program");
        let mut sink = Bounded { octets: Vec::new(), limit, full: false };
        let result = template.render_captured_to(merge.context()?, &mut sink).map(|_| ());
        if sink.full {
            return Err(RenderFault::TooLarge { limit });
        }
        result.map_err(|fault| {
            let (source, charged) = &self.sources[name];
            render_fault(program, &fault, source, charged)
        })?;
        out.push_str(&String::from_utf8(sink.octets).expect("the engine writes UTF-8"));
        Ok(())
    }

    /// Refuses filters, tests and functions that do not exist. The engine looks them up when it comes to
    /// them, so the template is run once, with every variable undefined; what stands in a branch that
    /// this run does not enter is found only with a recipient.
    fn refuse_unknown_names(
        &mut self,
        part: &Part,
        name: &str,
        source: &str,
        charged: &Charged,
    ) -> Result<(), TemplateFault> {
        self.engine.set_undefined_behavior(UndefinedBehavior::Chainable);
        let template = self.engine.get_template(name).expect("the engine has every program");
        let mut sink = Bounded { octets: Vec::new(), limit: SOURCE_LIMIT, full: false };
        let tried =
            template.render_captured_to(BTreeMap::<&str, Value>::new(), &mut sink).map(drop);
        self.engine.set_undefined_behavior(UndefinedBehavior::Strict);
        match tried {
            Err(fault)
                if matches!(fault.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest) =>
            {
                Err(syntax_fault(part.clone(), source, &fault, |index| charged.original(index)))
            }
            _ => Ok(()),
        }
    }

    /// See [`super::Template::required_places`].
    pub(super) fn required_variables<'a>(
        &self,
        programs: impl Iterator<Item = &'a Program>,
    ) -> BTreeMap<String, Part> {
        let mut required = BTreeMap::new();
        for program in programs {
            let variables: Vec<String> = match &program.kind {
                Kind::Static(_) => continue,
                Kind::Plain { pieces, .. } => pieces
                    .iter()
                    .filter_map(|piece| match piece {
                        Piece::Variable { slot, .. } => Some(self.variables[*slot].clone()),
                        Piece::Literal(_) => None,
                    })
                    .collect(),
                Kind::Engine { name } => self.required_by_engine(name),
            };
            for variable in variables {
                required.entry(variable).or_insert_with(|| program.part.clone());
            }
        }
        required.remove("email");
        required.remove("unsubscribe_url");
        required
    }

    /// Leaves out one variable at a time, the others standing for anything, and sees whether the
    /// template misses it.
    fn required_by_engine(&self, name: &str) -> Vec<String> {
        let template = self.engine.get_template(name).expect("the engine has every program");
        let mentioned: Vec<String> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|variable| self.engine.globals().all(|(global, _)| global != variable))
            .collect();
        let misses = |left_out: &String| {
            let context: BTreeMap<&str, Value> = mentioned
                .iter()
                .filter(|variable| *variable != left_out)
                .map(|variable| (variable.as_str(), Value::from_object(Anything)))
                .collect();
            let mut sink = Bounded { octets: Vec::new(), limit: SOURCE_LIMIT, full: false };
            let result = template.render_captured_to(context, &mut sink).map(|_| ());
            result.is_err_and(|fault| fault.kind() == ErrorKind::UndefinedError)
        };
        mentioned.iter().filter(|variable| misses(variable)).cloned().collect()
    }
}

/// A value that has every attribute, is true, and prints as a letter.
#[derive(Debug)]
pub(super) struct Anything;

impl Object for Anything {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from_dyn_object(Arc::clone(self)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(vec![Value::from("x")])
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("x")
    }
}

/// A writer that takes so many octets.
struct Bounded {
    octets: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.octets.len() + octets.len() > self.limit {
            self.full = true;
            return Err(io::Error::other("the message is too large"));
        }
        self.octets.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Templates stand alone: tags that would bring in others are refused when the content is compiled.
fn refuse_foreign_tags(part: &Part, source: &str) -> Result<(), TemplateFault> {
    for (index, _) in source.match_indices("{%") {
        let tag = source[index + 2..].trim_start_matches(['-', '+', ' ', '\t', '\n']);
        let word: &str = tag.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        if ["include", "import", "from", "extends", "block"].contains(&word) {
            let (line, column) = position(source, index);
            let message = format!("{{% {word} %}} is not available: a template stands alone");
            return Err(TemplateFault { part: part.clone(), line, column, message });
        }
    }
    Ok(())
}

/// Line and column, from 1, of an octet.
fn position(source: &str, index: usize) -> (usize, usize) {
    let before = source.get(..index).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What the engine found wrong with a text; `original` leads from its places to those of the source.
fn syntax_fault(
    part: Part,
    source: &str,
    fault: &minijinja::Error,
    original: impl Fn(usize) -> usize,
) -> TemplateFault {
    let (line, column) = match fault.range() {
        Some(range) => position(source, original(range.start)),
        None => (fault.line().unwrap_or(1), 1),
    };
    let message = fault.detail().map_or_else(|| fault.kind().to_string(), str::to_owned);
    TemplateFault { part, line, column, message }
}

/// What went wrong with one recipient.
fn render_fault(
    program: &Program,
    fault: &minijinja::Error,
    source: &str,
    charged: &Charged,
) -> RenderFault {
    let part = program.part.clone();
    let line = fault.line().unwrap_or(0);
    if fault.kind() == ErrorKind::UndefinedError {
        let place = fault.range().map(|at| charged.original(at.start)..charged.original(at.end));
        let expression = place.and_then(|range| source.get(range)).unwrap_or("?");
        let expression = expression.trim_matches(['{', '}', ' ', '%', '-']);
        return RenderFault::Undefined {
            part,
            line,
            variable: expression.chars().take(80).collect(),
        };
    }
    let message = match fault.kind() {
        ErrorKind::OutOfFuel => format!("the template runs more than {FUEL} instructions"),
        kind => match fault.detail() {
            Some(detail) => format!("{kind}: {}", detail.chars().take(200).collect::<String>()),
            None => kind.to_string(),
        },
    };
    RenderFault::Template { part, line, message }
}

/// Appends a text with the escapes of the engine's HTML mode.
fn push_escaped(text: &str, out: &mut String) {
    let mut clean = 0;
    for (index, octet) in text.bytes().enumerate() {
        let escape = match octet {
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'&' => "&amp;",
            b'"' => "&quot;",
            b'\'' => "&#x27;",
            b'/' => "&#x2f;",
            _ => continue,
        };
        out.push_str(&text[clean..index]);
        out.push_str(escape);
        clean = index + 1;
    }
    out.push_str(&text[clean..]);
}

/// The value of a variable as plain texts use it.
#[derive(Clone, Debug)]
enum Slot<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(i64),
    /// For the engine.
    Other,
}

/// One recipient's data.
pub(super) struct Merge<'a> {
    json: &'a str,
    slots: Vec<Slot<'a>>,
    /// What we add to it, and over it.
    own: Vec<(&'static str, String)>,
}

impl<'a> Merge<'a> {
    /// Reads the data as far as plain texts need it.
    pub(super) fn read(programs: &Programs, json: &'a str) -> Result<Self, RenderFault> {
        let json = json.trim();
        let slots = if json.is_empty() {
            vec![Slot::Missing; programs.variables.len()]
        } else {
            let mut reader = serde_json::Deserializer::from_str(json);
            let slots = Slots { variables: &programs.variables }
                .deserialize(&mut reader)
                .and_then(|slots| reader.end().map(|()| slots));
            slots.map_err(|fault| RenderFault::Merge { why: fault.to_string() })?
        };
        Ok(Self { json, slots, own: Vec::new() })
    }

    /// Adds a variable of ours.
    pub(super) fn set(&mut self, programs: &Programs, name: &'static str, value: &str) {
        if let Some(slot) = programs.slot(name) {
            self.slots[slot] = Slot::Text(Cow::Owned(value.to_owned()));
        }
        self.own.push((name, value.to_owned()));
    }

    /// Whether a plain text can be put together without the engine.
    pub(super) fn serves(&self, pieces: &[Piece]) -> bool {
        pieces.iter().all(|piece| match piece {
            Piece::Variable { slot, .. } => !matches!(self.slots[*slot], Slot::Other),
            Piece::Literal(_) => true,
        })
    }

    /// The data as the engine takes it.
    fn context(&self) -> Result<BTreeMap<Cow<'_, str>, Value>, RenderFault> {
        let mut context: BTreeMap<Cow<'_, str>, Value> = if self.json.is_empty() {
            BTreeMap::new()
        } else {
            serde_json::from_str(self.json)
                .map_err(|fault| RenderFault::Merge { why: fault.to_string() })?
        };
        for (name, value) in &self.own {
            context.insert(Cow::Borrowed(name), Value::from(value.as_str()));
        }
        Ok(context)
    }
}

/// Reads a JSON object into slots, passing over what no plain text asks for.
struct Slots<'p> {
    variables: &'p [String],
}

impl<'de> DeserializeSeed<'de> for Slots<'_> {
    type Value = Vec<Slot<'de>>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Slots<'_> {
    type Value = Vec<Slot<'de>>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of merge data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut slots = vec![Slot::Missing; self.variables.len()];
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            match self.variables.iter().position(|variable| *variable == name) {
                Some(slot) => slots[slot] = map.next_value()?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(slots)
    }
}

/// A text that is borrowed where JSON has it without escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Slot<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Slot<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Slot<'de>, E> {
                Ok(Slot::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Slot<'de>, E> {
                Ok(Slot::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Slot<'de>, E> {
                Ok(Slot::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Slot<'de>, E> {
                Ok(i64::try_from(number).map_or(Slot::Other, Slot::Number))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Slot<'de>, E> {
                Ok(Slot::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Slot<'de>, E> {
                Ok(Slot::Other)
            }

            fn visit_unit<E>(self) -> Result<Slot<'de>, E> {
                Ok(Slot::Other)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Slot<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Slot::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Slot<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Slot::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
