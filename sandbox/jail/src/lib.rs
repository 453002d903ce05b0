//! Confinement of the sentry.
#![forbid(unsafe_code)]
