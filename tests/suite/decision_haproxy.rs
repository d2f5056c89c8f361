//! HAProxy as the front door: the documented Lua action over its HTTP client.
use crate::kit::fronts::{Front, deciding, holds};
use crate::kit::http::{Go, client, random};

#[test]
fn haproxy_passes_and_refuses_what_is_decided_here() {
    let stage = deciding(|_| {});
    let Some(front) = Front::haproxy(&stage) else { return };
    holds(&stage, &front);
    stage.signal("KILL");
    let mark = random();
    client().get(front.url(&format!("/public/{mark}"))).go().expect(503);
    assert!(stage.upstream.seen(&mark).is_empty());
}
