//! Through libtorch's own tensors: one process, one test, since the allocator is the process's.

use evenkeel_allocator::{fail_after, forget_peak, install, usage};
use tch::{Device, Kind, Tensor};

const MIB: u64 = 1 << 20;

fn floats(count: i64) -> Result<Tensor, String> {
    Tensor::f_ones([count], (Kind::Float, Device::Cpu)).map_err(|error| error.to_string())
}

#[test]
fn tensors_are_counted_kept_and_capped() {
    let before = floats(1000).expect("libtorch's own");
    install(Some(64 * MIB));
    drop(before);

    let eight = floats(2 << 20).expect("8 MiB fit");
    let used = usage();
    assert!((8 * MIB..=8 * MIB + 8192).contains(&used.in_use), "what is asked for counts, in whole pages: {used:?}");
    let address = eight.data_ptr();
    drop(eight);
    assert_eq!(usage().in_use, 0);
    assert!((used.in_use..=9 * MIB).contains(&usage().kept), "{:?}", usage());
    assert_eq!(usage().peak, used.in_use);
    forget_peak();
    assert_eq!(usage().peak, 0);
    let again = floats(2 << 20).expect("8 MiB fit");
    assert_eq!(again.data_ptr(), address, "the block is used again");
    assert_eq!(again.sum(Kind::Double).double_value(&[]), f64::from(2 << 20));
    // What vector instructions want.
    assert_eq!(again.data_ptr().align_offset(64), 0);

    // More than the cap, once and in parts; kept blocks are given up before anything is refused.
    let refused = floats(32 << 20).expect_err("128 MiB do not fit");
    assert!(refused.contains("CPU device out of memory"), "{refused}");
    drop(again);
    let many: Vec<Tensor> = std::iter::from_fn(|| floats(1 << 20).ok()).collect();
    assert!((14..=15).contains(&many.len()), "{} blocks of 4 MiB in 64 MiB", many.len());
    let small = floats(10).expect("a few numbers are never refused");
    drop((many, small));
    let most = floats(14 << 20).expect("56 MiB fit once the others are gone");
    assert!(usage().peak <= 64 * MIB && usage().kept == 0, "{:?}", usage());
    drop(most);

    // A tensor of ones takes a scalar, too.
    let succeed = (0..10).find(|count| {
        fail_after(*count);
        floats(2000).is_ok()
    });
    fail_after(succeed.expect("a few allocations"));
    assert!(floats(2000).is_ok());
    assert!(floats(2000).expect_err("the second one fails").contains("out of memory"));
    assert!(floats(2000).is_ok(), "once");

    // From many threads at once.
    let sums: f64 = std::thread::scope(|scope| {
        let work = || {
            (0..200)
                .map(|turn| floats(1000 * (turn % 7 + 1)).expect("small").sum(Kind::Double).double_value(&[]))
                .sum::<f64>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(sums, 4.0 * 1000.0 * (0..200).map(|turn| f64::from(turn % 7 + 1)).sum::<f64>());
    assert_eq!(usage().in_use, 0);
}
