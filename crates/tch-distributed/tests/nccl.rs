//! NCCL groups. Where there is no GPU they must say so plainly; where there are GPUs, `make test-gpu` says what they do.
#![cfg(feature = "nccl")]

use std::time::Duration;

use tch_distributed::{Error, NcclOptions, ProcessGroup, Store};

const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn without_a_gpu_it_is_unsupported_with_a_reason() {
    // Which this machine has decides which reason is the right one.
    let loaded = tch_distributed::load_cuda();
    if loaded.is_ok() && tch::Cuda::device_count() > 0 {
        eprintln!("not tried: there is a GPU");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::file(&dir.path().join("store"), Some(1), TIMEOUT).expect("a store");
    let error = ProcessGroup::nccl(&store, 0, 1, &NcclOptions::new(0, TIMEOUT)).expect_err("no GPU");
    let Error::Unsupported(message) = &error else { panic!("{error:?}") };
    match loaded {
        Ok(()) => assert_eq!(message, "NCCL: libtorch sees no GPU"),
        // The loader names the library that is missing.
        Err(_) => assert!(message.starts_with("load CUDA: ") && message.contains(".so"), "{message}"),
    }
}

#[test]
fn a_rank_out_of_range_is_told_before_anything_is_loaded() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::file(&dir.path().join("store"), Some(1), TIMEOUT).expect("a store");
    let error = ProcessGroup::nccl(&store, 2, 2, &NcclOptions::new(0, TIMEOUT)).expect_err("no such rank");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}
