//! nginx as the front door: `auth_request` with the documented configuration.
use crate::kit::fronts::{Front, deciding, holds};
use crate::kit::http::{Go, client};
use crate::kit::seed::MACHINE;

#[test]
fn nginx_passes_and_refuses_what_is_decided_here() {
    let stage = deciding(|_| {});
    let Some(front) = Front::nginx(&stage) else { return };
    holds(&stage, &front);
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    let old = front.call("/old/x", &token).expect(200);
    assert_eq!(old.header("deprecation"), "@1767225600", "{:?}", old.headers);
    assert_eq!(old.header("sunset"), "Thu, 01 Jan 2099 00:00:00 GMT");
    // Without a decision nothing goes on.
    stage.signal("KILL");
    let mark = crate::kit::http::random();
    let answer = client().get(front.url(&format!("/public/{mark}"))).go();
    assert!(answer.status >= 500, "{}", answer.status);
    assert!(stage.upstream.seen(&mark).is_empty());
}
