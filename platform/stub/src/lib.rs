//! The no_std code that lives in every guest address space, and the layout it shares with systrap.
