//! What the targets of the gateway's edges share: a gateway on a loopback socket before an upstream that keeps what it hears, and a
//! second reader of HTTP/1.1 that has nothing in common with the gateway's own.
pub mod gateway;
pub mod upstream;
pub mod wire;
