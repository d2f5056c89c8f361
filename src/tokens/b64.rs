//! Base64url without padding (RFC 4648 §5), canonical: each octet string has exactly one spelling.
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Encodes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Appends the encoding to `out`.
pub fn push(bytes: &[u8], out: &mut String) {
    URL_SAFE_NO_PAD.encode_string(bytes, out);
}

/// Decodes; `None` for padding, foreign characters, impossible lengths and non-zero trailing bits.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Decodes to exactly `N` octets.
#[must_use]
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_decodes_is_spelled_in_one_way(text in "[A-Za-z0-9_=+/.-]{0,40}") {
            if let Some(bytes) = decode(&text) {
                proptest::prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn what_is_encoded_decodes(bytes: Vec<u8>) {
            proptest::prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn padding_standard_alphabet_and_trailing_bits_are_refused() {
        for text in ["QQ==", "+/+/", "QR", "Q", "Q Q", "QQ\n"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("QQ"), Some(b"A".to_vec()));
    }
}
