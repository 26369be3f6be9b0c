//! Durations on the command line, and how they are shown.

use std::time::Duration;

use jiff::{SignedDuration, SpanRelativeTo, fmt::friendly::SpanPrinter};

/// Reads `30s`, `10m`, `1h30m`, `500ms`, `2d` and `0`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const FIX: &str = "use a number with a unit, such as 500ms, 30s, 10m, 1h30m or 2d; or 0";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let span: jiff::Span = text
        .parse()
        .map_err(|_| format!("{text:?} is no duration: {FIX}"))?;
    let signed: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("{text:?} has no fixed length: {FIX}"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative: {FIX}"))
}

/// Exact, for messages.
pub(crate) fn exact(span: Duration) -> String {
    let signed = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    SpanPrinter::new()
        .spacing(jiff::fmt::friendly::Spacing::None)
        .duration_to_string(&signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_with_units_and_others_are_refused_with_the_fix() {
        for (text, ms) in [
            ("0", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "-5s", "soon", "1y"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("such as 500ms"), "{text}: {error}");
        }
    }

    #[test]
    fn a_duration_is_shown_with_its_units() {
        assert_eq!(exact(Duration::from_secs(90)), "1m30s");
    }
}
