//! How much memory of its own a worker may come to have.
//!
//! What the kernel counts (`RLIMIT_DATA`) is what can be written and is shared with nobody: the heap, and stacks at
//! their full length. DMA memory, journals and images are shared, and not counted.
//!
//! The threads have their stacks, and the heap what the device needs at rest, when the limit is set. It leaves room for
//! what one user can make the worker take beyond that:
//!
//! | for | as many as | bytes each |
//! |---|---|---|
//! | DMA mappings | the policy allows, for each function | [`MAPPING`] |
//! | messages under way | [`MESSAGES`], for each function | the longest that is taken |
//! | eventfds | descriptors | [`EVENTFD`] |
//! | threads in the place of those that users block for good | [`LEFT_BEHIND`] | [`STACK`] |
//! | the device's commands under way | the device says | |
//!
//! Each is at least twice what was measured: nobody who keeps to the rules ever meets the limit.

use uvfio_core::Policy;
use uvfio_proto::Limits;

use crate::confine::DESCRIPTORS;

/// A mapping, with the file that it alone may name.
const MAPPING: u64 = 512;

/// One that is received, one that is answered and grows, one that is sent when it is given up, each twice.
const MESSAGES: u64 = 6;

/// An eventfd, and its place in the table of vectors.
const EVENTFD: u64 = 512;

/// Threads that former users still block.
const LEFT_BEHIND: u64 = 32;

/// The stack of a thread that asks for no other; the supervisor tells the worker by [`STACK_VARIABLE`].
pub(crate) const STACK: u64 = 512 << 10;

/// Where Rust's library looks for it.
pub(crate) const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Bytes that a worker may take beyond what it has when it is ready for its first user; `device`: the device's part, of
/// each of so many functions.
pub(crate) fn for_users(policy: &Policy, limits: &Limits, functions: usize, device: u64) -> u64 {
    let mappings = u64::from(policy.max_mappings) * MAPPING;
    let messages = u64::from(limits.max_data_bytes) * MESSAGES;
    (mappings + messages + device) * functions as u64 + DESCRIPTORS * EVENTFD + LEFT_BEHIND * STACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_follows_what_a_user_may_have() {
        let (policy, limits) = (Policy::default(), Limits::default());
        let room = for_users(&policy, &limits, 1, 0);
        assert!((32 << 20..128 << 20).contains(&room), "{room} bytes");
        let more = Policy {
            max_mappings: policy.max_mappings + 1000,
            ..policy.clone()
        };
        assert_eq!(for_users(&more, &limits, 1, 0), room + 1000 * MAPPING);
        let longer = Limits {
            max_data_bytes: limits.max_data_bytes + 4096,
            ..limits
        };
        assert_eq!(for_users(&policy, &longer, 1, 0), room + 6 * 4096);
        assert_eq!(for_users(&policy, &limits, 1, 5 << 20), room + (5 << 20));
        let shared = DESCRIPTORS * EVENTFD + LEFT_BEHIND * STACK;
        assert_eq!(for_users(&policy, &limits, 2, 0) - shared, 2 * (room - shared));
    }
}
