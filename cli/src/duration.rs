//! Durations on the command line, and how they are shown.

use std::time::Duration;

use jiff::{SignedDuration, SpanRelativeTo, fmt::friendly::SpanPrinter};

/// Reads `30s`, `10m`, `1h30m`, `500ms`, `2d` and `0`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const FIX: &str = "use a number with a unit, such as 500ms, 30s, 10m, 1h30m or 2d; or 0";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let span: jiff::Span = text.parse().map_err(|error: jiff::Error| {
        if error.is_range() {
            format!("{text:?} is too long: {FIX}")
        } else {
            format!("{text:?} is no duration: {FIX}")
        }
    })?;
    let signed: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("{text:?} has no fixed length: {FIX}"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative: {FIX}"))
}

/// As `kubectl` shows an age: the two largest units, or one where it is large.
pub(crate) fn age(span: Duration) -> String {
    let all = span.as_secs();
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    let two = |large: u64, unit: &str, small: u64, next: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{next}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0..=1) => format!("{all}s"),
        (0, 0, 2..=9) => two(minutes, "m", seconds, "s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, 1..=7, _) => two(hours, "h", minutes, "m"),
        (0, _, _) => format!("{hours}h"),
        (1..=7, _, _) => two(days, "d", hours, "h"),
        _ => format!("{days}d"),
    }
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
        assert!(parse("-5s").unwrap_err().contains("is negative"));
        assert!(parse("99999999999d").unwrap_err().contains("is too long"));
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (659, "10m"),
            (3600, "1h"),
            (3900, "1h5m"),
            (36_000, "10h"),
            (90_000, "1d1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(exact(Duration::from_secs(90)), "1m30s");
    }
}
