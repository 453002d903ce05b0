//! Pipes and fifos.
#![forbid(unsafe_code)]
