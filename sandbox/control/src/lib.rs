//! The control socket protocol between CLI and sentry.
#![forbid(unsafe_code)]
