//! Everything a developer does.
#![forbid(unsafe_code)]

fn main() {}
