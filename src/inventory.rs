//! Hosts and their devices.

/// Which devices a job wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRequest {
    /// Every free GPU; without one, one CPU device.
    Auto,
}
