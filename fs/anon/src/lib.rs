//! Files without a name.
#![forbid(unsafe_code)]

mod epoll;
mod eventfd;

pub use epoll::{Epoll, EpollEvent};
pub use eventfd::EventFd;
