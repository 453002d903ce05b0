//! Containers as the OCI runtime specification has them.
#![forbid(unsafe_code)]

mod bundle;
mod lifecycle;
mod state;

pub use bundle::write_spec;
pub use lifecycle::{CreateOptions, create, delete, kill, run, start, strace};
pub use state::{Container, Status, state_root};
