//! Results on standard output: tables and lines for people, JSON for programs.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Width, presets};
use ratatui::crossterm::terminal;
use serde_json::Value;

use crate::text::{cut, json, json_lines, plain};

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// More columns, and nothing shortened.
    Wide,
    /// One JSON value.
    Json,
    /// A JSON value per line.
    Ndjson,
}

/// The most characters of a cell, unless the table is wide.
const CELL: usize = 60;
/// The most characters of the last cell of a row, whose text goes on in further lines, unless the table is wide.
const LAST: usize = 1_000;
/// The narrowest last column.
const NARROW: u16 = 40;

/// A cell of a table.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// The judgement that a cell shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain }
    }
}

impl Cell {
    pub(crate) fn toned(text: &impl ToString, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }

    /// The value, or a dash.
    pub(crate) fn or_dash(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| "-".to_owned(), |text| text.to_string()).into()
    }
}

/// A row for people, and the same for programs.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Cell>,
    pub(crate) json: Value,
}

/// A column's head, and whether only wide tables have it.
pub(crate) type Head<'a> = (&'a str, bool);

/// Standard output in one form.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Whether the form was asked for, and not chosen by the kind of output.
    asked: bool,
    colours: bool,
    /// The width of the terminal, where there is one.
    width: Option<u16>,
    out: BufWriter<Stdout>,
    /// Values that become one JSON array at the end.
    kept: Vec<Value>,
}

impl Output {
    pub(crate) fn new(format: Option<Format>) -> Self {
        let terminal = io::stdout().is_terminal();
        let asked = format.is_some();
        let format = format.unwrap_or(if terminal { Format::Table } else { Format::Ndjson });
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let width = if terminal { terminal::size().ok().map(|(width, _)| width) } else { None };
        let out = BufWriter::new(io::stdout());
        Self { format, asked, colours: terminal && !no_colour, width, out, kept: Vec::new() }
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Whether somebody has asked for this form.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    pub(crate) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// A table, with a word in its place where there are no rows.
    pub(crate) fn rows(&mut self, head: &[Head<'_>], rows: Vec<Row>, none: &str) -> io::Result<()> {
        if !self.is_for_people() {
            let values = rows.into_iter().map(|row| row.json);
            return match self.format {
                Format::Ndjson => values.into_iter().try_for_each(|value| writeln!(self.out, "{}", json(&value))),
                _ => writeln!(self.out, "{}", json_lines(&Value::Array(values.collect()))),
            };
        }
        if rows.is_empty() {
            return writeln!(self.out, "{none}");
        }
        let wide = self.is_wide();
        let shown: Vec<_> = (0..head.len()).filter(|column| wide || !head[*column].1).collect();
        let is_number = |column: &usize| {
            let cells = rows.iter().filter_map(|row| row.cells.get(*column));
            cells.into_iter().all(|cell| cell.text.bytes().all(|b| b.is_ascii_digit() || b"-.%".contains(&b)))
        };
        let right: Vec<_> = shown.iter().map(is_number).collect();
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            shown
                .iter()
                .map(|column| comfy_table::Cell::new(head[*column].0.to_uppercase()).add_attribute(Attribute::Dim)),
        );
        for mut row in rows {
            table.add_row(shown.iter().enumerate().filter_map(|(place, column)| {
                let cell = row.cells.get_mut(*column)?;
                let text = plain(&std::mem::take(&mut cell.text));
                let most = if place + 1 == shown.len() { LAST } else { CELL };
                let made = comfy_table::Cell::new(if wide { text } else { cut(&text, most) });
                Some(match cell.tone {
                    Tone::Plain => made,
                    Tone::Good => made.fg(Color::Green),
                    Tone::Warn => made.fg(Color::Yellow),
                    Tone::Bad => made.fg(Color::Red),
                })
            }));
        }
        for (column, right) in table.column_iter_mut().zip(right) {
            column.set_padding((0, 2));
            if right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if !wide {
            self.wrap(&mut table);
        }
        table.lines().try_for_each(|line| writeln!(self.out, "{}", line.trim_end()))
    }

    /// Lets the last column go on in further lines where it is wider than the terminal has room.
    fn wrap(&self, table: &mut comfy_table::Table) {
        let widths = table.column_max_content_widths();
        let Some((_, others)) = widths.split_last() else { return };
        let before: u16 = others.iter().map(|width| width.saturating_add(2)).sum();
        let room = self.width.map_or(CELL as u16 + 2, |width| width.saturating_sub(before).max(NARROW));
        if let Some(last) = table.column_mut(others.len()) {
            last.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(room)));
        }
    }

    /// One thing: a line per fact for people, an object for programs.
    pub(crate) fn one(&mut self, facts: &[(&str, String)], value: &Value) -> io::Result<()> {
        match self.format {
            Format::Json => writeln!(self.out, "{}", json_lines(value)),
            Format::Ndjson => writeln!(self.out, "{}", json(value)),
            _ => {
                let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
                facts.iter().try_for_each(|(name, fact)| writeln!(self.out, "{name:width$}  {}", plain(fact)))
            }
        }
    }

    /// One of many that come one by one; [`end`](Self::end) follows the last.
    pub(crate) fn line(&mut self, text: impl FnOnce() -> String, value: Value) -> io::Result<()> {
        match self.format {
            Format::Json => {
                self.kept.push(value);
                Ok(())
            }
            Format::Ndjson => writeln!(self.out, "{}", json(&value)),
            _ => writeln!(self.out, "{}", text()),
        }
    }

    /// The end of [`line`](Self::line)s.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if self.format == Format::Json {
            let kept = std::mem::take(&mut self.kept);
            writeln!(self.out, "{}", json_lines(&Value::Array(kept)))?;
        }
        self.flush()
    }

    /// The result of an action: a sentence for people, an object for programs.
    pub(crate) fn say(&mut self, sentence: &str, value: &Value) -> io::Result<()> {
        match self.format {
            Format::Json => writeln!(self.out, "{}", json_lines(value)),
            Format::Ndjson => writeln!(self.out, "{}", json(value)),
            _ => writeln!(self.out, "{}", crate::text::plain_lines(sentence)),
        }
    }

    /// A word in its colour, where the terminal has colours.
    pub(crate) fn toned(&self, word: &str, tone: Tone) -> String {
        let colour = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Plain => return word.to_owned(),
        };
        if self.colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() }
    }

    /// Whether JSON was asked for. Some results are no rows, and have a form of their own unless it was.
    pub(crate) fn asked_for_json(&self) -> bool {
        self.asked && matches!(self.format, Format::Json | Format::Ndjson)
    }

    /// Text as it is, for people and programs alike.
    pub(crate) fn raw(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// An empty line between two things that people read.
    pub(crate) fn gap(&mut self) -> io::Result<()> {
        if self.is_for_people() { writeln!(self.out) } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
