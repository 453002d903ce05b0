//! Execve: ELF, scripts, auxv.
#![forbid(unsafe_code)]
