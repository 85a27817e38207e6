//! The inventory, from outside: NVIDIA's library played by one of ours, and locks between real processes.

#[path = "inventory/child.rs"]
mod child;
#[path = "inventory/choose.rs"]
mod choose;
#[path = "inventory/command.rs"]
mod command;
#[path = "inventory/locks.rs"]
mod locks;
#[path = "inventory/read.rs"]
mod read;
