// How a gloo group is made. The only file that sees ProcessGroupGloo and our declarations of gloo.
#include <chrono>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "guard.h"
#include "handles.h"

using tchd::guard;
using tchd::text;

extern "C" tchd_status tchd_group_gloo(const tchd_store* store, int32_t rank, int32_t world_size, tchd_slice interface, tchd_slice address, int32_t threads, int64_t timeout_ms, tchd_group** out) noexcept {
  return guard([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->threads = threads;
    options->devices.push_back(
        interface.len > 0 ? c10d::ProcessGroupGloo::createDeviceForInterface(text(interface))
                          : c10d::ProcessGroupGloo::createDeviceForHostname(text(address)));
    *out = new tchd_group{c10::make_intrusive<c10d::ProcessGroupGloo>(store->inner, rank, world_size, options)};
  });
}
