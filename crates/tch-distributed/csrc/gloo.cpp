// The gloo group. The only file that sees ProcessGroupGloo and our declarations of gloo.
#include <chrono>
#include <thread>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "closing.h"
#include "guard.h"
#include "handles.h"

using tchd::guard;
using tchd::text;

namespace tchd {
namespace {

// gloo, watched: each failure of an operation closes the group, as closing.h says.
class ClosingGloo : public c10d::ProcessGroupGloo {
 public:
  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  // Tag that no operation of a caller may have: the one that closes connections.
  static constexpr int kClosingTag = INT32_MAX;

  ClosingGloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, c10::intrusive_ptr<Options> options);
  ~ClosingGloo() override;

  const std::shared_ptr<Closing>& closing() const {
    return closing_;
  }

  // Ends all connections at once; operations under way fail.
  void abort() override;

  // Every operation that reaches gloo, whoever asks for it (libtorch's Reducer asks here as well).
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr alltoall_base(
      at::Tensor& output,
      at::Tensor& input,
      std::vector<int64_t>& output_counts,
      std::vector<int64_t>& input_counts,
      const c10d::AllToAllOptions& options) override;
  WorkPtr send(Tensors& tensors, int peer, int tag) override;
  WorkPtr recv(Tensors& tensors, int peer, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) override;

 private:
  template <class Call>
  WorkPtr start(Call&& call);
  WorkPtr watched(WorkPtr work);
  void close_connections();

  const std::shared_ptr<Closing> closing_ = std::make_shared<Closing>();
  // Starting an operation counts in numbers of the base class that nothing guards. Recursive, as one may start another.
  std::recursive_mutex starting_;
  std::thread thread_;
};

ClosingGloo::ClosingGloo(
    const c10::intrusive_ptr<c10d::Store>& store,
    int rank,
    int size,
    c10::intrusive_ptr<Options> options)
    : ProcessGroupGloo(store, rank, size, std::move(options)) {
  thread_ = std::thread([this] {
    if (closing_->await_failure()) {
      close_connections();
      closing_->note_closed();
    }
  });
}

ClosingGloo::~ClosingGloo() {
  // While operations run, one of them may fail and the others must be told; so the thread goes last. It has to go before
  // the base class, which it uses.
  closing_->await_operations_and_stop();
  thread_.join();
}

void ClosingGloo::abort() {
  closing_->fail({TCHD_OTHER, "this rank aborted the group"});
  closing_->await_closed();
}

// A receive that nobody answers, given up after a millisecond: gloo then fails every operation of this process and closes
// every connection. Its own function for this has no header here. One peer's living connection is enough, and where there
// is none, there is nothing to close.
void ClosingGloo::close_connections() {
  for (int peer = 0; peer < getSize(); ++peer) {
    if (peer == getRank()) {
      continue;
    }
    try {
      Tensors byte = {at::empty({1}, at::kByte)};
      WorkPtr work;
      {
        std::lock_guard<std::recursive_mutex> lock(starting_);
        work = ProcessGroupGloo::recv(byte, peer, kClosingTag);
      }
      work->wait(std::chrono::milliseconds(1));
    } catch (...) {
      // Meant to fail; or this connection was closed already.
    }
  }
}

template <class Call>
ClosingGloo::WorkPtr ClosingGloo::start(Call&& call) {
  std::lock_guard<std::recursive_mutex> lock(starting_);
  closing_->refuse_after_failure();
  try {
    return call();
  } catch (const c10::Error&) {
    // A complaint about arguments: nothing was sent.
    throw;
  } catch (...) {
    // gloo's own: a connection is gone.
    closing_->fail_with_current_exception();
    throw;
  }
}

ClosingGloo::WorkPtr ClosingGloo::watched(WorkPtr work) {
  closing_->operation_begins();
  // Runs on gloo's thread when the operation has ended. It holds no reference to the group, whose end waits for that thread.
  work->getFuture()->addCallback([closing = closing_](c10::ivalue::Future& future) {
    if (future.hasError()) {
      try {
        std::rethrow_exception(future.exception_ptr());
      } catch (...) {
        closing->fail_with_current_exception();
      }
    }
    closing->operation_ends();
  });
  return work;
}

ClosingGloo::WorkPtr ClosingGloo::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::broadcast(tensors, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::allreduce(tensors, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::allreduce_coalesced(tensors, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::reduce(tensors, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::allgather(outputs, inputs, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::allgather_coalesced(
    std::vector<Tensors>& outputs,
    Tensors& inputs,
    const c10d::AllgatherOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::allgather_coalesced(outputs, inputs, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::gather(outputs, inputs, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::scatter(outputs, inputs, options)); });
}

ClosingGloo::WorkPtr ClosingGloo::alltoall_base(
    at::Tensor& output,
    at::Tensor& input,
    std::vector<int64_t>& output_counts,
    std::vector<int64_t>& input_counts,
    const c10d::AllToAllOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::alltoall_base(output, input, output_counts, input_counts, options)); });
}

// The works of these three know no callback: whoever waits for them tells of their failure (tchd_work_wait).
ClosingGloo::WorkPtr ClosingGloo::send(Tensors& tensors, int peer, int tag) {
  return start([&] { return ProcessGroupGloo::send(tensors, peer, tag); });
}

ClosingGloo::WorkPtr ClosingGloo::recv(Tensors& tensors, int peer, int tag) {
  return start([&] { return ProcessGroupGloo::recv(tensors, peer, tag); });
}

ClosingGloo::WorkPtr ClosingGloo::recvAnysource(Tensors& tensors, int tag) {
  return start([&] { return ProcessGroupGloo::recvAnysource(tensors, tag); });
}

ClosingGloo::WorkPtr ClosingGloo::barrier(const c10d::BarrierOptions& options) {
  return start([&] { return watched(ProcessGroupGloo::barrier(options)); });
}

// Blocks, so it is not started under the lock; its sends and receives are, one by one.
void ClosingGloo::monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) {
  closing_->refuse_after_failure();
  try {
    ProcessGroupGloo::monitoredBarrier(options, wait_all_ranks);
  } catch (...) {
    closing_->fail_with_current_exception();
    throw;
  }
}

} // namespace
} // namespace tchd

extern "C" tchd_status tchd_group_gloo(const tchd_store* store, int32_t rank, int32_t world_size, tchd_slice interface, tchd_slice address, int32_t threads, int64_t timeout_ms, tchd_group** out) noexcept {
  return guard([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->threads = threads;
    options->devices.push_back(
        interface.len > 0 ? c10d::ProcessGroupGloo::createDeviceForInterface(text(interface))
                          : c10d::ProcessGroupGloo::createDeviceForHostname(text(address)));
    auto group = c10::make_intrusive<tchd::ClosingGloo>(store->inner, rank, world_size, options);
    auto closing = group->closing();
    *out = new tchd_group{std::move(group), std::move(closing)};
  });
}
