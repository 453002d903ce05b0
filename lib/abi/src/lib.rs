//! Linux UAPI types, numbers and errnos.
#![forbid(unsafe_code)]
