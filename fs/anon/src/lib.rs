//! Eventfd, epoll, timerfd and the like.
#![forbid(unsafe_code)]
