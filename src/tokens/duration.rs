//! Durations as configuration and admin objects spell them: `"10s"`, `"5m"`, `"12h"`, `"30d"`.

/// Seconds of a duration string; `None` unless it is digits and one unit of `s m h d`, at least one second.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(seconds).filter(|n| *n >= 1)
}

/// The shortest spelling of a number of seconds.
#[must_use]
pub fn text(seconds: i64) -> String {
    for (unit, size) in [("d", 86400), ("h", 3600), ("m", 60)] {
        if seconds != 0 && seconds % size == 0 {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written() {
        for (spelled, seconds) in [("1s", 1), ("5m", 300), ("12h", 43200), ("30d", 2_592_000), ("90s", 90)] {
            assert_eq!(parse(spelled), Some(seconds));
            assert_eq!(parse(&text(seconds)), Some(seconds));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in ["", "s", "0s", "-5s", "+5s", "5", "5 s", "5S", "1.5h", "5ms", "99999999999999999999d", "9223372036854775807d", "5µ"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
