//! The suite: the real binary, judged from outside through its public contract.
//!
//! One file per spec or journey; `kit` is what they are made of. Each test's name is the rule it proves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking"
)]

mod kit;

mod acr;
mod admin;
mod algorithms;
mod api_keys;
mod assertion;
mod authorize;
mod authzen;
mod backchannel_logout;
mod canary;
mod carried;
mod certificate_bound;
mod certificate_revocation;
mod ciba;
mod ciba_bound;
mod client_assertion;
mod client_auth;
mod client_certificates;
mod client_credentials;
mod clients;
mod clients_apache;
mod clients_breadth;
mod clients_browser;
mod clients_fapi;
mod code;
mod consent;
mod cors;
mod decision_envoy;
mod decision_forward;
mod decision_haproxy;
mod decision_nginx;
mod device;
mod devices;
mod discovery;
mod dpop;
mod dpop_gateway;
mod durability;
mod explanations;
mod fapi2;
mod fapi2_messages;
#[path = "../faults/mod.rs"]
mod faults;
#[path = "../faults/around/mod.rs"]
mod faults_around;
mod feed;
mod floods_connections;
mod floods_logins;
mod floods_tokens;
mod foreign_introspection;
mod foreign_issuer;
mod frontchannel_logout;
mod gateway;
mod gateway_client;
mod gateway_foreign;
mod gateway_live;
mod gateway_raw;
mod gateway_session;
mod gateway_session_apart;
mod gateway_upstream;
mod growth;
mod grpc;
mod half_closed;
mod house;
mod http2;
mod hybrid;
mod introspect;
mod jar;
mod jarm;
mod journeys;
mod jwt_bearer;
mod ledger;
mod limits;
mod login;
mod login_limits;
mod logout;
mod memory;
mod metadata_client;
mod mfa;
mod mtls_gateway;
mod observed;
mod operations;
mod pairwise;
mod par;
mod phantom;
mod pipelined;
mod policies;
mod post_quantum;
mod quick_lane;
mod quickstart;
mod races;
mod rar;
mod rate_limits;
mod redis_cluster;
mod refresh;
mod registration;
mod registration_manage;
mod remote_gateway;
mod replicas;
mod revoke;
mod robustness;
mod rolling_restart;
mod route_exchange;
mod routes_file;
mod seed;
mod session_across_sites;
mod session_management;
mod signals;
mod signed_answers;
mod status_list;
mod step_up;
mod third_party_login;
mod three_gateways;
mod token_exchange;
mod transport;
mod two_nodes;
mod upstream_balance;
mod upstream_health;
mod upstream_tls;
mod userinfo;
mod validation;
mod version;
