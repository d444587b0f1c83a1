//! Tables that fit the terminal.
//!
//! **Promise.** No word is broken where there is another way, in this order: columns that the caller calls dispensable are
//! left out (and named below the table), cells are wrapped at blanks, and at last the longest words are shortened in their
//! middle, where names of hosts and files say least. Where the output is no terminal, nothing of it happens. Nothing
//! is coloured.

use core::fmt;

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};

use crate::output::terminal_width;

/// Blanks on both sides of a cell.
const PADDING: usize = 2;
/// A cell may be broken to lines of so many letters before a column is left out.
const COMFORTABLE: usize = 24;
/// Letters to which a word is shortened at most.
const SHORTEST: usize = 9;

/// A table with a line below its header and no other.
#[derive(Clone, Debug)]
pub struct Rows {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    dispensable: Vec<String>,
    width: Option<u16>,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    right: bool,
}

impl Rows {
    /// An empty table with these columns; a name that begins with `>` is a column of numbers.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| Column {
            name: name.trim_start_matches('>').to_owned(),
            right: name.starts_with('>'),
        };
        Self {
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
            dispensable: Vec::new(),
            width: None,
        }
    }

    /// Names columns that are left out where there is no room for them, the least wanted first.
    #[must_use]
    pub fn leaves_out(mut self, names: &[&str]) -> Self {
        self.dispensable = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Adds a row; what is missing is empty.
    pub fn add_row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Sets the width in place of the terminal's.
    pub fn set_width(&mut self, width: u16) {
        self.width = Some(width);
    }

    /// Whether every column has room in so many columns of the terminal without a line broken.
    #[must_use]
    pub fn fits(&self, width: Option<u16>) -> bool {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        width.is_none_or(|width| total(&self.natural(&all)) <= usize::from(width))
    }

    /// The table within so many columns of the terminal; `None`: without a bound.
    #[must_use]
    pub fn within(&self, width: Option<u16>) -> String {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(width) = width.map(usize::from) else {
            return self.build(&shown, &self.natural(&shown));
        };
        let mut left_out: Vec<&str> = Vec::new();
        for name in &self.dispensable {
            if total(&self.comfortable(&shown)) <= width {
                break;
            }
            let before = shown.len();
            shown.retain(|at| self.columns[*at].name != *name);
            if shown.len() < before {
                left_out.push(name);
            }
        }
        let mut widths = self.natural(&shown);
        let words = self.longest_words(&shown);
        shrink(&mut widths, width, |column| words[column]);
        shrink(&mut widths, width, |column| words[column].min(SHORTEST));
        let mut text = self.build(&shown, &widths);
        if !left_out.is_empty() {
            text += &format!("\n(no room for: {})", left_out.join(", "));
        }
        text
    }

    /// For each shown column the width that breaks no line.
    fn natural(&self, shown: &[usize]) -> Vec<usize> {
        self.most(shown, |cell| cell.lines().map(|line| line.chars().count()).max().unwrap_or(0))
    }

    /// For each shown column the width at which it reads well, its longer cells broken at blanks.
    fn comfortable(&self, shown: &[usize]) -> Vec<usize> {
        let words = self.longest_words(shown);
        let natural = self.natural(shown).into_iter();
        natural.zip(words).map(|(natural, word)| natural.min(word.max(COMFORTABLE))).collect()
    }

    /// For each shown column the longest word.
    fn longest_words(&self, shown: &[usize]) -> Vec<usize> {
        self.most(shown, |cell| {
            cell.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0)
        })
    }

    fn most(&self, shown: &[usize], of: impl Fn(&str) -> usize) -> Vec<usize> {
        let of_column = |at: &usize| {
            let cells = self.rows.iter().map(|row| row[*at].as_str());
            cells.chain([self.columns[*at].name.as_str()]).map(&of).max().unwrap_or(0)
        };
        shown.iter().map(of_column).collect()
    }

    fn build(&self, shown: &[usize], widths: &[usize]) -> String {
        const LINE: LineStyle = LineStyle::none().fill('─').junction('─');
        let mut table = Table::new();
        table.load_style(TableStyle::new().header_separator(LINE));
        table.set_content_arrangement(ContentArrangement::Disabled);
        let wrapped = |row: &dyn Fn(usize) -> String| -> Vec<String> {
            shown.iter().zip(widths).map(|(at, width)| wrap(&row(*at), *width)).collect()
        };
        table.set_header(wrapped(&|at| self.columns[at].name.clone()));
        for row in &self.rows {
            table.add_row(wrapped(&|at| row[at].clone()));
        }
        for (place, (at, width)) in shown.iter().zip(widths).enumerate() {
            let Some(column) = table.column_mut(place) else { continue };
            if self.columns[*at].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
            let width = u16::try_from(width + PADDING).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
        table.to_string()
    }
}

impl fmt::Display for Rows {
    /// Within the width that was set, else the terminal's.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.within(self.width.or_else(terminal_width)))
    }
}

/// Columns of the terminal that cells of these widths take, with their blanks and one more between two cells.
fn total(widths: &[usize]) -> usize {
    (widths.iter().sum::<usize>() + (PADDING + 1) * widths.len()).saturating_sub(1)
}

/// Takes from the widest column, one letter at a time, as long as there is need and a column above its least.
fn shrink(widths: &mut [usize], room: usize, least: impl Fn(usize) -> usize) {
    while total(widths) > room {
        let above = (0..widths.len()).filter(|column| widths[*column] > least(*column));
        let Some(widest) = above.max_by_key(|column| widths[*column]) else { return };
        widths[widest] -= 1;
    }
}

/// A cell broken at blanks; words that are longer than the width are shortened in their middle.
fn wrap(cell: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in cell.lines() {
        if line.chars().count() <= width {
            lines.push(line.to_owned());
            continue;
        }
        let mut open = String::new();
        for word in line.split_whitespace() {
            let word = shortened(word, width);
            let needed = word.chars().count() + usize::from(!open.is_empty());
            if !open.is_empty() && open.chars().count() + needed > width {
                lines.push(core::mem::take(&mut open));
            } else if !open.is_empty() {
                open.push(' ');
            }
            open.push_str(&word);
        }
        lines.push(open);
    }
    lines.join("\n")
}

/// A word of at most so many letters: beginning and end, with `…` between.
fn shortened(word: &str, width: usize) -> String {
    let letters: Vec<char> = word.chars().collect();
    if letters.len() <= width || width == 0 {
        return word.to_owned();
    }
    let (kept, head) = (width - 1, width / 2);
    let tail = &letters[letters.len() - (kept - head)..];
    letters[..head].iter().chain(&['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Rows {
        let mut rows = Rows::new(&["rule", "masks", ">per hour", "from"]).leaves_out(&["from"]);
        rows.add_row(["google", "*.google.com *.googlemail.com", "2,500", "rules/mx.toml:59"]);
        rows.add_row(["yahoo", "*.yahoodns.net", "10,000", "rules/mx.toml:73"]);
        rows
    }

    #[test]
    fn a_table_gives_up_columns_then_lines_then_letters() {
        let free = example().within(None);
        assert!(free.contains("*.google.com *.googlemail.com"), "{free}");
        let narrow = example().within(Some(60));
        assert!(narrow.ends_with("(no room for: from)"), "{narrow}");
        assert!(narrow.contains("*.google.com *.googlemail.com"), "{narrow}");
        let wrapped = example().within(Some(44));
        assert!(wrapped.contains("*.googlemail.com") && !wrapped.contains("com *.g"), "{wrapped}");
        let short = example().within(Some(34));
        assert!(short.contains("*.googl…il.com") && short.contains("10,000"), "{short}");
        assert_eq!(shortened("alt2.gmail-smtp-in.l.google.com", 15), "alt2.gm…gle.com");
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_the_terminal(
            cells in proptest::collection::vec("[a-z.]{0,30}( [a-z]{1,9}){0,4}", 4..24),
            width in 60_u16..140,
        ) {
            let mut rows = Rows::new(&["one", ">two", "three", "four"]).leaves_out(&["four", "two"]);
            for row in cells.chunks_exact(4) {
                rows.add_row(row);
            }
            let text = rows.within(Some(width));
            for line in text.lines() {
                prop_assert!(line.trim_end().chars().count() <= usize::from(width), "{text}");
            }
        }
    }
}
