//! Seccomp-based platform.
