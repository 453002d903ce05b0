//! Files without a name.
#![forbid(unsafe_code)]

mod aio;
mod epoll;
mod eventfd;
pub mod inotify;

pub use aio::{AioContext, IoEvent, MAX_REQUESTS, aio_requests};
pub use epoll::{Epoll, EpollEvent};
pub use eventfd::EventFd;
pub use inotify::Inotify;
