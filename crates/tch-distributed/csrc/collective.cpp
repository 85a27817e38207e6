// Operations on a group of any backend. Rust has checked the tensors.
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "guard.h"
#include "handles.h"

using tchd::guard;

namespace {

using Tensors = std::vector<at::Tensor>;

// Another handle of the same tensor: the operation owns a reference of its own until it ends.
at::Tensor share(const tchd_tensor* tensor) {
  return *reinterpret_cast<const at::Tensor*>(tensor);
}

Tensors share(const tchd_tensor* const* tensors, size_t count) {
  Tensors all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    all.push_back(share(tensors[i]));
  }
  return all;
}

// A list of lists, as c10d wants it from a root; from the others it wants none.
std::vector<Tensors> list_or_none(const tchd_tensor* const* tensors, size_t count) {
  return count == 0 ? std::vector<Tensors>{} : std::vector<Tensors>{share(tensors, count)};
}

std::vector<int64_t> numbers(const int64_t* data, size_t count) {
  return count == 0 ? std::vector<int64_t>() : std::vector<int64_t>(data, data + count);
}

c10d::ReduceOp operation(uint8_t op) {
  return static_cast<c10d::ReduceOp::RedOpType>(op);
}

tchd_work* hold(const tchd_group* group, c10::intrusive_ptr<c10d::Work> work, bool unwatched = false) {
  if (!work) {
    throw tchd::InvalidArgument{"the backend gave no work to wait for"};
  }
  return new tchd_work{std::move(work), group->closing, unwatched};
}

} // namespace

extern "C" tchd_status tchd_group_all_reduce(const tchd_group* group, const tchd_tensor* tensor, uint8_t op, tchd_work** out) noexcept {
  return guard([&] {
    Tensors tensors = {share(tensor)};
    c10d::AllreduceOptions options;
    options.reduceOp = operation(op);
    *out = hold(group, group->inner->allreduce(tensors, options));
  });
}

extern "C" tchd_status tchd_group_broadcast(const tchd_group* group, const tchd_tensor* tensor, int32_t root, tchd_work** out) noexcept {
  return guard([&] {
    Tensors tensors = {share(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = hold(group, group->inner->broadcast(tensors, options));
  });
}

extern "C" tchd_status tchd_group_reduce(const tchd_group* group, const tchd_tensor* tensor, int32_t root, uint8_t op, tchd_work** out) noexcept {
  return guard([&] {
    Tensors tensors = {share(tensor)};
    c10d::ReduceOptions options;
    options.rootRank = root;
    options.reduceOp = operation(op);
    *out = hold(group, group->inner->reduce(tensors, options));
  });
}

extern "C" tchd_status tchd_group_all_gather(const tchd_group* group, const tchd_tensor* const* outputs, size_t count, const tchd_tensor* input, tchd_work** out) noexcept {
  return guard([&] {
    std::vector<Tensors> lists = {share(outputs, count)};
    Tensors inputs = {share(input)};
    *out = hold(group, group->inner->allgather(lists, inputs));
  });
}

extern "C" tchd_status tchd_group_all_gather_into_tensor(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* input, tchd_work** out) noexcept {
  return guard([&] {
    at::Tensor into = share(output);
    at::Tensor from = share(input);
    *out = hold(group, group->inner->_allgather_base(into, from));
  });
}

extern "C" tchd_status tchd_group_gather(const tchd_group* group, const tchd_tensor* const* outputs, size_t count, const tchd_tensor* input, int32_t root, tchd_work** out) noexcept {
  return guard([&] {
    std::vector<Tensors> lists = list_or_none(outputs, count);
    Tensors inputs = {share(input)};
    c10d::GatherOptions options;
    options.rootRank = root;
    *out = hold(group, group->inner->gather(lists, inputs, options));
  });
}

extern "C" tchd_status tchd_group_scatter(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* const* inputs, size_t count, int32_t root, tchd_work** out) noexcept {
  return guard([&] {
    Tensors outputs = {share(output)};
    std::vector<Tensors> lists = list_or_none(inputs, count);
    c10d::ScatterOptions options;
    options.rootRank = root;
    *out = hold(group, group->inner->scatter(outputs, lists, options));
  });
}

extern "C" tchd_status tchd_group_reduce_scatter_tensor(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* input, uint8_t op, tchd_work** out) noexcept {
  return guard([&] {
    at::Tensor into = share(output);
    at::Tensor from = share(input);
    c10d::ReduceScatterOptions options;
    options.reduceOp = operation(op);
    *out = hold(group, group->inner->_reduce_scatter_base(into, from, options));
  });
}

extern "C" tchd_status tchd_group_all_to_all_single(const tchd_group* group, const tchd_tensor* output, const int64_t* output_splits, const tchd_tensor* input, const int64_t* input_splits, size_t count, tchd_work** out) noexcept {
  return guard([&] {
    at::Tensor into = share(output);
    at::Tensor from = share(input);
    auto into_splits = numbers(output_splits, count);
    auto from_splits = numbers(input_splits, count);
    *out = hold(group, group->inner->alltoall_base(into, from, into_splits, from_splits));
  });
}

extern "C" tchd_status tchd_group_send(const tchd_group* group, const tchd_tensor* tensor, int32_t peer, int32_t tag, tchd_work** out) noexcept {
  return guard([&] {
    Tensors tensors = {share(tensor)};
    *out = hold(group, group->inner->send(tensors, peer, tag), /*unwatched=*/true);
  });
}

extern "C" tchd_status tchd_group_recv(const tchd_group* group, const tchd_tensor* tensor, int32_t peer, int32_t tag, tchd_work** out) noexcept {
  return guard([&] {
    Tensors tensors = {share(tensor)};
    *out = hold(group, group->inner->recv(tensors, peer, tag), /*unwatched=*/true);
  });
}

extern "C" tchd_status tchd_group_barrier(const tchd_group* group, tchd_work** out) noexcept {
  return guard([&] {
    c10d::BarrierOptions options;
    if (auto device = group->inner->getBoundDeviceId()) {
      // NCCL's barrier is an all-reduce, on this device.
      options.device = *device;
    }
    *out = hold(group, group->inner->barrier(options));
  });
}
