//! Mapping BARs.
