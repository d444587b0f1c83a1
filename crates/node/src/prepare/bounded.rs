//! Templates whose values cannot grow without end.
//!
//! The engine bounds the instructions of a template, not what they make: a text that is put together with itself forty
//! times is a tebibyte after two hundred instructions, one filter can be asked for a billion blanks, and lists within
//! lists, or signs before signs, are deeper than any stack. A node that runs out of memory or stack loses more than one message.
//!
//! **Promise.** All that a text makes for one recipient, counted where it is made, is at most [`WORK_LIMIT`] octets, and no
//! value is nested deeper than [`DEPTH_LIMIT`]; beyond that the recipient fails with the words for it.
//!
//! **How.** The engine has no place to ask before an operator works. So the source is parsed, and every `~`, `+`, `*`, list
//! and map in it is passed through a filter of ours, `((a ~ b)|made)`, which charges what came out. The filters of the engine
//! are replaced by ones that charge too; those whose result does not follow from the size of what goes in are asked before
//! they work. Nothing else makes values larger: what is printed goes into a bounded writer, and captured blocks are
//! charged as they are printed.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::machinery::{Token, WhitespaceConfig, ast, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters, functions};

use super::program::Anything;

/// Octets that one templated text may make for one recipient, values that are thrown away included.
pub const WORK_LIMIT: u64 = 16 << 20;
/// How deep lists and maps may be nested.
pub const DEPTH_LIMIT: usize = 200;
/// What a place in a list or map counts for.
const ITEM_OCTETS: u64 = 64;
/// Most operators of one tag, and most `elif` of one text. The engine goes one step down its stack for each.
const CHAIN_LIMIT: usize = 500;
/// Most parts into which a filter cuts a list.
const PARTS_LIMIT: u64 = 10_000;
/// The filter that charges. No letter of it stands in a template by chance.
const MADE: &str = "_mailweir_made";

/// A source with our filter in it, and the way back to the places of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Charged {
    /// What the engine runs.
    pub(super) source: String,
    /// Where in it something was put in, and how long that is.
    added: Vec<(usize, usize)>,
}

impl Charged {
    /// The place in the original of a place in the source.
    pub(super) fn original(&self, index: usize) -> usize {
        let before = self.added.iter().take_while(|(at, _)| *at < index);
        index - before.map(|(at, length)| (*length).min(index - at)).sum::<usize>()
    }
}

/// Where a chain of operators is longer than the engine's stack may be deep, if anywhere.
///
/// # Errors
/// The source is no template.
pub(super) fn endless_chain(source: &str) -> Result<Option<usize>, Error> {
    let (mut operators, mut choices) = (0, 0);
    for token in tokenize(source, false, SyntaxConfig, blanks()) {
        let (token, span) = token?;
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            Token::Ident("elif") => choices += 1,
            Token::Ident("not" | "and" | "or" | "is" | "in" | "if" | "else")
            | Token::Plus
            | Token::Minus
            | Token::Tilde
            | Token::Mul
            | Token::Div
            | Token::FloorDiv
            | Token::Mod
            | Token::Pow
            | Token::Pipe
            | Token::Dot
            | Token::BracketOpen
            | Token::ParenOpen => operators += 1,
            _ => {}
        }
        if operators.max(choices) > CHAIN_LIMIT {
            return Ok(Some(span.start_offset as usize));
        }
    }
    Ok(None)
}

/// Nothing is trimmed but what a template says.
fn blanks() -> WhitespaceConfig {
    WhitespaceConfig { keep_trailing_newline: true, lstrip_blocks: false, trim_blocks: false }
}

/// Puts the filter in.
///
/// # Errors
/// The source is no template.
pub(super) fn charged(source: &str) -> Result<Charged, Error> {
    let tree = parse(source, "", SyntaxConfig, blanks())?;
    let mut walk = Walk { marks: Vec::new() };
    walk.statement(&tree);
    let mut marks = walk.marks;
    marks.sort_by_key(|(at, _)| *at);
    let mut out = Charged { source: String::with_capacity(source.len() + 64), added: Vec::new() };
    let mut from = 0;
    for (at, mark) in marks {
        out.source.push_str(&source[from..at]);
        out.added.push((out.source.len(), mark.len()));
        out.source.push_str(mark);
        from = at;
    }
    out.source.push_str(&source[from..]);
    Ok(out)
}

/// Finds the places for the filter.
struct Walk {
    /// Places in the source, and what is put there.
    marks: Vec<(usize, &'static str)>,
}

impl Walk {
    /// An opening bracket before the expression, the filter behind it. Brackets around it that are no part of its place
    /// make no difference.
    fn charge(&mut self, one: &ast::Expr<'_>) {
        self.marks.push((beginning(one), "(("));
        self.marks.push((one.span().end_offset as usize, ")|_mailweir_made)"));
    }

    fn statements(&mut self, all: &[ast::Stmt<'_>]) {
        all.iter().for_each(|one| self.statement(one));
    }

    fn statement(&mut self, one: &ast::Stmt<'_>) {
        match one {
            ast::Stmt::Template(template) => self.statements(&template.children),
            ast::Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            ast::Stmt::ForLoop(each) => {
                self.expression(&each.iter);
                self.expressions(&each.filter_expr);
                self.statements(&each.body);
                self.statements(&each.else_body);
            }
            ast::Stmt::IfCond(choice) => {
                self.expression(&choice.expr);
                self.statements(&choice.true_body);
                self.statements(&choice.false_body);
            }
            ast::Stmt::WithBlock(with) => {
                with.assignments.iter().for_each(|(_, value)| self.expression(value));
                self.statements(&with.body);
            }
            ast::Stmt::Set(set) => {
                self.expression(&set.expr);
                // What is kept in a namespace can hold the one before it, and so on.
                if matches!(set.target, ast::Expr::GetAttr(_)) {
                    self.charge(&set.expr);
                }
            }
            ast::Stmt::SetBlock(set) => {
                self.expressions(&set.filter);
                self.statements(&set.body);
            }
            ast::Stmt::AutoEscape(escape) => {
                self.expression(&escape.enabled);
                self.statements(&escape.body);
            }
            ast::Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                self.statements(&block.body);
            }
            ast::Stmt::Macro(declared) => self.declaration(declared),
            ast::Stmt::CallBlock(block) => {
                self.call(&block.call);
                self.declaration(&block.macro_decl);
            }
            ast::Stmt::Do(done) => self.call(&done.call),
            // These are refused before: a template stands alone. Words make nothing.
            ast::Stmt::EmitRaw(_)
            | ast::Stmt::Block(_)
            | ast::Stmt::Import(_)
            | ast::Stmt::FromImport(_)
            | ast::Stmt::Extends(_)
            | ast::Stmt::Include(_) => {}
        }
    }

    fn declaration(&mut self, declared: &ast::Macro<'_>) {
        self.expressions(&declared.defaults);
        self.statements(&declared.body);
    }

    fn call(&mut self, call: &ast::Call<'_>) {
        self.expression(&call.expr);
        self.arguments(&call.args);
    }

    fn arguments(&mut self, all: &[ast::CallArg<'_>]) {
        for one in all {
            match one {
                ast::CallArg::Pos(value)
                | ast::CallArg::Kwarg(_, value)
                | ast::CallArg::PosSplat(value)
                | ast::CallArg::KwargSplat(value) => self.expression(value),
            }
        }
    }

    fn expressions<'a>(&mut self, all: impl IntoIterator<Item = &'a ast::Expr<'a>>) {
        all.into_iter().for_each(|one| self.expression(one));
    }

    fn expression(&mut self, one: &ast::Expr<'_>) {
        match one {
            ast::Expr::Var(_) | ast::Expr::Const(_) => {}
            ast::Expr::Slice(slice) => {
                self.expression(&slice.expr);
                for bound in [&slice.start, &slice.stop, &slice.step] {
                    self.expressions(bound);
                }
            }
            ast::Expr::UnaryOp(unary) => self.expression(&unary.expr),
            ast::Expr::BinOp(binary) => {
                use ast::BinOpKind::{Add, Concat, Mul};
                for side in [&binary.left, &binary.right] {
                    self.expression(side);
                    // A text times a number would be worked out, and kept, when the template is compiled.
                    if let (Mul, ast::Expr::Const(constant)) = (binary.op, side)
                        && constant.value.kind() == ValueKind::String
                    {
                        self.charge(side);
                    }
                }
                if matches!(binary.op, Add | Concat | Mul) {
                    self.charge(one);
                }
            }
            ast::Expr::Compare(compare) => {
                self.expression(&compare.expr);
                compare.ops.iter().for_each(|with| self.expression(&with.expr));
            }
            ast::Expr::IfExpr(choice) => {
                self.expression(&choice.test_expr);
                self.expression(&choice.true_expr);
                self.expressions(&choice.false_expr);
            }
            ast::Expr::Filter(filter) => {
                self.expressions(&filter.expr);
                self.arguments(&filter.args);
            }
            ast::Expr::Test(test) => {
                self.expression(&test.expr);
                self.arguments(&test.args);
            }
            ast::Expr::GetAttr(of) => self.expression(&of.expr),
            ast::Expr::GetItem(of) => {
                self.expression(&of.expr);
                self.expression(&of.subscript_expr);
            }
            ast::Expr::Call(call) => self.call(call),
            ast::Expr::List(list) => {
                self.expressions(&list.items);
                self.charge(one);
            }
            ast::Expr::Map(map) => {
                self.expressions(&map.keys);
                self.expressions(&map.values);
                self.charge(one);
            }
        }
    }
}

/// Where an expression begins. The places of those that follow what they work on are their own only.
fn beginning(one: &ast::Expr<'_>) -> usize {
    let own = one.span().start_offset as usize;
    let first = match one {
        ast::Expr::Filter(filter) => filter.expr.as_ref(),
        ast::Expr::Test(test) => Some(&test.expr),
        ast::Expr::GetAttr(of) => Some(&of.expr),
        ast::Expr::GetItem(of) => Some(&of.expr),
        ast::Expr::Slice(slice) => Some(&slice.expr),
        ast::Expr::Call(call) => Some(&call.expr),
        ast::Expr::UnaryOp(unary) => Some(&unary.expr),
        ast::Expr::IfExpr(choice) => Some(&choice.true_expr),
        ast::Expr::BinOp(binary) => Some(&binary.left),
        ast::Expr::Compare(compare) => Some(&compare.expr),
        _ => None,
    };
    first.map_or(own, |first| own.min(beginning(first)))
}

/// What has been made in this run.
#[derive(Debug, Default)]
struct Work(AtomicU64);

impl Object for Work {}

/// Counts what was made, or is about to be.
fn charge(state: &State<'_, '_>, octets: u64) -> Result<(), Error> {
    let octets = octets.min(WORK_LIMIT + 1);
    let work = state.get_or_set_temp_object(MADE, Work::default);
    let so_far = work.0.fetch_add(octets, Ordering::Relaxed);
    if so_far + octets > WORK_LIMIT {
        let why = format!("the template makes more than {WORK_LIMIT} octets");
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    Ok(())
}

/// About how many octets a value has when it is printed; counting ends above `most`.
fn weight(value: &Value, depth: usize, most: u64) -> Result<u64, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.len() as u64 + 1);
    }
    // Those without a length are made while they are read, and charged by what reads them.
    let is_stand_in = value.downcast_object_ref::<Anything>().is_some();
    if is_stand_in || value.as_object().is_none() || value.len().is_none() {
        return Ok(8);
    }
    if depth >= DEPTH_LIMIT {
        return Err(Error::new(ErrorKind::InvalidOperation, "lists or maps are nested too deeply"));
    }
    let is_map = value.kind() == ValueKind::Map;
    let mut sum = 8;
    for item in value.try_iter()? {
        if is_map {
            sum += weight(&value.get_item(&item)?, depth + 1, most.saturating_sub(sum))?;
        }
        sum += ITEM_OCTETS + weight(&item, depth + 1, most.saturating_sub(sum))?;
        if sum > most {
            return Ok(sum);
        }
    }
    Ok(sum)
}

/// Charges a value that was made.
fn made(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    charge(state, weight(&value, 0, WORK_LIMIT)?)?;
    Ok(value)
}

/// Charges what is about to be printed, before the engine makes a text of it.
pub(super) fn printed(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    charge(state, weight(value, 0, WORK_LIMIT)?)
}

/// What a filter would make beyond what goes in; only for those where that can be more.
fn ahead(name: &str, args: &[Value]) -> u64 {
    let text = |place: usize| args.get(place).and_then(Value::as_str).unwrap_or_default();
    let given = |place: usize, keyword: &str| {
        let by_name = args.last().and_then(|last| Kwargs::try_from(last.clone()).ok());
        let named = by_name.and_then(|all| all.get::<Option<Value>>(keyword).ok().flatten());
        named.or_else(|| args.get(place).cloned()).and_then(|value| u64::try_from(value).ok())
    };
    match name {
        "replace" => {
            let (whole, from) = (text(0), text(1));
            let found = if from.is_empty() { whole.len() + 1 } else { whole.matches(from).count() };
            (found as u64).saturating_mul(text(2).len() as u64)
        }
        "indent" => {
            let lines = text(0).matches('\n').count() as u64 + 1;
            lines.saturating_mul(given(1, "width").unwrap_or(4))
        }
        "join" => {
            let items = args.first().and_then(Value::len).unwrap_or(0) as u64;
            items.saturating_mul(text(1).len() as u64)
        }
        "batch" | "slice" => match given(1, "count") {
            Some(count) if count > PARTS_LIMIT => u64::MAX,
            _ => 0,
        },
        // Widths and precisions; `*` takes them from where they cannot be seen.
        "format" if text(0).contains('*') => u64::MAX,
        "format" => text(0)
            .split(|one: char| !one.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            .fold(0, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(u64::MAX))),
        _ => 0,
    }
}

/// Replaces what can make values by what charges for it.
pub(super) fn install(engine: &mut Environment<'static>) {
    engine.add_filter(MADE, made);
    for (name, filter) in [
        ("safe", Value::from_function(filters::safe)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("replace", Value::from_function(filters::replace)),
        ("length", Value::from_function(filters::length)),
        ("count", Value::from_function(filters::length)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("trim", Value::from_function(filters::trim)),
        ("join", Value::from_function(filters::join)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("round", Value::from_function(filters::round)),
        ("abs", Value::from_function(filters::abs)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("string", Value::from_function(filters::string)),
        ("bool", Value::from_function(filters::bool)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("sum", Value::from_function(filters::sum)),
        ("indent", Value::from_function(filters::indent)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("groupby", Value::from_function(filters::groupby)),
        ("unique", Value::from_function(filters::unique)),
        ("chain", Value::from_function(filters::chain)),
        ("zip", Value::from_function(filters::zip)),
        ("pprint", Value::from_function(filters::pprint)),
        ("format", Value::from_function(filters::format)),
    ] {
        let charged = move |state: &State<'_, '_>, given: Rest<Value>| -> Result<Value, Error> {
            charge(state, ahead(name, &given))?;
            made(state, filter.call(state, &given)?)
        };
        engine.add_filter(name, charged);
    }
    for (name, function) in [
        ("dict", Value::from_function(functions::dict)),
        ("namespace", Value::from_function(functions::namespace)),
    ] {
        let charged = move |state: &State<'_, '_>, given: Rest<Value>| -> Result<Value, Error> {
            made(state, function.call(state, &given)?)
        };
        engine.add_function(name, charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_values_is_charged() {
        for (source, wanted) in [
            ("{{ a }} {{ a.b[0]|upper }} {% if a is defined and b < 3 %}x{% endif %}", ""),
            ("{{ a ~ b }}", "{{ ((a ~ b)|m) }}"),
            ("{{ a ~ b ~ c }}", "{{ ((((a ~ b)|m) ~ c)|m) }}"),
            ("{{ (a ~ b)|upper }}", "{{ (((a ~ b)|m))|upper }}"),
            ("{{ a|upper ~ b }}", "{{ ((a|upper ~ b)|m) }}"),
            ("{{ a + -b * 2 }}", "{{ ((a + ((-b * 2)|m))|m) }}"),
            ("{{ 'x' * 9 }}", "{{ ((((\'x\')|m) * 9)|m) }}"),
            ("{{ f(a ~ b, c=[d]) }}", "{{ f(((a ~ b)|m), c=(([d])|m)) }}"),
            ("{% set a = b ~ c %}", "{% set a = ((b ~ c)|m) %}"),
            ("{% set n.a = b.c|upper %}", "{% set n.a = ((b.c|upper)|m) %}"),
            ("{% set n.a = (b) %}", "{% set n.a = (((b)|m)) %}"),
            (
                "{% for a, b in c + d %}{{ a }}{% endfor %}",
                "{% for a, b in ((c + d)|m) %}{{ a }}{% endfor %}",
            ),
            ("{{ {'a': b}.a }}", "{{ (({'a': b})|m).a }}"),
            ("{{ a if b ~ c else d }}", "{{ a if ((b ~ c)|m) else d }}"),
            ("{{ (a + b).c(d) }}", "{{ (((a + b)|m)).c(d) }}"),
        ] {
            let found = charged(source).unwrap_or_else(|fault| panic!("{source}: {fault}"));
            let wanted = if wanted.is_empty() { source } else { wanted };
            assert_eq!(found.source.replace("_mailweir_made", "m"), wanted);
            parse(&found.source, "", SyntaxConfig, blanks())
                .unwrap_or_else(|fault| panic!("{}: {fault}", found.source));
            // Every place leads back to the same octet.
            let mut kept = 0;
            for (index, octet) in found.source.bytes().enumerate() {
                let added = found.added.iter().any(|(at, long)| (*at..at + long).contains(&index));
                if !added {
                    assert_eq!(found.original(index), kept, "{source} at {index}");
                    assert_eq!(source.as_bytes()[kept], octet);
                    kept += 1;
                }
            }
            assert_eq!(kept, source.len());
        }
    }
}
