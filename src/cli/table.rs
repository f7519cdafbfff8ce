//! Tables of text, plain or in Markdown.

/// A table, the first row its head; numbers stand right.
pub(super) fn draw(table: &[Vec<String>], markdown: bool) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in table.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        match markdown {
            true => text.push_str(&format!("| {} |\n", cells.join(" | "))),
            false => text.push_str(&format!("{}\n", cells.join("  ").trim_end())),
        }
        if markdown && number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(*width.max(&2) - 1))).collect();
            text.push_str(&format!("| {} |\n", rule.join(" | ")));
        }
    }
    text
}
