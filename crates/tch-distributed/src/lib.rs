//! Safe Rust for c10d over tch.
