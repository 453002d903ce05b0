//! What can be mapped: the interface between files and mm.
#![forbid(unsafe_code)]
