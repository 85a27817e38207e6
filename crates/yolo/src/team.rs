//! The ranks that train together, or one that is alone.

use tch::{Device, Kind, Tensor};
use tch_distributed::{ProcessGroup, ReduceOp, Result};

/// What ranks do together. Every rank calls the same in the same order; alone, nothing is sent.
#[derive(Debug)]
pub struct Team {
    host: Option<ProcessGroup>,
    device: Option<ProcessGroup>,
}

impl Team {
    /// One rank.
    #[must_use]
    pub fn alone() -> Self {
        Self { host: None, device: None }
    }

    /// Ranks that are connected: by `host` for tensors in the host's memory, and by `device` for those on GPUs.
    #[must_use]
    pub fn new(host: ProcessGroup, device: Option<ProcessGroup>) -> Self {
        Self { host: Some(host), device }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.host.as_ref().map_or(0, ProcessGroup::rank)
    }

    /// Number of ranks.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.host.as_ref().map_or(1, ProcessGroup::world_size)
    }

    /// The group for tensors on `device`, if this rank is not alone.
    #[must_use]
    pub fn group(&self, device: Device) -> Option<&ProcessGroup> {
        if device == Device::Cpu { self.host.as_ref() } else { self.device.as_ref() }
    }

    /// Replaces a contiguous tensor on every rank by the sum over all.
    ///
    /// # Errors
    ///
    /// A peer is lost or late, or the tensor is where no group is.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<()> {
        match self.group(tensor.device()) {
            Some(group) => group.all_reduce(tensor, ReduceOp::Sum)?.wait(),
            None => Ok(()),
        }
    }

    /// The largest of every value over all ranks.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn largest(&self, values: &[i64]) -> Result<Vec<i64>> {
        let Some(group) = &self.host else { return Ok(values.to_vec()) };
        let mut tensor = Tensor::from_slice(values);
        group.all_reduce(&mut tensor, ReduceOp::Max)?.wait()?;
        Ok(Vec::try_from(tensor).expect("a vector of i64"))
    }

    /// This rank's part of a vote on whether somebody calls: of those who do, the lowest rank has the largest number.
    #[must_use]
    pub fn call(&self, calls: bool) -> i64 {
        if calls { i64::from(self.size() - self.rank()) } else { 0 }
    }

    /// The lowest rank that called, by the largest of all [`Self::call`]s.
    #[must_use]
    pub fn caller(&self, largest: i64) -> Option<u32> {
        (largest > 0).then(|| self.size() - largest as u32)
    }

    /// What every rank has to say, by rank.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(group) = &self.host else { return Ok(vec![bytes.to_vec()]) };
        let mut lengths = vec![0; self.size() as usize];
        lengths[self.rank() as usize] = bytes.len() as i64;
        let mut all = Vec::new();
        for (rank, length) in (0..).zip(self.largest(&lengths)?) {
            let mut tensor = if rank == self.rank() {
                Tensor::from_slice(bytes)
            } else {
                Tensor::zeros([length], (Kind::Uint8, Device::Cpu))
            };
            if length > 0 {
                group.broadcast(&mut tensor, rank)?.wait()?;
            }
            all.push(Vec::try_from(tensor).expect("a vector of bytes"));
        }
        Ok(all)
    }

    /// Whether all ranks have the same value.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn agrees(&self, value: u64) -> Result<bool> {
        // Scattered, so that the bit that is given up for the negative to exist is none that two near numbers differ in alone.
        let value = (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64;
        let ends = self.largest(&[value, -value])?;
        Ok(ends[0] == -ends[1])
    }

    /// Ends the groups, once all ranks are here.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn leave(self) -> Result<()> {
        self.largest(&[0])?;
        [self.device, self.host].into_iter().flatten().try_for_each(ProcessGroup::shutdown)
    }
}
