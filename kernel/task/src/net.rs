//! What the kernel wants of a network namespace, whose content is none of its business.

use std::any::Any;
use std::sync::Arc;

use auth::UserNamespace;

/// A network namespace (network_namespaces(7)).
pub trait NetNamespace: Send + Sync + Any {
    /// Inode number of /proc/pid/ns/net.
    fn ino(&self) -> u64;

    /// Whose capabilities count here.
    fn user_ns(&self) -> &Arc<UserNamespace>;

    /// Another one with nothing in it, for unshare(2).
    fn fresh(&self, user_ns: Arc<UserNamespace>) -> Arc<dyn NetNamespace>;

    /// Names of the files of /proc/net.
    fn files(&self) -> &'static [&'static str];

    /// The content of one of them, or of a setting in /proc/sys/net (`ip_unprivileged_port_start`).
    fn text(&self, name: &str) -> Option<Vec<u8>>;

    /// Access to the concrete type.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}
