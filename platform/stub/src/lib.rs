//! The code that lives in every guest address space, and the layout that it shares with the sentry.
//!
//! [`layout`] is used by both sides. `blob.rs` is the root of the position-independent program that systrap's build script compiles
//! and embeds; it is not part of this library.
#![no_std]

pub mod layout;
