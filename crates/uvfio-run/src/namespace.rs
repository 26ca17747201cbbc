//! Namespaces of users and of mounts.
#![allow(unsafe_code)] // The system call is unsafe for what it can do to descriptors shared between threads.

use std::fs;
use std::io;

use rustix::process::{getgid, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, remove_capability_from_bounding_set, set_capabilities,
    unshare_unsafe,
};

/// Moves the process, which must have one thread only, into new namespaces in which its user and group are what they
/// are, there is nobody else, and it may mount.
pub(crate) fn enter() -> Result<(), String> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    // SAFETY: only namespaces are unshared; descriptor tables and memory stay as they are, which is what the unsafety is
    // about.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }.map_err(refused)?;
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| {
            format!("could not write /proc/self/{file}, by which a user namespace knows its users: {error}")
        })
    };
    map("setgroups", "deny".into())?;
    map("uid_map", format!("{user} {user} 1"))?;
    map("gid_map", format!("{group} {group} 1"))
}

fn refused(errno: rustix::io::Errno) -> String {
    format!(
        "the program needs a user namespace and a mount namespace, and this system refuses them ({errno}); see \
         `uvfio doctor`: it needs user.max_user_namespaces above 0, on Debian kernel.unprivileged_userns_clone=1, on \
         Ubuntu kernel.apparmor_restrict_unprivileged_userns=0, and in a container one that allows unshare and mount \
         (docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
    )
}

/// Gives up every right that a new user namespace gave, for this process and what it starts.
pub(crate) fn give_up_rights() -> io::Result<()> {
    // Numbers that this kernel has no capability for are refused.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}
