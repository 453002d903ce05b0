//! AF_UNIX sockets.
#![forbid(unsafe_code)]
