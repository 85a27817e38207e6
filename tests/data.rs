//! Data sets and downloads, from outside: files on disk and a server on loopback.

#[path = "data/archive.rs"]
mod archive;
#[path = "data/fetch.rs"]
mod fetch;
#[path = "data/jobs.rs"]
mod jobs;
#[path = "data/obtain.rs"]
mod obtain;
#[path = "data/server.rs"]
mod server;
#[path = "data/shapes.rs"]
mod shapes;
#[path = "data/wild.rs"]
mod wild;
