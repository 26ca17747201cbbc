//! An NVMe 1.4 controller in software.
