//! What an upstream answers (RFC 9112 §6, CONTRACT "Upstream faults"): whatever it says, the client gets one well-formed answer or a 502,
//! and nothing of it is taken for the answer to the next request.
#![no_main]
use std::{sync::LazyLock, time::Duration};

use doorward_fuzz::{
    gateway::Rig,
    upstream::Saying,
    wire::{self, Kind, Read},
};
use libfuzzer_sys::fuzz_target;

static RIG: LazyLock<Rig> = LazyLock::new(Rig::start);

fn tried(data: &[u8], octets: &[u8]) -> Option<String> {
    let head = data[0] & 1 == 1;
    // What has no end is ended.
    let ended = matches!(wire::read(octets, Kind::Answer(head), false), Read::Message(message, taken) if message.whole && message.head.status() >= 200 && taken == octets.len());
    RIG.upstream.begin(Saying::Odd(octets.to_vec(), !ended || data[0] & 2 == 2));
    let method = if head { "HEAD" } else { "GET" };
    let answer = RIG.exchange(format!("{method} /public/odd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(), 0, false);
    let mut rest = answer.as_slice();
    loop {
        match wire::read(rest, Kind::Answer(head), true) {
            Read::Message(message, taken) if message.head.status() < 200 => rest = &rest[taken..],
            Read::Message(message, taken) => {
                if taken != rest.len() && message.whole {
                    return Some(format!("more than one answer: {:?}", String::from_utf8_lossy(&answer)));
                }
                if message.head.all("x-request-id").count() != 1 {
                    return Some(format!("not one request id: {:?}", message.head));
                }
                break;
            }
            // What broke off behind its head may end the client's connection before that head was sent: an error, never a whole answer.
            Read::Unfinished if answer.is_empty() && !ended => break,
            Read::Unfinished => return Some(format!("half an answer: {:?}", String::from_utf8_lossy(&answer))),
            Read::Wrong(why) => return Some(format!("{why}: {:?}", String::from_utf8_lossy(&answer))),
        }
    }
    // Octets that come behind an answer may arrive when its connection carries the next request: an error then, and the end of that connection.
    let mut other = None;
    for _ in 0..2 {
        let next = RIG.exchange(b"GET /public/next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0, false);
        match wire::read(&next, Kind::Answer(false), true) {
            Read::Message(message, _) if message.head.status() == 200 && message.body == b"/public/next" => return None,
            Read::Message(message, _) if message.head.status() == 502 => other = Some(message.head),
            read => return Some(format!("the next request got {read:?}")),
        }
    }
    Some(format!("the next requests got {other:?}"))
}

fuzz_target!(|data: &[u8]| {
    let Some((_, octets)) = data.split_first() else { return };
    if tried(data, octets).is_some() {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(why) = tried(data, octets) {
            panic!("{why}");
        }
    }
});
