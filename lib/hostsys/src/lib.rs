//! The only door to host system calls.
