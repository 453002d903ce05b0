//! Dentries, mounts, path walk, open files, descriptor tables.
#![forbid(unsafe_code)]
