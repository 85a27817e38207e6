//! Mixed precision: the network computes in a type of two bytes where that is harmless, as libtorch's autocast has it; weights, sums and the
//! loss stay in four.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use tch::Device;

/// A floating-point type of two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// bfloat16: the range of f32 with 8 bits of mantissa.
    Bf16,
    /// IEEE half precision: 11 bits of mantissa, nothing above 65,504, so that gradients have to be scaled.
    Fp16,
}

/// While it lives, operations of this thread on one device compute in [`Half`] where that is harmless. It ends as well where memory runs out
/// inside, which tch's closure of the same purpose does not.
#[derive(Debug)]
pub struct Autocast {
    device: i8,
    before: bool,
    /// What it changes is this thread's.
    here: PhantomData<*const ()>,
}

// libtorch's names of two of its enumerations' values, each a byte (torch/headeronly/core).
const CPU: i8 = 0;
const CUDA: i8 = 1;
const HALF: i8 = 5;
const BFLOAT16: i8 = 15;

// Functions of libtorch by the names that its library exports: tch has one for half precision on GPUs alone. A version without them does not
// link, and the version is pinned by tch.
unsafe extern "C" {
    #[link_name = "_ZN2at8autocast19is_autocast_enabledEN3c1010DeviceTypeE"]
    fn is_autocast_enabled(device: i8) -> bool;
    #[link_name = "_ZN2at8autocast20set_autocast_enabledEN3c1010DeviceTypeEb"]
    fn set_autocast_enabled(device: i8, enabled: bool);
    #[link_name = "_ZN2at8autocast18set_autocast_dtypeEN3c1010DeviceTypeENS1_10ScalarTypeE"]
    fn set_autocast_dtype(device: i8, kind: i8);
    #[link_name = "_ZN2at8autocast17increment_nestingEv"]
    fn increment_nesting() -> i32;
    #[link_name = "_ZN2at8autocast17decrement_nestingEv"]
    fn decrement_nesting() -> i32;
    #[link_name = "_ZN2at8autocast11clear_cacheEv"]
    fn clear_cache();
}

impl Autocast {
    /// Begins.
    #[must_use]
    pub fn begin(half: Half, device: Device) -> Self {
        let device = if device == Device::Cpu { CPU } else { CUDA };
        let kind = match half {
            Half::Bf16 => BFLOAT16,
            Half::Fp16 => HALF,
        };
        // SAFETY: plain functions of C++ on state of this thread, declared in ATen/autocast_mode.h with one-byte enumerations, a bool and an
        // int, which both languages pass alike on this system; they throw only for devices that libtorch does not know.
        let before = unsafe {
            let before = is_autocast_enabled(device);
            set_autocast_dtype(device, kind);
            set_autocast_enabled(device, true);
            increment_nesting();
            before
        };
        Self { device, before, here: PhantomData }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: as above, on the same thread, since the value cannot be sent. Weights that were converted are kept only inside.
        unsafe {
            if decrement_nesting() == 0 {
                clear_cache();
            }
            set_autocast_enabled(self.device, self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn inside_it_is_half_and_outside_it_is_not() {
        let (a, b) =
            (Tensor::ones([8, 8], (Kind::Float, Device::Cpu)), Tensor::ones([8, 8], (Kind::Float, Device::Cpu)));
        for (half, kind) in [(Half::Bf16, Kind::BFloat16), (Half::Fp16, Kind::Half)] {
            let inside = {
                let _autocast = Autocast::begin(half, Device::Cpu);
                a.matmul(&b).kind()
            };
            assert_eq!((inside, a.matmul(&b).kind()), (kind, Kind::Float));
        }
        let caught = std::panic::catch_unwind(|| {
            let _autocast = Autocast::begin(Half::Bf16, Device::Cpu);
            panic!("as memory that runs out");
        });
        assert!(caught.is_err());
        assert_eq!(a.matmul(&b).kind(), Kind::Float);
    }
}
