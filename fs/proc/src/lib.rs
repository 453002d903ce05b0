//! /proc.
#![forbid(unsafe_code)]
