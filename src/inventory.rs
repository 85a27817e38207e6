//! Hosts and their devices.

/// Which devices a job wants.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceRequest {
    /// Every free GPU; without one, one CPU device.
    Auto,
    /// Any free ones, this many.
    Count(u32),
    /// Exactly these.
    Gpus(Vec<GpuName>),
    /// CPU devices.
    Cpus(Vec<CpuShare>),
}
/// A GPU as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuName {
    /// nvidia-smi order.
    Index(u32),
    /// UUID.
    Uuid(String),
}
/// A share.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuShare {
    /// Processors.
    pub cpus: Option<f64>,
    /// Cap in bytes.
    pub memory: Option<u64>,
}
