//! Software PCI devices: edu.
