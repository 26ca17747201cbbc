//! The virtual device: routing, DMA address space, interrupts, and the trait a device implements.
