//! gRPC through the gateway: a client and a server of grpcio on both sides of it.
use serde_json::json;

use crate::kit::http::Go;
use crate::kit::seed::API;
use crate::kit::server::free_port;
use crate::kit::{Stage, script};

#[test]
fn calls_go_both_ways_and_refusals_are_understood() {
    let Some(pair) = script::python("grpc_pair.py") else { return };
    let stage = Stage::start(|_| {});
    let port = free_port();
    let route = |service: &str, port: u16, scope: &str| {
        json!({"id": service, "match": {"path_prefix": format!("/test.{service}/")}, "upstream": {"targets": [{"url": format!("http://127.0.0.1:{port}")}], "protocol": "http2"},
            "auth": {"accept": ["jwt"], "issuers": ["self"], "audience": API, "scopes": [scope]}})
    };
    let mut few = route("Few", port, "read");
    few["rate_limit"] = json!({"key": "client", "rate": 1, "period": "1h"});
    for route in [route("Echo", port, "read"), route("Write", port, "write"), route("Gone", free_port(), "read"), few] {
        stage.admin("POST", "/routes").json(&route).go().expect(201);
    }
    let steps = [
        "unary",
        "deadline passed on",
        "deadline kept",
        "error of the server",
        "server streaming",
        "client streaming",
        "bidirectional streaming",
        "unauthenticated",
        "permission denied",
        "unimplemented",
        "unavailable",
        "resource exhausted",
        "ended with its token",
    ];
    pair.with("GRPC_UPSTREAM_PORT", &port.to_string()).goes(&stage, &steps);
}
