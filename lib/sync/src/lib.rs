//! Levelled locks, parkers and wait queues.
