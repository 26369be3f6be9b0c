//! Tables for people: columns with three spaces between them, as those of kubectl.

use anstyle::AnsiColor;

/// Lines without an end of line; no spaces at their ends. On a terminal of that width, columns without a value are left out, and
/// the last column is cut where a line would be longer.
pub(crate) fn lines(head: &[&str], rows: &[Vec<String>], longest: Option<usize>) -> Vec<String> {
    let (head, rows) = match longest {
        Some(_) => with_values(head, rows),
        None => (head.to_vec(), rows.to_vec()),
    };
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let before_last: usize = widths
        .iter()
        .rev()
        .skip(1)
        .map(|width| width + BETWEEN.len())
        .sum();
    // Less than this shows that there is more, and `-o wide` has it.
    let left = longest.map(|longest| match longest.saturating_sub(before_last) {
        ..8 => 1,
        left => left,
    });
    let line = |cells: &mut dyn Iterator<Item = &str>, is_head: bool| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match left {
                Some(left) if column + 1 == widths.len() => cut(cell, left),
                _ if is_head => format!("{cell:width$}"),
                _ => painted(head[column], format!("{cell:width$}")),
            })
            .collect();
        padded.join(BETWEEN).trim_end().to_owned()
    };
    std::iter::once(line(&mut head.iter().copied(), true))
        .chain(
            rows.iter()
                .map(|row| line(&mut row.iter().map(String::as_str), false)),
        )
        .collect()
}

fn with_values<'a>(head: &[&'a str], rows: &[Vec<String>]) -> (Vec<&'a str>, Vec<Vec<String>>) {
    let has_value = |column: &usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(*column));
        rows.is_empty() || cells.any(|cell| cell != "-")
    };
    let kept: Vec<usize> = (0..head.len()).filter(has_value).collect();
    let row = |row: &Vec<String>| {
        kept.iter()
            .filter_map(|column| row.get(*column).cloned())
            .collect()
    };
    (
        kept.iter().map(|column| head[*column]).collect(),
        rows.iter().map(row).collect(),
    )
}

const BETWEEN: &str = "   ";

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let start: String = cell.chars().take(width - 1).collect();
    format!("{start}…")
}

/// The cell in the colour of its state. Standard output removes it where it is no terminal.
fn painted(head: &str, padded: String) -> String {
    let colour = match (head, padded.trim_end()) {
        ("STATE", "Free") => AnsiColor::Green,
        ("STATE", "Busy" | "Held" | "Draining" | "Recovering") => AnsiColor::Yellow,
        ("STATE", "Stale" | "Damaged" | "Withdrawing") => AnsiColor::Red,
        _ => return padded,
    };
    coloured(colour, &padded)
}

/// The text in a colour.
pub(crate) fn coloured(colour: AnsiColor, text: &str) -> String {
    let style = colour.on_default();
    format!("{style}{text}{style:#}")
}

/// The columns of the terminal, if standard output is one. `COLUMNS` has precedence.
pub(crate) fn terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns
        .or(Some(usize::from(size.ws_col)))
        .filter(|columns| *columns > 0)
}

/// The text, or `-` where there is none.
pub(crate) fn or_dash(text: &str) -> String {
    // A reason may have several lines.
    let text = text.replace(char::is_control, " ");
    if text.trim().is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// The reason that a holder or waiter has given, if it has.
pub(crate) fn reason(text: &str) -> Option<String> {
    Some(or_dash(text)).filter(|text| text != "-")
}

/// The same behind what it explains: a colon and the reason, or nothing.
pub(crate) fn because(text: &str) -> String {
    reason(text).map_or_else(String::new, |reason| format!(": {reason}"))
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
            lines(&["NAME", "REASON"], &rows, None),
            ["NAME   REASON", "a      long cell", "né     -"]
        );
        assert_eq!(
            lines(
                &["NAME", "REASON"],
                &[vec!["a".to_owned(), "x".repeat(20)]],
                Some(20)
            )[1],
            format!("a      {}…", "x".repeat(12))
        );
        let row = ["a", "-", "reason"].map(str::to_owned).to_vec();
        assert_eq!(
            lines(&["NAME", "RESOURCE", "REASON"], &[row], Some(10)),
            ["NAME   …", "a      …"]
        );
        assert_eq!(
            (or_dash(" "), or_dash("a\nb\x1b[2J")),
            ("-".to_owned(), "a b [2J".to_owned())
        );
    }
}
