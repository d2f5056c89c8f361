//! Event streams (SSF §8.1): what a receiver asked for, and how far it has got in the ledger.
use std::collections::BTreeSet;

use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::b64;
use url::Url;

use super::{POLL, PUSH, SUPPORTED, subject};
use crate::Settings;

/// Most subjects a receiver may leave out.
pub const MAX_LEFT_OUT: usize = 1000;
/// Most special tokens that wait at a time.
pub const MAX_WAITING: usize = 16;
/// How far ahead of what is acknowledged others may be.
pub const MAX_AHEAD: usize = 10_000;

/// Whether a stream runs (SSF §8.1.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Enabled,
    /// Nothing is delivered; what happens meanwhile is kept.
    Paused,
    /// Nothing is delivered, and what happens meanwhile is not kept.
    Disabled,
}

/// How events get to the receiver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// [`PUSH`] or [`POLL`].
    pub method: String,
    /// Where a push goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
}

/// A token that is not about an event of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Special {
    pub jti: String,
    /// What the receiver wants to see again; `None` in the news of a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether it tells of the stream's status instead of proving it.
    #[serde(default)]
    pub status: bool,
}

/// A stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stream {
    pub id: String,
    /// Whose it is: one client has one stream.
    pub client_id: String,
    /// The `aud` of its tokens.
    pub aud: String,
    pub delivery: Delivery,
    pub events_requested: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// People the receiver does not want to hear of.
    pub left_out: BTreeSet<String>,
    /// Everything in the ledger up to here was delivered, or is none of its business.
    pub position: u64,
    /// Delivered beyond that.
    pub acked: BTreeSet<u64>,
    /// To be delivered before anything else.
    pub waiting: Vec<Special>,
    /// Pushes that failed since the last that did not.
    pub failures: u32,
    /// Not before this second.
    pub retry_at: i64,
}

/// A request that cannot be served: constant text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl Record for Stream {
    const KIND: ObjectKind = ObjectKind::SignalStream;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.client_id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        Vec::new()
    }
}

/// What a request says of a stream, and the credential its pushes carry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    delivery: Option<Delivery>,
    /// The `Authorization` header of pushes; a secret.
    pub authorization: Option<String>,
    events_requested: Option<Vec<String>>,
    description: Option<Option<String>>,
}

/// An address for pushes that this server may never call (RFC 8935 §2).
pub const UNCALLABLE: Malformed = Malformed("delivery.endpoint_url must be an https URL of a public host, without user and fragment");

impl Wish {
    /// Where pushes are to go.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.delivery.as_ref()?.endpoint_url.as_deref()
    }

    /// Reads the members a receiver may choose; those that only the transmitter sets are ignored where they say what is so.
    ///
    /// # Errors
    /// What is of the wrong type or not possible.
    pub fn read(body: &Map<String, Value>) -> Result<Self, Malformed> {
        let mut wish = Self::default();
        if let Some(delivery) = body.get("delivery").filter(|d| !d.is_null()) {
            let members = delivery.as_object().ok_or(Malformed("delivery must be an object"))?;
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            let method = text("method").ok_or(Malformed("delivery.method is missing"))?;
            let endpoint_url = match method {
                PUSH => {
                    let url = text("endpoint_url").ok_or(Malformed("delivery.endpoint_url is missing"))?;
                    // The outbound rules say which http addresses are excepted: whoever has them asks them.
                    let plain = |u: Url| {
                        matches!(u.scheme(), "https" | "http")
                            && u.fragment().is_none()
                            && u.username().is_empty()
                            && u.password().is_none()
                    };
                    let good = url.len() <= 2048 && Url::parse(url).is_ok_and(plain);
                    Some(good.then(|| url.to_owned()).ok_or(UNCALLABLE)?)
                }
                POLL => None,
                _ => return Err(Malformed("this delivery method is not supported")),
            };
            wish.authorization = match members.get("authorization_header") {
                None | Some(Value::Null) => None,
                Some(Value::String(header)) if (1..=4096).contains(&header.len()) && header.bytes().all(|b| (b' '..0x7f).contains(&b)) => {
                    Some(header.clone())
                }
                Some(_) => return Err(Malformed("delivery.authorization_header must be the text of a header")),
            };
            wish.delivery = Some(Delivery { method: method.to_owned(), endpoint_url });
        }
        wish.events_requested = match body.get("events_requested") {
            None | Some(Value::Null) => None,
            Some(Value::Array(all)) if all.len() <= 100 => Some(
                all.iter()
                    .map(|e| e.as_str().map(str::to_owned))
                    .collect::<Option<_>>()
                    .ok_or(Malformed("events_requested must be URIs"))?,
            ),
            Some(_) => return Err(Malformed("events_requested must be an array")),
        };
        wish.description = match body.get("description") {
            None => None,
            Some(Value::Null) => Some(None),
            Some(Value::String(text)) if text.chars().count() <= 1000 => Some(Some(text.clone())),
            Some(_) => return Err(Malformed("description must be text of at most 1000 characters")),
        };
        Ok(wish)
    }
}

impl Stream {
    /// A new stream that hears of everything from now on.
    #[must_use]
    pub fn new(id: String, client_id: &str, wish: Wish, head: u64) -> Self {
        let mut stream = Self { id, client_id: client_id.to_owned(), aud: client_id.to_owned(), position: head, ..Self::default() };
        stream.delivery.method = POLL.to_owned();
        stream.events_requested = SUPPORTED.map(str::to_owned).to_vec();
        stream.change(wish);
        stream
    }

    /// Takes over what a receiver says (SSF §8.1.1.3).
    pub fn change(&mut self, wish: Wish) {
        if let Some(delivery) = wish.delivery {
            self.delivery = delivery;
            (self.failures, self.retry_at) = (0, 0);
        }
        if let Some(events) = wish.events_requested {
            self.events_requested = events;
        }
        if let Some(description) = wish.description {
            self.description = description;
        }
    }

    /// Puts what a receiver says in place of all it said before (SSF §8.1.1.4).
    pub fn replace(&mut self, wish: Wish) {
        self.description = None;
        self.events_requested = SUPPORTED.map(str::to_owned).to_vec();
        self.change(wish);
    }

    /// The stream as its receiver sees it (SSF §8.1.1).
    #[must_use]
    pub fn shown(&self, settings: &Settings) -> Value {
        let endpoint = match &self.delivery.endpoint_url {
            Some(url) => url.clone(),
            None => settings.url(&format!("/ssf/poll/{}", self.id)),
        };
        let delivered: Vec<&str> = SUPPORTED.into_iter().filter(|e| self.wants(e)).collect();
        let mut shown = json!({
            "stream_id": self.id, "iss": settings.issuer, "aud": self.aud,
            "delivery": {"method": self.delivery.method, "endpoint_url": endpoint},
            "events_supported": SUPPORTED, "events_requested": self.events_requested, "events_delivered": delivered,
            "min_verification_interval": 5,
        });
        if let (Some(description), Some(members)) = (&self.description, shown.as_object_mut()) {
            members.insert("description".into(), description.as_str().into());
        }
        shown
    }

    /// The stream's status as its receiver sees it (SSF §8.1.2).
    #[must_use]
    pub fn told_status(&self) -> Value {
        let mut told = json!({"stream_id": self.id, "status": self.status});
        if let (Some(reason), Some(members)) = (&self.reason, told.as_object_mut()) {
            members.insert("reason".into(), reason.as_str().into());
        }
        told
    }

    /// Whether the receiver asked for that kind of event.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.events_requested.iter().any(|e| e == kind)
    }

    /// Whether a signal is to be delivered, and was not yet.
    #[must_use]
    pub fn is_due(&self, signal: &super::event::Signal) -> bool {
        let hidden = signal.person.as_ref().is_some_and(|p| self.left_out.contains(p));
        signal.position > self.position && !self.acked.contains(&signal.position) && self.wants(signal.kind) && !hidden
    }

    /// The id of the token about the event at a position: the same however often it is made.
    #[must_use]
    pub fn jti(&self, position: u64) -> String {
        format!("{}.{}", self.id, b64::encode(&position.to_be_bytes()))
    }

    fn position_of(&self, jti: &str) -> Option<u64> {
        let octets = b64::decode(jti.strip_prefix(&self.id)?.strip_prefix('.')?)?;
        octets.try_into().ok().map(u64::from_be_bytes)
    }

    /// Takes note that a token arrived (or will never be taken); anything unknown is ignored.
    pub fn acknowledge(&mut self, jti: &str) {
        self.waiting.retain(|special| special.jti != jti);
        if let Some(position) = self.position_of(jti).filter(|p| *p > self.position)
            && self.acked.len() < MAX_AHEAD
        {
            self.acked.insert(position);
        }
    }

    /// Moves the position over everything that needs no delivery any more. `due` are the positions still to be delivered, ascending,
    /// `seen` is how far the ledger was looked at.
    pub fn settle(&mut self, due: &[u64], seen: u64) {
        let next = due.iter().find(|p| !self.acked.contains(p));
        let reached = next.map_or(seen, |p| p.saturating_sub(1)).max(self.position);
        self.position = reached;
        self.acked.retain(|p| *p > reached);
    }

    /// Lets a special token wait; the oldest goes when there are too many.
    pub fn tell(&mut self, special: Special) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(special);
    }

    /// Hears of somebody again, or no more.
    ///
    /// # Errors
    /// Too many are left out already.
    pub fn listen_to(&mut self, person: &str, wanted: bool) -> Result<(), Malformed> {
        if wanted {
            self.left_out.remove(person);
        } else if self.left_out.len() >= MAX_LEFT_OUT {
            return Err(Malformed("too many subjects are left out"));
        } else {
            self.left_out.insert(person.to_owned());
        }
        Ok(())
    }
}

/// The subject of a request to hear of somebody: their id here, or nothing if they are not known here.
///
/// # Errors
/// It is no subject identifier.
pub fn person(body: &Map<String, Value>, settings: &Settings) -> Result<Option<String>, Malformed> {
    let named = body.get("subject").and_then(subject::read).ok_or(Malformed("subject is not a subject identifier"))?;
    Ok(match named {
        subject::Named::Person { issuer, subject } if issuer == settings.issuer => Some(subject),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new("s".into(), "rp", Wish::default(), 10)
    }

    #[test]
    fn a_position_moves_only_over_what_was_delivered() {
        let mut stream = stream();
        let (a, b) = (stream.jti(12), stream.jti(15));
        stream.acknowledge(&b);
        stream.settle(&[12, 15], 20);
        assert_eq!((stream.position, stream.acked.len()), (11, 1));
        stream.acknowledge(&a);
        stream.acknowledge("s.nonsense");
        stream.acknowledge("other.AAAAAAAAAAw");
        stream.settle(&[12, 15], 20);
        assert_eq!((stream.position, stream.acked.len()), (20, 0));
    }

    #[test]
    fn what_a_receiver_may_not_say_is_told() {
        let read = |value: Value| Wish::read(value.as_object().unwrap());
        assert!(
            read(json!({"delivery": {"method": PUSH, "endpoint_url": "https://rp/events", "authorization_header": "Bearer x"}})).is_ok()
        );
        for bad in [
            json!({"delivery": "push"}),
            json!({"delivery": {"method": "urn:pigeon"}}),
            json!({"delivery": {"method": PUSH}}),
            json!({"delivery": {"method": PUSH, "endpoint_url": "ftp://x"}}),
            json!({"delivery": {"method": PUSH, "endpoint_url": "https://u:p@rp/"}}),
            json!({"delivery": {"method": PUSH, "endpoint_url": "https://rp", "authorization_header": "a\r\nb: c"}}),
            json!({"events_requested": "all"}),
            json!({"events_requested": [5]}),
            json!({"description": 5}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_asked_for_and_supported_is_delivered() {
        let mut stream = stream();
        stream.change(Wish::read(json!({"events_requested": [super::super::SESSION_REVOKED, "https://x"]}).as_object().unwrap()).unwrap());
        let shown = stream.shown(&Settings::for_issuer("https://i"));
        assert_eq!(shown["events_delivered"], json!([super::super::SESSION_REVOKED]));
        assert_eq!(shown["delivery"]["endpoint_url"], "https://i/ssf/poll/s");
        stream.replace(Wish::default());
        assert!(stream.wants(super::super::CREDENTIAL_CHANGE));
    }
}
