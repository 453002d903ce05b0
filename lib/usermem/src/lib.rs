//! Guest memory access: addresses, copies, host files mapped into the sentry.
