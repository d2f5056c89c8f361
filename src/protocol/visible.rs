//! What strangers write and people read: nothing in it controls, hides or turns round what stands beside it (Unicode TR 36 §2).

/// Whether people would not see a character as what it is.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(u32::from(c), 0xfff0..=0xfffc | 0xfffe..=0xffff | 0xe0000..=0xe0fff | 0xe000..=0xf8ff | 0xf0000..)
}

/// Whether people see a text as it is.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(hidden)
}

/// A text with a mark in the place of whatever people would not see.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if hidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_or_turns_round_is_marked() {
        assert!(is_plain("Ein Café für 5 €, \u{1f600}") && !is_plain(" ") && !is_plain(""));
        for bad in ['\n', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{e0041}', '\u{e000}'] {
            let text = format!("a{bad}b");
            assert!(!is_plain(&text), "{bad:?}");
            assert_eq!(plain(&text), "a\u{fffd}b");
        }
    }
}
