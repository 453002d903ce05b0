//! OCI bundle to validated configuration.
#![forbid(unsafe_code)]
