//! The gateway's HTTP edge (RFC 9110, RFC 9112, RFC 9113) against an upstream that keeps every octet: whatever a client sends, the upstream
//! hears whole, strict requests to open routes only, no more of them than a strict reader finds in what was sent, and none that was
//! inside another's body; what comes back is well-formed.
#![no_main]
use std::{sync::LazyLock, time::Duration};

use doorward_fuzz::{
    gateway::Rig,
    upstream::{Heard, Saying},
    wire::{self, Kind, Message},
};
use libfuzzer_sys::fuzz_target;

static RIG: LazyLock<Rig> = LazyLock::new(Rig::start);

const LAST: &[u8] = b"GET /public/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// Fields that a client may not get through, whatever it calls them.
const OURS: [&str; 3] = ["x-doorward-subject", "x-doorward-client", "x-doorward-scope"];
const HIDDEN: [&str; 7] = ["authorization", "proxy-authorization", "dpop", "x-api-key", "keep-alive", "proxy-connection", "te"];

/// What is wrong with what the upstream heard, given the requests that were sent (`None`: not HTTP/1.1).
fn wrong(heard: &Heard, sent: Option<&[Message]>) -> Option<String> {
    if let Some(odd) = heard.wrong.first() {
        return Some(format!("the upstream was sent what is no request: {odd}"));
    }
    for request in &heard.requests {
        let head = &request.head;
        let shown = || format!("{head:?}");
        if !head.line[1].starts_with("/public/") || head.line[2] != "HTTP/1.1" {
            return Some(format!("not to an open route: {}", shown()));
        }
        if head.all("host").count() != 1 {
            return Some(format!("not one Host: {}", shown()));
        }
        for (name, value) in &head.fields {
            let folded: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            if name.contains('_') || OURS.contains(&folded.as_str()) || HIDDEN.contains(&name.as_str()) {
                return Some(format!("{name} came through: {}", shown()));
            }
            if name == "x-forwarded-for" && value != b"127.0.0.1" {
                return Some(format!("a forged source: {}", shown()));
            }
        }
    }
    let sent = sent?;
    // In order, each as it was sent.
    let mut left = sent.iter();
    for request in &heard.requests {
        let found = left.any(|asked| {
            let target = &asked.head.line[1];
            let plain = target.starts_with('/')
                && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_~?=&".contains(&b))
                && !target.contains("//");
            asked.head.line[0] == request.head.line[0]
                && (!plain || *target == request.head.line[1])
                && (!request.whole || (asked.whole && asked.body == request.body))
        });
        if !found {
            return Some(format!("never sent: {:?}", request.head));
        }
    }
    None
}

/// What is wrong with the answers.
fn badly(answers: &[u8], sent: &[Message]) -> Option<String> {
    let (mut rest, mut asked) = (answers, sent.iter());
    let mut finals = 0;
    while !rest.is_empty() {
        let kind = Kind::Answer(asked.clone().next().is_some_and(|request| request.head.line[0] == "HEAD"));
        match wire::read(rest, kind, true) {
            wire::Read::Message(message, taken) => {
                rest = &rest[taken..];
                if message.head.status() >= 200 {
                    finals += 1;
                    asked.next();
                }
            }
            wire::Read::Unfinished => break,
            wire::Read::Wrong(why) => return Some(format!("{why} in the answer: {:?}", String::from_utf8_lossy(answers))),
        }
    }
    (finals > sent.len() + 1).then(|| format!("{finals} answers to {} requests: {:?}", sent.len(), String::from_utf8_lossy(answers)))
}

fn tried(octets: &[u8], cut: usize) -> Option<String> {
    let second = octets.starts_with(b"PRI ");
    let (mut sent, fault, left) = wire::all(octets, Kind::Offered);
    let closed = !second && fault.is_none() && left == 0 && sent.iter().all(|message| message.whole);
    let mut octets = octets.to_vec();
    if closed {
        // Everything is answered in turn, and the last says that it is the last.
        octets.extend_from_slice(LAST);
        sent = wire::all(&octets, Kind::Offered).0;
    }
    RIG.upstream.begin(Saying::Well);
    let answers = RIG.exchange(&octets, cut, !closed);
    let heard = RIG.upstream.heard();
    wrong(&heard, (!second).then_some(&sent)).or_else(|| if second { None } else { badly(&answers, &sent) })
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, octets)) = data.split_first() else { return };
    let cut = usize::from(*cut) * octets.len() / 256;
    // What another input left behind may arrive late: a fault is one that shows again.
    if tried(octets, cut).is_some() {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(first) = tried(octets, cut) {
            std::thread::sleep(Duration::from_millis(100));
            assert!(tried(octets, cut).is_none(), "{first}");
        }
    }
});
