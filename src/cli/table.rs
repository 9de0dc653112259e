//! Columns that stand under each other, within a width.

/// A table of texts.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// A column.
#[derive(Clone, Copy)]
pub struct Column {
    title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To the right, never cut.
    Number,
    /// To the left, never cut.
    Word,
    /// To the left; cut when the table is too wide.
    Name,
}

impl Column {
    /// A number.
    #[must_use]
    pub fn number(title: &'static str) -> Self {
        Column { title, kind: Kind::Number }
    }

    /// A short word.
    #[must_use]
    pub fn word(title: &'static str) -> Self {
        Column { title, kind: Kind::Word }
    }

    /// A name that somebody else chose: of any length, with any characters.
    #[must_use]
    pub fn name(title: &'static str) -> Self {
        Column { title, kind: Kind::Name }
    }
}

/// Names are not cut shorter than this.
const NAME_MIN: usize = 8;
const GAP: &str = "  ";

impl Table {
    /// No rows yet.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: as many cells as columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| clean(&cell)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Lines of at most `width` columns, if cutting names can do it. A column without a text is left out.
    pub fn render(&self, width: usize, out: &mut String) {
        let shown: Vec<(usize, Column, usize)> = self.fit(width);
        let last = shown.len().saturating_sub(1);
        let mut line = |cell_of: &dyn Fn(usize, Column) -> String| {
            let mut text = String::new();
            for (place, (at, column, width)) in shown.iter().enumerate() {
                let cell = cut(&cell_of(*at, *column), *width);
                let blank = " ".repeat(width.saturating_sub(columns_of(&cell)));
                if column.kind == Kind::Number {
                    text.push_str(&blank);
                }
                text.push_str(&cell);
                if column.kind != Kind::Number {
                    text.push_str(&blank);
                }
                if place != last {
                    text.push_str(GAP);
                }
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&|_, column| column.title.to_owned());
        for row in &self.rows {
            line(&|at, _| row.get(at).cloned().unwrap_or_default());
        }
    }

    /// The columns that are shown, by their place, and how wide each is.
    fn fit(&self, width: usize) -> Vec<(usize, Column, usize)> {
        let mut shown = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            let widest = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| columns_of(cell)).max();
            if let Some(widest) = widest.filter(|widest| *widest > 0) {
                shown.push((at, *column, widest.max(column.title.len())));
            }
        }
        loop {
            let total: usize =
                shown.iter().map(|(_, _, w)| w + GAP.len()).sum::<usize>().saturating_sub(GAP.len());
            let names =
                shown.iter_mut().filter(|(_, c, w)| c.kind == Kind::Name && *w > NAME_MIN.max(c.title.len()));
            match names.max_by_key(|(_, _, w)| *w) {
                Some((_, _, widest)) if total > width => *widest -= 1,
                _ => return shown,
            }
        }
    }
}

/// A text without characters that would change how the terminal shows the others: clients choose their names freely.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '?' }).collect()
}

fn is_harmless(c: char) -> bool {
    // Marks of direction and of no width are no control characters to Unicode.
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Columns of a terminal that `text` takes.
fn columns_of(text: &str) -> usize {
    text.chars().map(columns_of_char).sum()
}

fn columns_of_char(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// At most `width` columns of `text`; `…` stands for what is missing.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let fitting = text.chars().take_while(|c| match left.checked_sub(columns_of_char(*c)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    });
    let mut cut: String = fitting.collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(rows: &[[&str; 3]], width: usize) -> String {
        let mut table = Table::new(&[Column::number("NO"), Column::name("DATABASE"), Column::word("NOTE")]);
        for row in rows {
            table.row(row.iter().map(|cell| (*cell).to_owned()));
        }
        let mut out = String::new();
        table.render(width, &mut out);
        out
    }

    #[test]
    fn columns_stand_under_each_other() {
        assert_eq!(
            rendered(&[["1", "shop", "a"], ["1000", "日本", "b"]], 80),
            "  NO  DATABASE  NOTE\n   1  shop      a\n1000  日本      b\n"
        );
    }

    #[test]
    fn a_column_without_text_is_left_out() {
        assert_eq!(rendered(&[["1", "shop", ""]], 80), "NO  DATABASE\n 1  shop\n");
    }

    #[test]
    fn names_are_cut_when_the_table_is_too_wide_and_numbers_never() {
        let name = "a_database_with_a_long_name";
        assert_eq!(
            rendered(&[["123456", name, "word"]], 24),
            "    NO  DATABASE    NOTE\n123456  a_databas…  word\n"
        );
        assert!(rendered(&[["123456", name, "word"]], 1).contains("123456  a_datab…  word"));
        assert!(rendered(&[["123456", name, "word"]], usize::MAX).contains(name));
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        let shown = rendered(&[["1", "\x1b[2J\u{202e}x\u{9b}1m\n", "w"]], 80);
        assert!(shown.contains("?[2J?x?1m?"), "{shown:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_cutting_can_make_it(names in proptest::collection::vec(any::<String>(), 1..5)) {
            let rows: Vec<[&str; 3]> = names.iter().map(|n| ["12", n.as_str(), "word"]).collect();
            for line in rendered(&rows, 30).lines() {
                prop_assert!(columns_of(line) <= 30, "{line:?}");
            }
        }

        #[test]
        fn cutting_keeps_the_width(text: String, width in 0usize..40) {
            prop_assert!(columns_of(&cut(&text, width)) <= width);
        }
    }
}
