//! The kernel's VFIO, by group and container.
