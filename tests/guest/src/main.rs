//! Programs that run on the host first and then inside.

fn main() {}
