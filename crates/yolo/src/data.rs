//! From files to batches: pictures and labels are found ([`set`]), decoded ([`picture`], [`label`]), changed at random ([`augment`],
//! [`sample`]), put in the order of the steps ([`order`]) and made ahead of their use ([`loader`]).

pub mod augment;
pub mod label;
pub mod loader;
pub mod order;
pub mod picture;
pub mod sample;
pub mod set;
