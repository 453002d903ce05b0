//! AF_UNIX sockets (unix(7)).
//!
//! What is sent goes at once to the receiver: a stream's bytes into its [`Flow`], packets into its [`Inbox`]. A socket waits on its own
//! queue, for what arrives and for room alike. Locks: a socket's state before a flow or an inbox; never two of those.
#![forbid(unsafe_code)]

mod address;
mod connect;
mod flow;
mod inbox;
mod names;
mod rights;
mod socket;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use names::Names;
pub use socket::{Kind, Unix};
