//! HTML pages as a browser without scripts reads them: forms, ids, text.
use std::collections::BTreeMap;

use super::http::Answer;

/// A page and what can be done on it.
#[derive(Debug, Clone)]
pub struct Page {
    pub url: String,
    pub answer: Answer,
    tags: Vec<Tag>,
}

#[derive(Debug, Clone)]
struct Tag {
    name: String,
    attributes: BTreeMap<String, String>,
    /// The text up to the next tag.
    text: String,
}

/// What pressing a button sends.
#[derive(Debug, Clone)]
pub struct Press {
    pub method: String,
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl Page {
    pub fn new(url: String, answer: Answer) -> Self {
        let tags = read(&answer.text());
        Self { url, answer, tags }
    }

    pub fn status(&self) -> u16 {
        self.answer.status
    }

    /// The value of `<meta name="page">`.
    pub fn kind(&self) -> String {
        self.tags
            .iter()
            .find(|t| t.name == "meta" && t.attributes.get("name").is_some_and(|n| n == "page"))
            .and_then(|t| t.attributes.get("content").cloned())
            .unwrap_or_default()
    }

    pub fn has(&self, id: &str) -> bool {
        self.by_id(id).is_some()
    }

    fn by_id(&self, id: &str) -> Option<usize> {
        self.tags.iter().position(|t| t.attributes.get("id").is_some_and(|i| i == id))
    }

    /// The text right inside the element of that id.
    #[track_caller]
    pub fn text_of(&self, id: &str) -> String {
        let at = self.by_id(id).unwrap_or_else(|| panic!("no #{id} on {}: {}", self.url, self.answer.text()));
        self.tags[at].text.trim().to_owned()
    }

    pub fn count(&self, tag: &str) -> usize {
        self.tags.iter().filter(|t| t.name == tag).count()
    }

    /// The form around (or named by) the button of that id, with its fields as they stand and the button's own.
    #[track_caller]
    pub fn press(&self, button: &str) -> Press {
        let at = self.by_id(button).unwrap_or_else(|| panic!("no #{button} on {} ({}): {}", self.url, self.status(), self.answer.text()));
        let own = &self.tags[at];
        let form = match own.attributes.get("form") {
            Some(id) => self.by_id(id).expect("the named form"),
            None => self.tags[..at].iter().rposition(|t| t.name == "form").expect("a form around the button"),
        };
        let end = self.tags[form..].iter().position(|t| t.name == "/form").map_or(self.tags.len(), |n| form + n);
        let mut fields = Vec::new();
        for tag in &self.tags[form..end] {
            let Some(name) = tag.attributes.get("name").filter(|_| tag.name == "input") else { continue };
            let kind = tag.attributes.get("type").map_or("text", String::as_str);
            let unchecked = matches!(kind, "checkbox" | "radio") && !tag.attributes.contains_key("checked");
            if !unchecked && !matches!(kind, "submit" | "button" | "reset") {
                let default = if matches!(kind, "checkbox" | "radio") { "on" } else { "" };
                fields.push((name.clone(), tag.attributes.get("value").map_or(default, String::as_str).to_owned()));
            }
        }
        if let Some(name) = own.attributes.get("name") {
            fields.push((name.clone(), own.attributes.get("value").cloned().unwrap_or_default()));
        }
        let of = |own_name: &str, name: &str| own.attributes.get(own_name).or_else(|| self.tags[form].attributes.get(name)).cloned();
        let action = of("formaction", "action").unwrap_or_default();
        let base = url::Url::parse(&self.url).expect("the page's URL");
        let action = if action.is_empty() { self.url.clone() } else { base.join(&action).expect("an action").to_string() };
        Press { method: of("formmethod", "method").unwrap_or_else(|| "get".into()).to_lowercase(), action, fields }
    }
}

impl Press {
    /// Fills in a field, whether or not the page has it already.
    pub fn fill(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter_mut().find(|(n, _)| n == name) {
            Some(field) => value.clone_into(&mut field.1),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
        self
    }
}

/// The tags of a document in order; comments, script and style bodies are passed over.
fn read(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let (name, attributes, after) = read_tag(rest);
        let text = after.split('<').next().unwrap_or("");
        rest = after;
        if matches!(name.as_str(), "script" | "style")
            && let Some(end) = rest.find(&format!("</{name}"))
        {
            rest = &rest[end..];
        }
        tags.push(Tag { name, attributes, text: decode(text) });
    }
    tags
}

fn read_tag(text: &str) -> (String, BTreeMap<String, String>, &str) {
    let end = text.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(text.len());
    let name = text[..end].trim_end_matches('/').to_lowercase();
    let name = if text.starts_with('/') { format!("/{}", name.trim_start_matches('/')) } else { name };
    let mut attributes = BTreeMap::new();
    let mut rest = &text[end..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() || rest.starts_with('>') {
            return (name, attributes, rest.strip_prefix('>').unwrap_or(rest));
        }
        let stop = rest.find(|c: char| c.is_whitespace() || "=>/".contains(c)).unwrap_or(rest.len()).max(1);
        let key = rest[..stop].to_lowercase();
        rest = rest[stop..].trim_start();
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| *c == '"' || *c == '\'');
            let (raw, next) = match quote {
                Some(q) => after[1..].split_once(q).unwrap_or((&after[1..], "")),
                None => after.split_at(after.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(after.len())),
            };
            value = decode(raw);
            rest = next;
        }
        attributes.insert(key, value);
    }
}

fn decode(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((entity, after)) = rest.split_once(';').filter(|(e, _)| e.len() <= 8) else {
            out.push('&');
            continue;
        };
        let code = entity.strip_prefix("#x").or_else(|| entity.strip_prefix("#X")).map(|h| u32::from_str_radix(h, 16));
        let code = code.or_else(|| entity.strip_prefix('#').map(str::parse)).and_then(Result::ok).and_then(char::from_u32);
        let named = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some(' '),
            _ => code,
        };
        match named {
            Some(c) => out.push(c),
            None => {
                out.push('&');
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[test]
fn a_form_is_read_as_a_browser_reads_it() {
    let html = r#"<!-- <form id="no"> --><meta name=page content="login"><form id="f" action="/go?a=1&amp;b=2" method="POST">
        <input type=hidden name=h value="x&#x27;&lt;y"><input type="checkbox" name="c1" value="1" checked><input type="checkbox" name="c2">
        <button id="ok" name="answer" value="yes">OK</button><button id="no" formaction="/no" name="answer" value="no">No</button></form>"#;
    let answer =
        Answer { status: 200, headers: reqwest::header::HeaderMap::new(), body: html.as_bytes().to_vec(), took: std::time::Duration::ZERO };
    let page = Page::new("http://127.0.0.1/x".into(), answer);
    assert_eq!(page.kind(), "login");
    let press = page.press("ok");
    assert_eq!((press.method.as_str(), press.action.as_str()), ("post", "http://127.0.0.1/go?a=1&b=2"));
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(press.fields, [pair("h", "x'<y"), pair("c1", "1"), pair("answer", "yes")]);
    assert_eq!(page.press("no").action, "http://127.0.0.1/no");
    assert_eq!(page.text_of("ok"), "OK");
}
