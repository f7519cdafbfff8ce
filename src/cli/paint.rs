//! Loop counts for people: a colour for each count, the count beside the token, and columns of them.
//!
//! The colours are cividis (Nuñez, Anderton and Renslow 2018), which looks the same to nearly all eyes, in 24 bits: dark blue is
//! 1 loop, yellow the cap. The scale is logarithmic, since doubling the loops doubles the problems' depth. Without colour, the
//! number says it all: `word·7`, and `word·8+` where the cap ended the loops and not the model.

use crate::generate::Halt;

/// Columns of a line; fixed, so that output does not depend on the terminal.
pub(super) const COLUMNS: usize = 80;

/// Text with its width on the screen, which colours do not count towards.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    width: usize,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { width: text.chars().count(), text }
    }
}

/// How to paint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    /// Whether there is colour.
    pub colored: bool,
    /// The loops that have the last colour.
    pub cap: usize,
}

impl Paint {
    /// A token with its loops: `word·7`.
    pub fn token(&self, text: &str, loops: usize, exit: Halt) -> Cell {
        self.background(format!("{text}{}", count(loops, exit)), loops)
    }

    /// A token without a number: the colour alone.
    pub fn plain(&self, text: &str, loops: usize) -> Cell {
        self.background(text.to_string(), loops)
    }

    fn background(&self, text: String, loops: usize) -> Cell {
        let width = text.chars().count();
        if !self.colored {
            return Cell { text, width };
        }
        let back = cividis(share(loops, self.cap));
        let [r, g, b] = back;
        let front = if luminance(back) > 0.18 { "30" } else { "97" };
        Cell { text: format!("\x1b[48;2;{r};{g};{b};{front}m{text}\x1b[0m"), width }
    }

    /// Right: green. Wrong: red.
    pub fn verdict(&self, text: String, right: bool) -> Cell {
        self.styled(text, if right { "32" } else { "31" })
    }

    /// What stands out.
    pub fn bold(&self, text: &str) -> String {
        self.styled(text.to_string(), "1").text
    }

    fn styled(&self, text: String, code: &str) -> Cell {
        let width = text.chars().count();
        Cell { text: if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text }, width }
    }
}

/// `·7`, with a mark where the loops ran out before the model halted.
pub(super) fn count(loops: usize, exit: Halt) -> String {
    format!("·{loops}{}", if exit == Halt::Max { "+" } else { "" })
}

/// A token's text in one line: no space around it, and what cannot be seen is written out.
pub(super) fn visible(text: &str) -> String {
    let word = if text.trim().is_empty() { text } else { text.trim() };
    word.chars().map(|c| if c == ' ' { "␣".into() } else { escape(c) }).collect()
}

/// A control character as Rust writes it, any other as it is.
fn escape(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

/// Columns of cells, each as wide as its widest, side by side in as many blocks of lines as [`COLUMNS`] asks for. A line with
/// nothing in it is left out.
pub(super) fn rows(columns: &[impl AsRef<[Cell]>], indent: usize) -> String {
    let mut text = String::new();
    let mut rest = columns;
    while !rest.is_empty() {
        let mut used = indent;
        let fits = rest.iter().take_while(|column| {
            used += width(column.as_ref()) + 1;
            used <= COLUMNS + 1
        });
        let (block, more) = rest.split_at(fits.count().max(1));
        rest = more;
        let lines = block.iter().map(|column| column.as_ref().len()).max().unwrap_or(0);
        (0..lines).for_each(|line| text.push_str(&row(block, line, indent)));
    }
    text
}

/// One line of a block; no text where there is nothing in it.
fn row(block: &[impl AsRef<[Cell]>], line: usize, indent: usize) -> String {
    let mut text = " ".repeat(indent);
    let mut something = false;
    for column in block.iter().map(AsRef::as_ref) {
        let cell = column.get(line).cloned().unwrap_or_default();
        something |= cell.width > 0;
        text.push_str(&cell.text);
        text.extend(std::iter::repeat_n(' ', width(column) - cell.width + 1));
    }
    if something { format!("{}\n", text.trim_end()) } else { String::new() }
}

fn width(column: &[Cell]) -> usize {
    column.iter().map(|cell| cell.width).max().unwrap_or(0)
}

/// Where a count lies between 1 and the cap, on a logarithmic scale.
fn share(loops: usize, cap: usize) -> f32 {
    if cap < 2 { 0.0 } else { ((loops.max(1) as f32).ln() / (cap as f32).ln()).min(1.0) }
}

/// The colour at `t` in 0 to 1: the polynomial that d3-scale-chromatic fits to cividis.
fn cividis(t: f32) -> [u8; 3] {
    let curve = |c: [f32; 6]| c.iter().rev().fold(0.0, |sum, c| sum * t + c).clamp(0.0, 255.0) as u8;
    [
        curve([-4.54, -35.34, 2381.73, -6402.7, 7024.72, -2710.57]),
        curve([32.49, 170.73, 52.82, -131.46, 176.58, -67.37]),
        curve([81.24, 442.36, -2482.43, 6167.24, -6614.94, 2475.67]),
    ]
}

/// Relative luminance (WCAG 2): black text reads better than white above 0.179.
fn luminance([r, g, b]: [u8; 3]) -> f32 {
    let linear = |c: u8| {
        let c = f32::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}
