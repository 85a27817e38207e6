//! From files to batches: pictures and labels are found ([`set`]), decoded ([`picture`], [`label`]) and kept ([`gallery`]), changed at random ([`augment`],
//! [`sample`]), put in the order of the steps ([`order`]) and made ahead of their use ([`loader`]).

pub mod augment;
mod cache;
pub mod gallery;
pub mod label;
pub mod loader;
mod looked;
pub mod order;
pub mod picture;
pub mod sample;
pub mod set;
