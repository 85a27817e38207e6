// Collectives on a group of any backend.
#include <chrono>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "guard.h"
#include "handles.h"

using std::chrono::milliseconds;
using tchd::guard;

namespace {

// Another handle of the same tensor: the operation owns a reference of its own until it ends.
std::vector<at::Tensor> one(const tchd_tensor* tensor) {
  return {*reinterpret_cast<const at::Tensor*>(tensor)};
}

tchd_work* hold(c10::intrusive_ptr<c10d::Work> work) {
  if (!work) {
    throw tchd::InvalidArgument{"the backend gave no work to wait for"};
  }
  return new tchd_work{std::move(work)};
}

} // namespace

extern "C" tchd_status tchd_group_all_reduce(const tchd_group* group, const tchd_tensor* tensor, uint8_t op, tchd_work** out) noexcept {
  return guard([&] {
    auto tensors = one(tensor);
    c10d::AllreduceOptions options;
    options.reduceOp = static_cast<c10d::ReduceOp::RedOpType>(op);
    *out = hold(group->inner->allreduce(tensors, options));
  });
}

extern "C" tchd_status tchd_group_broadcast(const tchd_group* group, const tchd_tensor* tensor, int32_t root, tchd_work** out) noexcept {
  return guard([&] {
    auto tensors = one(tensor);
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = hold(group->inner->broadcast(tensors, options));
  });
}

extern "C" tchd_status tchd_group_barrier(const tchd_group* group, tchd_work** out) noexcept {
  return guard([&] { *out = hold(group->inner->barrier()); });
}

extern "C" tchd_status tchd_group_monitored_barrier(const tchd_group* group, int64_t timeout_ms, bool wait_all_ranks) noexcept {
  return guard([&] {
    c10d::BarrierOptions options;
    options.timeout = milliseconds(timeout_ms);
    group->inner->monitoredBarrier(options, wait_all_ranks);
  });
}

extern "C" tchd_status tchd_group_drop(tchd_group* group) noexcept {
  return guard([&] { delete group; });
}

extern "C" tchd_status tchd_work_wait(const tchd_work* work, int64_t timeout_ms) noexcept {
  return guard([&] { work->inner->wait(milliseconds(timeout_ms)); });
}

extern "C" tchd_status tchd_work_is_completed(const tchd_work* work, bool* out) noexcept {
  return guard([&] { *out = work->inner->isCompleted(); });
}

extern "C" tchd_status tchd_work_drop(tchd_work* work) noexcept {
  return guard([&] { delete work; });
}
