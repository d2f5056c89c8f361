//! An answer's head as octets (RFC 9112 §4), for whoever writes it without a library.
use http::{HeaderMap, StatusCode, header};

/// Writes status line and fields, all but `Date` and the empty line. The body's length is told unless the answer has none by its
/// status (RFC 9110 §8.6).
pub fn head(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap, length: usize) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        out.extend_from_slice(b"content-length: ");
        number(out, length);
        out.extend_from_slice(b"\r\n");
    }
}

fn number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 20];
    let mut count = 0;
    for place in digits.iter_mut().rev() {
        // The remainder of a division by ten is a digit.
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        count += 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn written(status: u16, length: usize) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("99"));
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("DPoP"));
        let mut out = Vec::new();
        head(&mut out, StatusCode::from_u16(status).unwrap(), &headers, length);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_is_written_and_the_length_is_the_bodys() {
        let fields = "cache-control: no-store\r\nwww-authenticate: Basic\r\nwww-authenticate: DPoP\r\n";
        assert_eq!(written(200, 10), format!("HTTP/1.1 200 OK\r\n{fields}content-length: 10\r\n"));
        assert_eq!(written(401, 0), format!("HTTP/1.1 401 Unauthorized\r\n{fields}content-length: 0\r\n"));
        assert_eq!(written(304, 0), format!("HTTP/1.1 304 Not Modified\r\n{fields}"));
        assert!(written(200, usize::MAX).ends_with(&format!("content-length: {}\r\n", usize::MAX)));
    }
}
