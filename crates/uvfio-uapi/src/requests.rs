//! Numbers of ioctl requests. They mean different things for files of different kinds.

use vfio_bindings::bindings::vfio as sys;

/// The number of VFIO's request `n`: without size and direction, as VFIO defines all of its.
const fn vfio(n: u32) -> u32 {
    ((sys::VFIO_TYPE as u32) << 8) | (sys::VFIO_BASE + n)
}

pub(crate) const GET_API_VERSION: u32 = vfio(0);
