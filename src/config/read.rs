//! Reading a configuration: the file and the environment become one flat table of places and values; every mistake is kept.
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::setting::Setting;

/// A documented key of a section.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// What kind of value it holds.
    pub shape: &'static str,
    /// Its default as TOML text; empty: none.
    pub default: &'static str,
}

/// A documented section.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its dotted path.
    pub path: &'static str,
    /// Its doc comment.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

#[derive(Debug, Clone)]
struct Entry {
    place: String,
    value: Given,
}

#[derive(Debug, Clone)]
enum Given {
    Toml(Value),
    Text(String),
}

/// Reads typed keys out of a file and the environment, and collects what is wrong.
pub struct Reader {
    entries: BTreeMap<String, Entry>,
    base: PathBuf,
    mistakes: Vec<String>,
}

impl Reader {
    /// Takes in the file's text and the environment's `DOORWARD_SECTION__KEY` variables.
    #[must_use]
    pub fn new(file: &Path, content: &str, environment: impl IntoIterator<Item = (String, String)>, sections: &[Section]) -> Self {
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut reader = Self { entries: BTreeMap::new(), base, mistakes: Vec::new() };
        reader.take_file(file, content, sections);
        for (name, value) in environment {
            reader.take_variable(&name, value, sections);
        }
        reader
    }

    fn take_file(&mut self, file: &Path, content: &str, sections: &[Section]) {
        let name = file.display();
        let (spans, errors) = toml::de::DeTable::parse_recoverable(content);
        for error in &errors {
            let line = error.span().map_or(1, |span| line_of(content, span.start));
            self.mistakes.push(format!("{name}:{line}: {}", error.message().replace('\n', "; ")));
        }
        let Ok(table) = content.parse::<Table>() else {
            if errors.is_empty() {
                self.mistakes.push(format!("{name}: this is not TOML"));
            }
            return;
        };
        let mut lines = BTreeMap::new();
        note_lines(content, "", spans.get_ref(), &mut lines);
        self.flatten(&name.to_string(), "", &table, &lines, sections);
    }

    fn flatten(&mut self, file: &str, prefix: &str, table: &Table, lines: &BTreeMap<String, usize>, sections: &[Section]) {
        for (name, value) in table {
            let path = join(prefix, name);
            let place = format!("{file}:{}", lines.get(&path).copied().unwrap_or(1));
            let opens = sections.iter().any(|s| s.path == path || s.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
            match value {
                Value::Table(inner) if opens => self.flatten(file, &path, inner, lines, sections),
                _ if opens => self.mistakes.push(format!("{place}: {path} is a section; write [{path}]")),
                _ => match known(sections, prefix, name) {
                    Ok(()) => {
                        self.entries.insert(path, Entry { place, value: Given::Toml(value.clone()) });
                    }
                    Err(why) => self.mistakes.push(format!("{place}: {why}")),
                },
            }
        }
    }

    fn take_variable(&mut self, name: &str, value: String, sections: &[Section]) {
        let Some(rest) = name.strip_prefix("DOORWARD_").filter(|rest| rest.contains("__")) else { return };
        let path = rest.to_ascii_lowercase().replace("__", ".");
        let (section, key) = path.rsplit_once('.').unwrap_or(("", &path));
        match known(sections, section, key) {
            Ok(()) => {
                self.entries.insert(path.clone(), Entry { place: format!("environment variable {name}"), value: Given::Text(value) });
            }
            Err(why) => self.mistakes.push(format!("environment variable {name}: {why}")),
        }
    }

    /// Reads one key. What is wrong is noted, and the default stands in for it so that the other checks can go on; `None` where there
    /// is no default.
    pub fn get<T: Setting>(&mut self, section: &str, name: &str, default: &str) -> Option<T> {
        let path = join(section, name);
        let read = match self.entries.get(&path) {
            Some(Entry { value: Given::Toml(value), .. }) => T::read(value, &self.base),
            Some(Entry { value: Given::Text(text), .. }) => T::read(&T::from_text(text), &self.base),
            None => self.fallback(default).ok_or_else(|| "this key is required".to_owned()),
        };
        match read {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(&path, &why);
                self.fallback(default)
            }
        }
    }

    fn fallback<T: Setting>(&self, default: &str) -> Option<T> {
        if default.is_empty() {
            return T::absent();
        }
        let value = format!("v = {default}").parse::<Table>().ok()?.remove("v")?;
        T::read(&value, &self.base).ok()
    }

    /// Notes a mistake about a key.
    pub fn wrong(&mut self, path: &str, why: &str) {
        let mistake = match self.entries.get(path) {
            Some(entry) => format!("{}: {path}: {why}", entry.place),
            None => format!("{path}: {why}"),
        };
        self.mistakes.push(mistake);
    }

    /// Whether a key was given at all.
    #[must_use]
    pub fn given(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The folder that relative paths start from.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// What was wrong, in the order found.
    #[must_use]
    pub fn finish(self) -> Mistakes {
        Mistakes(self.mistakes)
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn line_of(content: &str, offset: usize) -> usize {
    content.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn note_lines(content: &str, prefix: &str, table: &toml::de::DeTable<'_>, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table.iter() {
        let path = join(prefix, name.get_ref());
        lines.insert(path.clone(), line_of(content, name.span().start));
        if let toml::de::DeValue::Table(inner) = value.get_ref() {
            note_lines(content, &path, inner, lines);
        }
    }
}

fn known(sections: &[Section], section: &str, key: &str) -> Result<(), String> {
    if section.is_empty() {
        let near = nearest(key, sections.iter().map(|s| s.path));
        return Err(format!("there is no section [{key}]; the nearest is [{near}]"));
    }
    let Some(found) = sections.iter().find(|s| s.path == section) else {
        let near = nearest(section, sections.iter().map(|s| s.path));
        return Err(format!("there is no section [{section}]; the nearest is [{near}]"));
    };
    if found.keys.iter().any(|k| k.name == key) {
        return Ok(());
    }
    let near = nearest(key, found.keys.iter().map(|k| k.name));
    let elsewhere = sections.iter().find(|s| s.keys.iter().any(|k| k.name == key));
    Err(match elsewhere {
        Some(other) if distance(key, near) > 2 => format!("unknown key {section}.{key}; {key} belongs to [{}]", other.path),
        _ => format!("unknown key {section}.{key}; the nearest right key is {section}.{near}"),
    })
}

/// The candidate with the smallest edit distance.
fn nearest<'a>(given: &str, candidates: impl Iterator<Item = &'a str>) -> &'a str {
    candidates.min_by_key(|candidate| distance(given, candidate)).unwrap_or_default()
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(ca != cb)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_removals_and_replacements() {
        assert_eq!(distance("issuer", "issuer"), 0);
        assert_eq!(distance("isuer", "issuer"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("publik_listen", ["gateway_listen", "public_listen"].into_iter()), "public_listen");
    }
}
