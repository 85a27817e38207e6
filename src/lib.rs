//! Evenkeel's controller.
