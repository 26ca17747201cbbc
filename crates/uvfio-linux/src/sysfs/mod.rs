//! What `/sys` knows of PCI functions, and what it does to them.
