//! What the tests share: a peer that sends whatever bytes it likes, and a small device.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

pub(crate) mod device;
pub(crate) mod raw;
