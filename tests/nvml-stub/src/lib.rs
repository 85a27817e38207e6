//! The NVML functions that nvml-wrapper calls.
