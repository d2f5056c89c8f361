//! A person's account: OpenID Connect standard claims (Core §5.1) plus Doorward's own members.
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An account. The password is not in here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// The `sub`: random, never reused, never the username.
    pub id: String,
    /// What the person types.
    pub username: String,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    pub disabled: bool,
    /// Standard claims by their names (`name`, `email`, `email_verified`, `address`, …). Names are checked in [`Record::mistakes`].
    #[serde(flatten)]
    pub claims: Map<String, Value>,
}

/// The JSON type of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Flag,
    Number,
    Address,
}

/// The standard claims (Core §5.1) with their JSON types; `sub` is the account's `id`.
const CLAIMS: [(&str, Kind); 19] = [
    ("name", Kind::Text),
    ("given_name", Kind::Text),
    ("family_name", Kind::Text),
    ("middle_name", Kind::Text),
    ("nickname", Kind::Text),
    ("preferred_username", Kind::Text),
    ("profile", Kind::Text),
    ("picture", Kind::Text),
    ("website", Kind::Text),
    ("email", Kind::Text),
    ("email_verified", Kind::Flag),
    ("gender", Kind::Text),
    ("birthdate", Kind::Text),
    ("zoneinfo", Kind::Text),
    ("locale", Kind::Text),
    ("phone_number", Kind::Text),
    ("phone_number_verified", Kind::Flag),
    ("address", Kind::Address),
    ("updated_at", Kind::Number),
];
/// Members of `address` (Core §5.1.1), all text.
const ADDRESS: [&str; 6] = ["formatted", "street_address", "locality", "region", "postal_code", "country"];
const OWN: [&str; 6] = ["id", "username", "password", "roles", "groups", "disabled"];
/// Characters of a username, role or group.
const MAX_NAME: usize = 128;
/// Characters of a claim.
const MAX_CLAIM: usize = 2048;

impl Record for User {
    const KIND: ObjectKind = ObjectKind::User;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.username
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if !(1..=MAX_NAME).contains(&self.username.chars().count()) {
            mistakes.push(Mistake::new("username", "1 to 128 characters"));
        }
        if self.username.chars().any(char::is_control) {
            mistakes.push(Mistake::new("username", "no control characters"));
        }
        for (member, names) in [("roles", &self.roles), ("groups", &self.groups)] {
            for (at, name) in names.iter().enumerate() {
                if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
                    mistakes.push(Mistake::new(format!("{member}[{at}]"), "1 to 128 characters, no control characters"));
                }
            }
        }
        for (name, value) in &self.claims {
            claim(name, value, &mut mistakes);
        }
        mistakes
    }
}

fn claim(name: &str, value: &Value, mistakes: &mut Vec<Mistake>) {
    let Some((_, kind)) = CLAIMS.iter().find(|(known, _)| *known == name) else {
        let known = CLAIMS.iter().map(|(known, _)| *known).chain(OWN);
        mistakes.push(unknown(name, name, known));
        return;
    };
    let why = match (kind, value) {
        (Kind::Text, Value::String(text)) if name == "email" && !is_address(text) => "an address has one @ between two parts",
        (Kind::Text, Value::String(text)) => return wording(name, text, mistakes),
        (Kind::Flag, Value::Bool(_)) => return,
        (Kind::Number, Value::Number(_)) => return,
        (Kind::Address, Value::Object(members)) => return address(members, mistakes),
        (Kind::Text, _) => "a string is expected",
        (Kind::Flag, _) => "true or false is expected",
        (Kind::Number, _) => "a number of seconds since 1970 is expected",
        (Kind::Address, _) => "an object is expected",
    };
    mistakes.push(Mistake::new(name, why));
}

/// Whether a text can be an e-mail address: whether it is one, only mail tells.
fn is_address(text: &str) -> bool {
    let whole = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    text.split_once('@').is_some_and(|(who, at)| whole(who) && whole(at) && !at.contains('@'))
}

fn address(members: &Map<String, Value>, mistakes: &mut Vec<Mistake>) {
    for (name, value) in members {
        let at = format!("address.{name}");
        match value {
            _ if !ADDRESS.contains(&name.as_str()) => mistakes.push(unknown(&at, name, ADDRESS.into_iter())),
            // Lines of an address are separated by line breaks (Core §5.1.1).
            Value::String(text) => wording(&at, &text.replace(['\r', '\n'], " "), mistakes),
            _ => mistakes.push(Mistake::new(at, "a string is expected")),
        }
    }
}

fn wording(at: &str, text: &str, mistakes: &mut Vec<Mistake>) {
    if text.chars().count() > MAX_CLAIM {
        mistakes.push(Mistake::new(at, "at most 2048 characters"));
    }
    if text.chars().any(char::is_control) {
        mistakes.push(Mistake::new(at, "no control characters"));
    }
}

fn unknown<'a>(at: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Mistake {
    let nearest = known.map(|right| (distance(name, right), right)).min();
    match nearest {
        Some((away, right)) if away <= 1 + right.len() / 3 => Mistake::new(at, format!("unknown member; did you mean `{right}`?")),
        _ => Mistake::new(at, "unknown member; claims have their OpenID Connect names"),
    }
}

/// Insertions, deletions and replacements between two names (at most 64 characters are looked at).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(document: Value) -> Vec<(String, String)> {
        let user: User = serde_json::from_value(document).expect("of the right shape");
        user.mistakes().into_iter().map(|m| (m.at, m.why)).collect()
    }

    #[test]
    fn standard_claims_of_the_right_types_are_welcome() {
        let full = json!({"id": "x", "username": "alice", "roles": ["viewer"], "groups": [], "disabled": false, "name": "Alice A", "email": "a@b.c",
            "email_verified": true, "updated_at": 1_700_000_000, "address": {"formatted": "One St\nTown", "country": "NL"}});
        assert_eq!(mistakes(full), []);
    }

    #[test]
    fn every_mistake_is_named_at_once_with_the_nearest_right_name() {
        let found = mistakes(
            json!({"username": "a\u{7}", "emial": "x", "email_verified": "yes", "updated_at": "now", "address": {"city": "x", "county": "y"}, "zzzzzzzz": 1, "roles": [""]}),
        );
        let at: Vec<&str> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(at, ["username", "roles[0]", "emial", "email_verified", "updated_at", "address.city", "address.county", "zzzzzzzz"]);
        assert!(found[2].1.contains("`email`") && found[6].1.contains("`country`") && !found[7].1.contains("did you mean"));
    }

    #[test]
    fn an_email_looks_like_an_address() {
        for (email, wrong) in
            [("a@b.c", 0), ("ä+x@bücher.example", 0), ("notmail", 1), ("", 1), ("@b.c", 1), ("a@", 1), ("a@b@c", 1), ("a b@c", 1)]
        {
            assert_eq!(mistakes(json!({"username": "a", "email": email})).len(), wrong, "{email}");
        }
    }

    #[test]
    fn usernames_have_one_to_128_characters() {
        assert_eq!(mistakes(json!({"username": ""})).len(), 1);
        assert_eq!(mistakes(json!({"username": "é".repeat(128)})).len(), 0);
        assert_eq!(mistakes(json!({"username": "e".repeat(129)})).len(), 1);
    }

    #[test]
    fn distances_are_edit_distances() {
        for (a, b, away) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), away);
        }
    }
}
