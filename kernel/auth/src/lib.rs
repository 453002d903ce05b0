//! Credentials, capabilities, user namespaces.
#![forbid(unsafe_code)]
