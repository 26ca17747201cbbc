//! Judges a client.
