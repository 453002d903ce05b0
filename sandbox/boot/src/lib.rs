//! Assembles kernel, platform, filesystems and network into a sandbox.
#![forbid(unsafe_code)]
