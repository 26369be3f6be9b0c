//! Tables for people: columns with two spaces between them, as those of kubectl.

/// Lines without an end of line; no spaces at their ends.
pub(crate) fn lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("   ").trim_end().to_owned()
    };
    std::iter::once(line(&mut head.iter().copied()))
        .chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))))
        .collect()
}

/// The text, or `-` where there is none.
pub(crate) fn or_dash(text: &str) -> String {
    // A reason may have several lines.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.trim().is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["né".to_owned(), "-".to_owned()],
        ];
        assert_eq!(
            lines(&["NAME", "REASON"], &rows),
            ["NAME   REASON", "a      long cell", "né     -"]
        );
        assert_eq!(
            (or_dash(" "), or_dash("a\nb\x1b[2J")),
            ("-".to_owned(), "a b [2J".to_owned())
        );
    }
}
