//! Pairwise subjects: every sector knows a person by another name (OpenID Connect Core §8.1; decision 0011).
//!
//! The name is a keyed MAC of sector and person: nothing is stored, nobody outside can compute it or compare two of them.
use std::borrow::Cow;

use ledger::Mistake;
use serde_json::{Map, Value};
use tokens::{b64, secret::MacKey};
use url::Url;

use crate::Client;

/// The registered `subject_type` that asks for it.
pub const PAIRWISE: &str = "pairwise";
/// Domain of the MACs.
const DOMAIN: &str = "pairwise_subject";

/// Whether a client knows people by names of its sector only.
#[must_use]
pub fn applies(client: &Client) -> bool {
    client.subject_type.as_deref() == Some(PAIRWISE)
}

/// The sector: the host of `sector_identifier_uri`, else the one host of the redirect URIs, else that of `jwks_uri` (clients
/// without redirect URIs, CIBA §4). `None` if these do not name exactly one.
#[must_use]
pub fn sector(client: &Client) -> Option<String> {
    if let Some(uri) = &client.sector_identifier_uri {
        return host(uri);
    }
    let Some((first, rest)) = client.redirect_uris.split_first() else { return host(client.jwks_uri.as_deref()?) };
    let sector = host(first)?;
    rest.iter().all(|uri| host(uri).as_ref() == Some(&sector)).then_some(sector)
}

fn host(uri: &str) -> Option<String> {
    Url::parse(uri).ok()?.host_str().map(str::to_ascii_lowercase)
}

/// The `sub` by which a client knows a person: the person's own id, or their name in the client's sector.
#[must_use]
pub fn subject<'a>(client: &Client, person: &'a str, mac: &MacKey) -> Cow<'a, str> {
    if !applies(client) {
        return Cow::Borrowed(person);
    }
    // A registration without a sector is not accepted; should one be there, it is a sector of its own.
    let sector = sector(client).unwrap_or_else(|| format!("client:{}", client.client_id));
    let mut message = Vec::with_capacity(8 + sector.len() + person.len());
    message.extend((sector.len() as u64).to_be_bytes());
    message.extend(sector.as_bytes());
    message.extend(person.as_bytes());
    Cow::Owned(b64::encode(&mac.mac(DOMAIN, &message)))
}

/// Whether `told`, a `sub` this client was given once, is that person.
#[must_use]
pub fn is(client: &Client, told: &str, person: &str, mac: &MacKey) -> bool {
    tokens::hash::eq(subject(client, person, mac).as_bytes(), told.as_bytes())
}

/// What the client itself is told of its own token by introspection: its name of the person, and nothing else by
/// which two sectors could find out that it is the same.
#[must_use]
pub fn own_view(client: &Client, answer: &[u8], mac: &MacKey) -> Option<Vec<u8>> {
    if !applies(client) {
        return None;
    }
    let mut told: Map<String, Value> = serde_json::from_slice(answer).ok()?;
    // Only what comes from a person's grant is about a person.
    told.get("grant")?;
    let person = told.get("sub")?.as_str()?.to_owned();
    told.insert("sub".into(), subject(client, &person, mac).into_owned().into());
    for name in ["username", "roles", "groups"] {
        told.shift_remove(name);
    }
    serde_json::to_vec(&told).ok()
}

/// What is wrong with a registration in this respect.
pub(crate) fn mistakes(client: &Client) -> Vec<Mistake> {
    let mut found = Vec::new();
    if client.subject_type.as_deref().is_some_and(|t| !matches!(t, "public" | PAIRWISE)) {
        found.push(Mistake::new("subject_type", "public or pairwise"));
    }
    if client.sector_identifier_uri.as_deref().is_some_and(|uri| !uri.starts_with("https://") || host(uri).is_none()) {
        found.push(Mistake::new("sector_identifier_uri", "must be an https URI"));
    } else if applies(client) && sector(client).is_none() {
        found.push(Mistake::new("sector_identifier_uri", "is needed: the redirect URIs do not share one host"));
    }
    found
}

/// Whether the document at `sector_identifier_uri` lists every redirect URI of the client (Core §8.1, Registration §5).
#[must_use]
pub fn sector_admits(document: &[u8], client: &Client) -> bool {
    let Ok(listed) = serde_json::from_slice::<Vec<String>>(document) else { return false };
    client.redirect_uris.iter().all(|uri| listed.contains(uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str, redirects: &[&str], sector: Option<&str>) -> Client {
        Client {
            client_id: id.into(),
            redirect_uris: redirects.iter().map(|r| (*r).to_owned()).collect(),
            subject_type: Some(PAIRWISE.into()),
            sector_identifier_uri: sector.map(str::to_owned),
            ..Client::default()
        }
    }
    fn key() -> MacKey {
        MacKey::new([7; 32])
    }

    #[test]
    fn a_person_has_one_name_a_sector_and_another_in_the_next() {
        let a = client("a", &["https://rp.example.com/cb"], None);
        let b = client("b", &["https://RP.example.com:8443/other"], None);
        let c = client("c", &["https://else.example.com/cb"], None);
        let d = client("d", &["https://else.example.com/cb"], Some("https://rp.example.com/sector.json"));
        let name = |client: &Client| subject(client, "alice", &key()).into_owned();
        assert_eq!(name(&a), name(&b));
        assert_eq!(name(&a), name(&d));
        assert_ne!(name(&a), name(&c));
        assert_ne!(name(&a), subject(&a, "bob", &key()));
        assert_ne!(name(&a), subject(&a, "alice", &MacKey::new([8; 32])));
        assert_eq!(name(&a).len(), 43);
        assert!(is(&a, &name(&a), "alice", &key()) && !is(&a, &name(&c), "alice", &key()) && !is(&a, "alice", "alice", &key()));
        let public = Client { subject_type: None, ..a };
        assert_eq!(subject(&public, "alice", &key()), "alice");
    }

    #[test]
    fn a_sector_is_one_host() {
        let two = client("a", &["https://a.example.com/cb", "https://b.example.com/cb"], None);
        assert_eq!(mistakes(&two).first().map(|m| m.at.as_str()), Some("sector_identifier_uri"));
        let named = Client { sector_identifier_uri: Some("https://a.example.com/s".into()), ..two.clone() };
        assert!(mistakes(&named).is_empty());
        let app = client("a", &["com.example.app:/cb"], None);
        assert_eq!(mistakes(&app).len(), 1);
        let machine = Client { redirect_uris: Vec::new(), jwks_uri: Some("https://rp.example.com/jwks".into()), ..two };
        assert!(mistakes(&machine).is_empty());
        assert_eq!(mistakes(&Client { subject_type: Some("transient".into()), ..Client::default() }).len(), 1);
        let plain = Client { sector_identifier_uri: Some("http://rp.example.com/s".into()), ..Client::default() };
        assert_eq!(mistakes(&plain).len(), 1);
    }

    #[test]
    fn the_sector_document_lists_every_redirect_uri() {
        let a = client("a", &["https://rp/cb", "https://rp/2"], None);
        assert!(sector_admits(br#"["https://rp/2","https://other/x","https://rp/cb"]"#, &a));
        for bad in [
            &br#"["https://rp/cb"]"#[..],
            br#"{"redirect_uris":["https://rp/cb","https://rp/2"]}"#,
            b"",
            br#"["https://rp/cb","https://rp/2",5]"#,
        ] {
            assert!(!sector_admits(bad, &a));
        }
    }

    #[test]
    fn a_client_that_asks_about_its_own_token_hears_its_own_name_of_the_person() {
        let a = client("a", &["https://rp.example.com/cb"], None);
        let told = own_view(&a, br#"{"active":true,"sub":"alice-id","username":"alice","grant":"g"}"#, &key()).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["sub"], *subject(&a, "alice-id", &key()));
        assert!(told.get("username").is_none());
        assert!(own_view(&a, br#"{"active":true,"sub":"a"}"#, &key()).is_none(), "a machine's own token");
        assert!(own_view(&a, br#"{"active":false}"#, &key()).is_none());
        assert!(own_view(&Client::default(), br#"{"active":true,"sub":"x","grant":"g"}"#, &key()).is_none());
    }
}
