//! Credentials, capabilities and user namespaces (credentials(7), capabilities(7), user_namespaces(7)).
//!
//! [`Credentials`] never change: a task that changes who it is gets new ones, so whoever holds an `Arc` of them (an open file, a
//! message under way) keeps what was true then.
#![forbid(unsafe_code)]

mod caps;
mod credentials;
mod exec;
mod ids;
mod maps;
mod setid;
mod user;
mod userns;

pub use caps::{CapSet, Capability};
pub use credentials::{Credentials, Securebits};
pub use exec::{ExecFile, ExecOutcome, FileCaps, Unsafe};
pub use ids::{Extent, IdMap, Kgid, Kuid, OVERFLOW_ID};
pub use maps::MapKind;
pub use user::{Charge, Counted, User};
pub use userns::{UserNamespace, new_inum};
