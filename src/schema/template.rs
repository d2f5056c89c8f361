//! Path templates (OpenAPI 3.1 §4.8.8): the closest wins, literal segments before names.
use percent_encoding::percent_decode_str;

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Decoded.
    Literal(Vec<u8>),
    Named {
        before: String,
        name: String,
        after: String,
    },
}

/// A path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Segment>);

impl Template {
    /// Reads a template such as `/things/{id}/parts`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix('/').ok_or("a path begins with '/'")?;
        if rest.contains(['?', '#']) {
            return Err("a path has no query and no fragment");
        }
        let segments: Vec<Segment> = rest.split('/').map(segment).collect::<Result<_, _>>()?;
        let template = Self(segments);
        let mut names: Vec<&str> = template.names().collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err("a name comes twice");
        }
        Ok(template)
    }

    /// The names in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Named { name, .. } => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// What sorts closer templates first; equal for two that match the same paths.
    #[must_use]
    pub fn rank(&self) -> Vec<(u8, Vec<u8>)> {
        let of = |segment: &Segment| match segment {
            Segment::Literal(text) => (0, text.clone()),
            Segment::Named { before, after, .. } if before.is_empty() && after.is_empty() => (2, Vec::new()),
            Segment::Named { before, after, .. } => (1, format!("{before}/{after}").into_bytes()),
        };
        self.0.iter().map(of).collect()
    }

    /// The values of its names in a path, as they are spelled there.
    #[must_use]
    pub fn matches<'p>(&self, path: &'p str) -> Option<Vec<(&str, &'p str)>> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut out = Vec::new();
        for segment in &self.0 {
            let here = given.next()?;
            match segment {
                Segment::Literal(text) => {
                    if !percent_decode_str(here).eq(text.iter().copied()) {
                        return None;
                    }
                }
                Segment::Named { before, name, after } => {
                    let value = here.strip_prefix(before.as_str())?.strip_suffix(after.as_str()).filter(|v| !v.is_empty())?;
                    out.push((name.as_str(), value));
                }
            }
        }
        given.next().is_none().then_some(out)
    }
}

fn segment(text: &str) -> Result<Segment, &'static str> {
    let Some((before, rest)) = text.split_once('{') else {
        if text.contains('}') {
            return Err("a brace is not opened");
        }
        return Ok(Segment::Literal(percent_decode_str(text).collect()));
    };
    let (name, after) = rest.split_once('}').ok_or("a brace is not closed")?;
    if name.is_empty() || name.contains('{') || before.contains('}') || after.contains(['{', '}']) {
        return Err("a segment has one name in braces at most");
    }
    Ok(Segment::Named { before: before.into(), name: name.into(), after: after.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_one_by_one() {
        let template = Template::parse("/things/{id}/file.{kind}").unwrap();
        assert_eq!(template.matches("/things/7%2C8/file.txt"), Some(vec![("id", "7%2C8"), ("kind", "txt")]));
        for other in ["/things/7", "/things//file.txt", "/things/7/file.", "/things/7/file.txt/", "/Things/7/file.txt", "things/7/file.txt"]
        {
            assert_eq!(template.matches(other), None, "{other}");
        }
        assert!(Template::parse("/a%20b").unwrap().matches("/a%20b").is_some());
        for bad in ["", "a", "/a?b", "/{", "/}", "/{}", "/{a}{b}", "/{a}/{a}", "/{{a}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse("/a/b").unwrap().rank() < Template::parse("/a/{b}").unwrap().rank());
        assert_eq!(Template::parse("/{a}").unwrap().rank(), Template::parse("/{b}").unwrap().rank());
    }
}
