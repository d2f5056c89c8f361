//! What a body says it is (RFC 9110 §8.3).

/// A media type as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// `type/subtype` in lower case.
    pub essence: String,
    /// In lower case.
    pub charset: Option<String>,
}

impl MediaType {
    /// Reads a `Content-Type`; `None` for what is none, or names a parameter twice.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (essence, mut rest) = match text.split_once(';') {
            Some((essence, rest)) => (essence, Some(rest)),
            None => (text, None),
        };
        let essence = essence.trim_matches([' ', '\t']).to_ascii_lowercase();
        let (main, sub) = essence.split_once('/')?;
        if !token(main) || !token(sub) {
            return None;
        }
        let (mut names, mut charset) = (Vec::new(), None);
        while let Some(given) = rest {
            let given = given.trim_start_matches([' ', '\t']);
            // Between semicolons there may be nothing (RFC 9110 §5.6.6).
            if given.is_empty() || given.starts_with(';') {
                rest = given.strip_prefix(';');
                continue;
            }
            let (name, after) = given.split_once('=')?;
            let name = name.to_ascii_lowercase();
            if !token(&name) || names.contains(&name) {
                return None;
            }
            let (value, after) = value(after)?;
            if name == "charset" {
                charset = Some(value.to_ascii_lowercase());
            }
            names.push(name);
            let after = after.trim_start_matches([' ', '\t']);
            rest = if after.is_empty() { None } else { Some(after.strip_prefix(';')?) };
        }
        Some(Self { essence, charset })
    }

    /// Whether it is JSON (RFC 8259, RFC 6839 §3.1).
    #[must_use]
    pub fn is_json(&self) -> bool {
        is_json(&self.essence)
    }

    /// Whether its text is UTF-8: it says so, or says nothing.
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        self.charset.as_deref().is_none_or(|charset| matches!(charset, "utf-8" | "utf8" | "us-ascii"))
    }
}

/// Whether a media type without parameters is JSON.
#[must_use]
pub fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// How closely a range (`type/subtype`, `type/*`, `*/*`) names a media type; `None`: not at all.
#[must_use]
pub fn closeness(range: &str, essence: &str) -> Option<u8> {
    if range == essence {
        return Some(2);
    }
    match range.split_once('/') {
        Some(("*", "*")) => Some(0),
        Some((main, "*")) if essence.split_once('/').is_some_and(|(own, _)| own == main) => Some(1),
        _ => None,
    }
}

fn token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A parameter's value, quoted or not, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return token(value).then(|| (value.to_owned(), rest));
    };
    let (mut out, mut escaped) = (String::new(), false);
    for (n, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((out, quoted.get(n + 1..)?)),
            _ => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_read_whole_or_not_at_all() {
        let json = MediaType::parse("Application/JSON ; Charset=\"UTF-8\"; v=1").unwrap();
        assert_eq!(
            (json.essence.as_str(), json.charset.as_deref(), json.is_json(), json.is_utf8()),
            ("application/json", Some("utf-8"), true, true)
        );
        assert!(MediaType::parse("application/vnd.api+json").unwrap().is_json());
        assert!(!MediaType::parse("application/json; charset=utf-16").unwrap().is_utf8());
        for bad in ["", "json", "a/", "/b", "a/b; x", "a/b; charset=utf-8; charset=utf-16", "a/b, c/d", "a/b; x=\"y", "a/b; x=y z", "a /b"]
        {
            assert_eq!(MediaType::parse(bad), None, "{bad}");
        }
        assert_eq!(MediaType::parse("a/b; ;x=y;").map(|media| media.essence).as_deref(), Some("a/b"));
        assert!(closeness("application/json", "application/json") > closeness("application/*", "application/json"));
        assert!(closeness("application/*", "application/json") > closeness("*/*", "application/json"));
        assert_eq!(closeness("text/*", "application/json"), None);
    }
}
