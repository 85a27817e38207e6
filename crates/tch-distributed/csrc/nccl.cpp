// How an NCCL group is made. Compiled into a library of its own, which nccl_loader.cpp loads when it is asked for: a program
// with this feature starts where neither a GPU nor libtorch_cuda is installed.
#include <chrono>

#include <c10/cuda/CUDACachingAllocator.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "guard.h"
#include "handles.h"

using tchd::guard;

extern "C" __attribute__((visibility("default"))) tchd_status tchd_nccl_backend(
    const tchd_store* store,
    int32_t rank,
    int32_t world_size,
    int32_t device,
    bool high_priority_stream,
    int64_t timeout_ms,
    c10d::Backend** out) noexcept {
  return guard([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create(high_priority_stream);
    options->timeout = std::chrono::milliseconds(timeout_ms);
    const at::Device bound(at::kCUDA, static_cast<at::DeviceIndex>(device));
    // What NCCL allocates for itself goes to the current device.
    const c10::cuda::CUDAGuard current(bound);
    auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(store->inner, rank, world_size, options);
    group->setBoundDeviceId(bound);
    // Connects now, so that a failure to connect is met here and not in the first collective.
    group->eagerConnectSingleDevice(bound);
    *out = group.release();
  });
}

// Bytes on a CUDA device: all, free, reserved by libtorch for tensors, and the most that were. `forget` has the last begin anew, with nothing reserved that
// no tensor uses.
extern "C" __attribute__((visibility("default"))) tchd_status tchd_cuda_memory_of(int32_t device, bool forget, uint64_t* out) noexcept {
  return guard([&] {
    namespace allocator = c10::cuda::CUDACachingAllocator;
    const auto index = static_cast<c10::DeviceIndex>(device);
    const c10::cuda::CUDAGuard current(index);
    if (forget) {
      allocator::emptyCache();
      allocator::resetPeakStats(index);
    }
    size_t available = 0, all = 0;
    C10_CUDA_CHECK(cudaMemGetInfo(&available, &all));
    // The statistics are a copy: a reference to a part of them would outlive it.
    const auto stats = allocator::getDeviceStats(index);
    const auto& reserved = stats.reserved_bytes[0];
    out[0] = all;
    out[1] = available;
    out[2] = static_cast<uint64_t>(reserved.current);
    out[3] = static_cast<uint64_t>(reserved.peak);
  });
}
