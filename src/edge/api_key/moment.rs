//! Moments as people write them: seconds since the epoch, or a date and time (RFC 3339 §5.6).
use serde::{Deserialize, Deserializer, de::Error};

/// The end of the year 9999, the last moment that can be written.
pub const LAST: i64 = 253_402_300_799;

/// Seconds since the epoch of a date and time, a fraction cut off; `None` for everything that is none. A leap second is the one after it.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let sound = (1..=12).contains(&month) && (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let clock = (hour * 60 + minute) * 60 + second;
    sound.then(|| civil(year, month, day) * 86_400 + clock).and_then(|local| Some(local - offset(zone)?))
}

fn numbers<const N: usize>(text: &str, between: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut out = [0; N];
    for (place, width) in out.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width && part.bytes().all(|b| b.is_ascii_digit()))?;
        *place = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = (if zone.starts_with('-') { -1 } else { 1 }, zone.strip_prefix(['+', '-'])?);
    let [hours, minutes] = numbers(rest, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

/// Days since the epoch of a day of the Gregorian calendar, months counted from March.
const fn civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Reads a moment in either form.
///
/// # Errors
/// Neither form, or after the year 9999.
pub fn read<'de, D: Deserializer<'de>>(input: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Seconds(i64),
        Text(String),
    }
    let at = match Option::<Given>::deserialize(input)? {
        None => return Ok(None),
        Some(Given::Seconds(at)) => Some(at),
        Some(Given::Text(text)) => parse(&text),
    };
    match at {
        Some(at) if (0..=LAST).contains(&at) => Ok(Some(at)),
        _ => Err(D::Error::custom("a moment is a date and time such as 2030-01-31T12:00:00Z (RFC 3339), or seconds since the epoch")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_and_time_is_read_as_rfc_3339_says() {
        for (text, at) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2030-01-31t12:00:00.123456z", 1_896_091_200),
            ("1985-04-12T23:20:50.52Z", 482_196_050),
            ("1996-12-19T16:39:57-08:00", 851_042_397),
            ("1937-01-01T12:00:27.87+00:20", -1_041_337_173),
            ("9999-12-31T23:59:59Z", LAST),
        ] {
            assert_eq!(parse(text), Some(at), "{text}");
        }
        for bad in [
            "",
            "2030-01-31",
            "2030-01-31T12:00Z",
            "2030-02-30T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2030-13-01T00:00:00Z",
            "2030-01-31T24:00:00Z",
            "2030-01-31T12:00:00",
            "2030-01-31T12:00:00.Z",
            "2030-01-31T12:00:00+25:00",
            "2030-01-31T12:00:00Zz",
            "+030-01-31T12:00:00Z",
            "2030-01-31Ä12:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_anything_never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
