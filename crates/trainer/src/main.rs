//! Placeholder until the trainer lands.
fn main() {}
