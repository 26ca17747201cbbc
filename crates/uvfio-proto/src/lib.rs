//! The vfio-user protocol: messages, server and client.
