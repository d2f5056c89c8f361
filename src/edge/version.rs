//! The life of an API version: when it is deprecated (RFC 9745), browned out, and gone (RFC 8594).
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{LINK, VARY},
};
use ledger::Mistake;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::{Refusal, version_match::Selector};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");
/// Most brown-outs of a route.
const MOST_BROWNOUTS: usize = 64;

/// A point in time: RFC 3339 text or seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Moment {
    /// Seconds since the epoch.
    Epoch(i64),
    /// `2027-01-31T00:00:00Z`.
    Text(String),
}

impl Moment {
    /// Seconds since the epoch, if it reads and lies between 1970 and 9999.
    #[must_use]
    pub fn seconds(&self) -> Option<i64> {
        let at = match self {
            Self::Epoch(at) => *at,
            Self::Text(text) => OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp(),
        };
        (0..=253_402_300_799).contains(&at).then_some(at)
    }
}

/// What a route says of its version's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Version {
    /// What people call it, e.g. `v1`; shown to administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// From when on it is deprecated: `Deprecation` (RFC 9745), and its callers are remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_at: Option<Moment>,
    /// From when on it answers 410: `Sunset` (RFC 8594).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sunset_at: Option<Moment>,
    /// What replaces it, a URI or a path: `Link` with `rel="successor-version"` (RFC 5829).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// What tells more, a URI or a path: `Link` with `rel="deprecation"` and `rel="sunset"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Times before the sunset in which some requests are refused, so that who still calls notices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub brownouts: Vec<Brownout>,
}

/// A time in which a share of the slots is dark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brownout {
    pub from: Moment,
    pub until: Moment,
    /// How many of a hundred slots are dark; the whole of it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u32>,
    /// How long a slot is, e.g. `"60s"` (default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// 503 (default) or 410.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

fn reference(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'));
    let absolute = url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    plain && text.len() <= 2048 && (absolute || (text.starts_with('/') && !text.starts_with("//")))
}

impl Version {
    /// What is wrong with it.
    pub fn mistakes(&self, out: &mut Vec<Mistake>) {
        const DATE: &str = "a time such as \"2027-01-31T00:00:00Z\" (RFC 3339) or seconds since the epoch is needed";
        let mut read = |at: &str, moment: Option<&Moment>| {
            let seconds = moment.and_then(Moment::seconds);
            if moment.is_some() && seconds.is_none() {
                out.push(Mistake::new(at, DATE));
            }
            seconds
        };
        let deprecated = read("version.deprecated_at", self.deprecated_at.as_ref());
        let sunset = read("version.sunset_at", self.sunset_at.as_ref());
        let windows: Vec<_> = self
            .brownouts
            .iter()
            .enumerate()
            .map(|(n, b)| {
                (
                    read(&format!("version.brownouts[{n}].from"), Some(&b.from)),
                    read(&format!("version.brownouts[{n}].until"), Some(&b.until)),
                )
            })
            .collect();
        if deprecated.zip(sunset).is_some_and(|(deprecated, sunset)| sunset < deprecated) {
            out.push(Mistake::new("version.sunset_at", "must not be before deprecated_at (RFC 9745 §4)"));
        }
        for (at, text) in [("version.successor", &self.successor), ("version.link", &self.link)] {
            if text.as_ref().is_some_and(|text| !reference(text)) {
                out.push(Mistake::new(at, "an https URI or a path is needed"));
            }
        }
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 128 || name.chars().any(char::is_control)) {
            out.push(Mistake::new("version.name", "1 to 128 characters"));
        }
        if self.brownouts.len() > MOST_BROWNOUTS {
            out.push(Mistake::new("version.brownouts", format!("at most {MOST_BROWNOUTS}")));
        }
        if !self.brownouts.is_empty() && self.sunset_at.is_none() {
            out.push(Mistake::new("version.brownouts", "come before a sunset_at"));
        }
        for (n, (brownout, (from, until))) in self.brownouts.iter().zip(windows).enumerate() {
            let mut wrong = |member: &str, why: &str| out.push(Mistake::new(format!("version.brownouts[{n}].{member}"), why));
            if from.zip(until).is_some_and(|(from, until)| from >= until) {
                wrong("until", "must be after from");
            }
            if until.zip(sunset).is_some_and(|(until, sunset)| until > sunset) {
                wrong("until", "must not be after sunset_at");
            }
            if brownout.share.is_some_and(|share| !(1..=100).contains(&share)) {
                wrong("share", "1 to 100 of a hundred slots");
            }
            if brownout.slot.as_ref().is_some_and(|slot| slot_s(slot).is_none()) {
                wrong("slot", "a duration of 1s to 1d such as \"60s\" is needed");
            }
            if brownout.status.is_some_and(|status| !matches!(status, 410 | 503)) {
                wrong("status", "must be 503 or 410");
            }
        }
    }
}

fn slot_s(text: &str) -> Option<i64> {
    tokens::duration::parse(text).filter(|s| (1..=86_400).contains(s))
}

/// A brown-out made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: i64,
    until: i64,
    share: i64,
    slot: i64,
    gone: bool,
}

impl Window {
    /// Whether this slot is dark. Dark ones lie as evenly as can be, and the same on every node.
    fn dark(&self, slot: i64) -> bool {
        (slot + 1) * self.share / 100 > slot * self.share / 100
    }

    /// How long it stays dark, seconds.
    fn refuses(&self, now: i64) -> Option<i64> {
        if !(self.from..self.until).contains(&now) {
            return None;
        }
        let first = (now - self.from).div_euclid(self.slot);
        if !self.dark(first) {
            return None;
        }
        // With a share below the whole, a light slot comes within a hundred.
        let light = (first..first + 100).find(|slot| !self.dark(*slot)).map_or(self.until, |slot| self.from + slot * self.slot);
        Some((light.min(self.until) - now).max(1))
    }
}

/// A version's life made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub name: Option<String>,
    pub deprecated_at: Option<i64>,
    pub sunset_at: Option<i64>,
    pub successor: Option<String>,
    windows: Vec<Window>,
    /// The problem document of its end.
    pub gone: String,
}

impl Life {
    /// A route's version made ready.
    #[must_use]
    pub fn new(given: &Version) -> Self {
        let seconds = |moment: &Option<Moment>| moment.as_ref().and_then(Moment::seconds);
        let windows = given.brownouts.iter().filter_map(|b| {
            Some(Window {
                from: b.from.seconds()?,
                until: b.until.seconds()?,
                share: i64::from(b.share.unwrap_or(100)),
                slot: b.slot.as_ref().map_or(Some(60), |slot| slot_s(slot))?,
                gone: b.status == Some(410),
            })
        });
        let mut gone = serde_json::json!({
            "type": "about:blank", "title": "Gone", "status": 410, "detail": "This version of the API is no longer served."
        });
        if let (Some(members), Some(successor)) = (gone.as_object_mut(), &given.successor) {
            members.insert("successor".into(), successor.as_str().into());
        }
        Self {
            name: given.name.clone(),
            deprecated_at: seconds(&given.deprecated_at),
            sunset_at: seconds(&given.sunset_at),
            successor: given.successor.clone(),
            windows: windows.collect(),
            gone: gone.to_string(),
        }
    }

    /// Whether it is served now, whoever asks.
    ///
    /// # Errors
    /// 410 after the sunset, 410 or 503 in a dark slot of a brown-out.
    pub fn served(&self, now: i64) -> Result<(), Refusal> {
        if self.sunset_at.is_some_and(|sunset| now >= sunset) {
            return Err(Refusal::Gone);
        }
        match self.windows.iter().find_map(|window| Some((window.refuses(now)?, window.gone))) {
            Some((retry_s, gone)) => Err(Refusal::BrownOut { gone, retry_s: u32::try_from(retry_s).unwrap_or(u32::MAX) }),
            None => Ok(()),
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn told(&self) -> String {
        let mut out = format!("version is {:?}", self.name.as_deref().unwrap_or("unnamed"));
        for (what, at) in [("deprecated", self.deprecated_at), ("gone", self.sunset_at)] {
            if let Some(at) = at {
                out.push_str(&format!(", {what} from {}", http_date(at).unwrap_or_default()));
            }
        }
        if !self.windows.is_empty() {
            out.push_str(&format!(", {} brown-outs", self.windows.len()));
        }
        out
    }

    /// Where in its life it is.
    #[must_use]
    pub fn stage(&self, now: i64) -> &'static str {
        match self.served(now) {
            Err(Refusal::Gone) => "gone",
            Err(_) => "browned out",
            Ok(()) if self.deprecated(now) => "deprecated",
            Ok(()) => "active",
        }
    }

    /// Whether it is deprecated now, so that its callers are remembered.
    #[must_use]
    pub fn deprecated(&self, now: i64) -> bool {
        self.deprecated_at.is_some_and(|at| now >= at)
    }
}

/// What every answer of a route says of its version, refusals included.
#[must_use]
pub fn told(version: Option<&Version>, selector: Option<&Selector>) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::new();
    let mut put = |name: HeaderName, value: String| out.extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
    if let Some(version) = version {
        if let Some(at) = version.deprecated_at.as_ref().and_then(Moment::seconds) {
            put(DEPRECATION, format!("@{at}"));
        }
        if let Some(date) = version.sunset_at.as_ref().and_then(Moment::seconds).and_then(http_date) {
            put(SUNSET, date);
        }
        if let Some(successor) = &version.successor {
            put(LINK, format!("<{successor}>; rel=\"successor-version\""));
        }
        if let Some(link) = &version.link {
            if version.deprecated_at.is_some() {
                put(LINK, format!("<{link}>; rel=\"deprecation\""));
            }
            if version.sunset_at.is_some() {
                put(LINK, format!("<{link}>; rel=\"sunset\""));
            }
        }
    }
    out.extend(selector.map(|selector| (VARY, selector.vary())));
    out
}

/// Puts them on an answer. What the upstream says of its own deprecation gives way.
pub fn tell(headers: &mut HeaderMap, told: &[(HeaderName, HeaderValue)]) {
    for (name, value) in told {
        if *name == LINK || *name == VARY {
            headers.append(name.clone(), value.clone());
        } else {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// An HTTP-date (RFC 9110 §5.6.7).
fn http_date(at: i64) -> Option<String> {
    let form = format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    OffsetDateTime::from_unix_timestamp(at).ok()?.format(&form).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(value: Value) -> Version {
        serde_json::from_value(value).unwrap()
    }

    fn wrong(value: Value) -> Vec<String> {
        let mut out = Vec::new();
        version(value).mistakes(&mut out);
        out.into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn dates_are_told_as_their_rfcs_say() {
        let given = version(
            json!({"deprecated_at": "2026-01-01T01:00:00+01:00", "sunset_at": 1_798_761_599, "successor": "/v2/", "link": "https://docs.example.com/v1"}),
        );
        let lines: Vec<String> = told(Some(&given), None).iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(
            lines,
            [
                "deprecation: @1767225600",
                "sunset: Thu, 31 Dec 2026 23:59:59 GMT",
                "link: </v2/>; rel=\"successor-version\"",
                "link: <https://docs.example.com/v1>; rel=\"deprecation\"",
                "link: <https://docs.example.com/v1>; rel=\"sunset\""
            ]
        );
    }

    #[test]
    fn every_mistake_of_a_version_is_named() {
        assert_eq!(wrong(json!({"deprecated_at": "2026-01-01T00:00:00Z", "sunset_at": "2027-01-01T00:00:00Z"})), Vec::<String>::new());
        assert_eq!(wrong(json!({"deprecated_at": 200, "sunset_at": 100})), ["version.sunset_at"]);
        assert_eq!(wrong(json!({"deprecated_at": "yesterday", "sunset_at": -1})), ["version.deprecated_at", "version.sunset_at"]);
        assert_eq!(wrong(json!({"successor": "//evil", "link": "a>b"})), ["version.successor", "version.link"]);
        let got = wrong(
            json!({"sunset_at": 100, "brownouts": [{"from": 50, "until": 40, "share": 0, "slot": "0s", "status": 500}, {"from": 1, "until": 200}]}),
        );
        for at in [
            "version.brownouts[0].until",
            "version.brownouts[0].share",
            "version.brownouts[0].slot",
            "version.brownouts[0].status",
            "version.brownouts[1].until",
        ] {
            assert!(got.iter().any(|m| m == at), "{at} in {got:?}");
        }
        assert_eq!(wrong(json!({"brownouts": [{"from": 1, "until": 2}]})), ["version.brownouts"]);
    }

    #[test]
    fn a_version_is_browned_out_by_slots_and_then_gone() {
        let life = Life::new(&version(json!({"deprecated_at": 1000, "sunset_at": 100_000,
            "brownouts": [{"from": 10_000, "until": 20_000, "share": 25, "slot": "10s"}, {"from": 50_000, "until": 60_000, "status": 410}]})));
        assert_eq!((life.stage(0), life.stage(1000), life.stage(100_000)), ("active", "deprecated", "gone"));
        let dark = (10_000..20_000).filter(|now| life.served(*now).is_err()).count();
        assert_eq!(dark, 2_500, "a quarter of the time");
        assert_eq!(life.served(10_030), Err(Refusal::BrownOut { gone: false, retry_s: 10 }));
        assert_eq!(life.served(10_039), Err(Refusal::BrownOut { gone: false, retry_s: 1 }));
        assert_eq!(life.served(10_040), Ok(()));
        assert_eq!(life.served(50_000), Err(Refusal::BrownOut { gone: true, retry_s: 10_000 }));
        assert_eq!(life.served(100_001), Err(Refusal::Gone));
    }
}
