//! Data sets and downloads, from outside: files on disk and a server on loopback.

#[path = "data/shapes.rs"]
mod shapes;
#[path = "data/wild.rs"]
mod wild;
