//! The process that serves one device to one user at a time.
