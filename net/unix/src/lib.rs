//! AF_UNIX sockets (unix(7)).
//!
//! What is sent goes at once into the receiver's [`Inbox`]; a socket waits for its own inbox to fill and for its peer's to drain, both
//! announced on its own wait queue. Locks: a socket's state before an inbox; never two inboxes.
#![forbid(unsafe_code)]

mod inbox;
mod socket;

pub use inbox::{Ancillary, Credentials, Received};
pub use socket::{Address, Kind, Names, Shutdown, Socket};
