//! Credentials, capabilities and user namespaces (credentials(7), capabilities(7), user_namespaces(7)).
//!
//! [`Credentials`] never change: a task that changes who it is gets new ones, so whoever holds an `Arc` of them (an open file, a
//! message under way) keeps what was true then.
#![forbid(unsafe_code)]

mod caps;
mod credentials;
mod ids;
mod userns;

pub use caps::{CapSet, Capability};
pub use credentials::{Credentials, Securebits};
pub use ids::{Extent, IdMap, Kgid, Kuid, OVERFLOW_ID};
pub use userns::{UserNamespace, new_inum};
