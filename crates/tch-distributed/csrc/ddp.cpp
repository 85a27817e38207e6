// c10d's Reducer, as Python's DistributedDataParallel uses it.
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/default_comm_hooks.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "closing.h"
#include "guard.h"
#include "handles.h"

using tchd::guard;
using tchd::text;

namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;

// As much of the state as Python's DDP sends in one message.
constexpr size_t kBroadcastBytes = 250 * 1024 * 1024;

const at::Tensor& tensor(const tchd_tensor* handle) {
  return *reinterpret_cast<const at::Tensor*>(handle);
}

std::vector<at::Tensor> tensors(const tchd_tensor* const* handles, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    all.push_back(tensor(handles[i]));
  }
  return all;
}

// The same storage without the autograd history, so that a broadcast may write into parameters.
std::vector<at::Tensor> detached(const std::vector<at::Tensor>& with_history) {
  std::vector<at::Tensor> all;
  all.reserve(with_history.size());
  for (const auto& one : with_history) {
    all.push_back(one.detach());
  }
  return all;
}

// The reducer works on a ProcessGroup, which picks a backend by the tensors' device.
Group wrap(const tchd_group* group) {
  const auto& backend = group->inner;
  const bool nccl = backend->getBackendName() == "nccl";
  const auto type = nccl ? c10d::ProcessGroup::BackendType::NCCL : c10d::ProcessGroup::BackendType::GLOO;
  auto wrapped = c10::make_intrusive<c10d::ProcessGroup>(
      c10::intrusive_ptr<c10d::Store>(), backend->getRank(), backend->getSize());
  // setBackend gives the backend the wrapper's device, which would take away its own.
  wrapped->setBoundDeviceId(backend->getBoundDeviceId());
  wrapped->setBackend(nccl ? c10::kCUDA : c10::kCPU, type, backend);
  wrapped->setDefaultBackend(type);
  return wrapped;
}

// The built-in hook for fp16, with bfloat16 in its place.
class Bf16CompressHook : public c10d::CppCommHookInterface<Group> {
 public:
  explicit Bf16CompressHook(const Group& group) : c10d::CppCommHookInterface<Group>(group) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    auto gradients = bucket.getBufferRef();
    // Divided before the sum, as the sum of large gradients need not fit.
    std::vector<at::Tensor> compressed = {gradients.to(at::kBFloat16).div_(state_->getSize())};
    auto reduced = state_->allreduce(compressed)->getFuture();
    auto decompress = [gradients](c10::ivalue::Future& future) {
      gradients.copy_(future.value().toTensorVector().at(0));
      return c10::IValue(gradients);
    };
    return reduced->then(decompress, reduced->elementType());
  }
};

// Of two failures that come of one another, the one that was first.
template <class Call>
tchd_status on_group(const std::shared_ptr<tchd::Closing>& closing, Call&& call) noexcept {
  const auto status = guard(std::forward<Call>(call));
  return status.kind == TCHD_OK || !closing ? status : closing->cause(status);
}

// Destroying a reducer or its logger may throw, and a shared pointer's destructor may not.
struct Destroy {
  template <class T>
  void operator()(T* object) const noexcept {
    try {
      delete object;
    } catch (...) {
      // All that can fail is removing hooks that are gone already, and a log.
    }
  }
};

} // namespace

struct tchd_ddp {
  // Above the reducer, so that it goes after it.
  Group group;
  std::shared_ptr<tchd::Closing> closing;
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> buffers;
  bool find_unused = false;
  bool static_graph = false;
  bool bucket_view = false;
  // Synchronised passes so far.
  uint64_t passes = 0;
  std::shared_ptr<c10d::Reducer> reducer;
  // Nothing here reads it, but the reducer calls it, whether it is there or not, when the unused parameters change. Goes
  // before the reducer.
  std::shared_ptr<c10d::Logger> logger;
};

namespace {

// In the first pass of a static graph the reducer only counts; all is reduced when the backward pass ends. The pass may
// end at any output, so each one carries a hook, and the first that runs does it.
void reduce_at_the_end(const std::shared_ptr<c10d::Reducer>& reducer, const std::vector<at::Tensor>& outputs) {
  std::weak_ptr<c10d::Reducer> weak = reducer;
  auto queued = std::make_shared<std::atomic<bool>>(false);
  for (const auto& output : outputs) {
    if (!output.requires_grad()) {
      continue;
    }
    output.register_hook([weak, queued](const at::Tensor&) {
      if (queued->exchange(true)) {
        return;
      }
      torch::autograd::Engine::get_default_engine().queue_callback([weak] {
        if (auto alive = weak.lock()) {
          alive->delay_all_reduce();
        }
      });
    });
  }
}

} // namespace

extern "C" const void* tchd_tensor_identity(const tchd_tensor* handle) noexcept {
  return tensor(handle).unsafeGetTensorImpl();
}

extern "C" tchd_status tchd_group_broadcast_coalesced(const tchd_group* group, const tchd_tensor* const* handles, size_t count, int32_t root) noexcept {
  return on_group(group->closing, [&] { c10d::broadcast_coalesced(wrap(group), detached(tensors(handles, count)), kBroadcastBytes, root); });
}

extern "C" tchd_status tchd_ddp_new(const tchd_group* group, const tchd_ddp_options* options, const tchd_tensor* const* parameters, const tchd_slice* names, size_t parameter_count, const tchd_tensor* const* buffers, size_t buffer_count, tchd_ddp** out) noexcept {
  return on_group(group->closing, [&] {
    auto ddp = std::make_unique<tchd_ddp>();
    ddp->group = wrap(group);
    ddp->closing = group->closing;
    ddp->parameters = tensors(parameters, parameter_count);
    ddp->buffers = detached(tensors(buffers, buffer_count));
    ddp->find_unused = options->find_unused_parameters;
    ddp->static_graph = options->static_graph;
    ddp->bucket_view = options->gradient_as_bucket_view;

    // Collective by collective what Python's DDP does, so that ranks of both kinds can meet in one group.
    c10d::verify_params_across_processes(ddp->group, ddp->parameters, {});
    auto state = detached(ddp->parameters);
    state.insert(state.end(), ddp->buffers.begin(), ddp->buffers.end());
    c10d::broadcast_coalesced(ddp->group, state, kBroadcastBytes, 0);

    // One bucket at first where it will be rebuilt in the order gradients arrive: until that is known, a bucket could be
    // sent in the midst of other collectives of the backward pass.
    const bool rebuilt = ddp->static_graph || !ddp->find_unused;
    const auto limits = rebuilt
        ? std::vector<size_t>{static_cast<size_t>(std::numeric_limits<int64_t>::max())}
        : std::vector<size_t>{static_cast<size_t>(options->first_bucket_bytes), static_cast<size_t>(options->bucket_bytes)};
    const std::vector<bool> sparse(parameter_count, false);
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(ddp->parameters, limits, sparse));
    // Gradients arrive in about the reverse of the order in which parameters were made.
    std::vector<std::vector<size_t>> reversed(buckets.rbegin(), buckets.rend());
    std::unordered_map<size_t, std::string> by_index;
    for (size_t i = 0; i < parameter_count; ++i) {
      by_index.emplace(i, text(names[i]));
    }
    ddp->reducer = std::shared_ptr<c10d::Reducer>(
        new c10d::Reducer(
            ddp->parameters,
            std::move(reversed),
            ddp->group,
            sparse,
            options->bucket_bytes,
            ddp->find_unused,
            ddp->bucket_view,
            std::move(by_index),
            options->first_bucket_bytes,
            /*skip_all_reduce_unused_params=*/false,
            /*use_python_reducer=*/false,
            /*bucket_bytes_cap_list=*/{}),
        Destroy());
    ddp->logger = std::shared_ptr<c10d::Logger>(new c10d::Logger(ddp->reducer), Destroy());
    ddp->reducer->set_logger(ddp->logger);
    if (ddp->static_graph) {
      ddp->reducer->set_static_graph();
    }
    if (options->hook == TCHD_HOOK_FP16) {
      ddp->reducer->register_builtin_comm_hook(c10d::BuiltinCommHookType::FP16_COMPRESS);
    } else if (options->hook == TCHD_HOOK_BF16) {
      ddp->reducer->register_comm_hook(std::make_unique<Bf16CompressHook>(ddp->group));
    }
    *out = ddp.release();
  });
}

extern "C" tchd_status tchd_ddp_before_forward(tchd_ddp* ddp, bool synchronise, bool send_buffers) noexcept {
  return on_group(ddp->closing, [&] {
    if (!c10::GradMode::is_enabled()) {
      return;
    }
    if (synchronise) {
      ddp->reducer->prepare_for_forward();
    }
    ddp->reducer->rebuild_buckets();
    if (send_buffers && !ddp->buffers.empty()) {
      c10d::broadcast_coalesced(ddp->group, ddp->buffers, kBroadcastBytes, 0);
    }
  });
}

extern "C" tchd_status tchd_ddp_after_forward(tchd_ddp* ddp, const tchd_tensor* const* handles, size_t count) noexcept {
  return guard([&] {
    if (!c10::GradMode::is_enabled()) {
      return;
    }
    const auto outputs = tensors(handles, count);
    const bool search = ddp->find_unused && !ddp->static_graph;
    ddp->reducer->prepare_for_backward(search ? outputs : std::vector<at::Tensor>());
    if (ddp->static_graph && ddp->passes == 0) {
      reduce_at_the_end(ddp->reducer, outputs);
    }
    ddp->passes += 1;
  });
}

extern "C" tchd_status tchd_ddp_backward(tchd_ddp* ddp, const tchd_tensor* loss) noexcept {
  return on_group(ddp->closing, [&] { tensor(loss).backward(); });
}

extern "C" tchd_status tchd_ddp_zero_grad(tchd_ddp* ddp) noexcept {
  return guard([&] {
    const c10::AutoGradMode no_history(false);
    for (auto& parameter : ddp->parameters) {
      auto& gradient = parameter.mutable_grad();
      if (!gradient.defined()) {
        continue;
      }
      if (ddp->bucket_view) {
        // In place, without `detach_`, which views refuse: the gradient stays where the next sum is sent from.
        gradient.zero_();
      } else {
        gradient.reset();
      }
    }
  });
}

extern "C" tchd_status tchd_ddp_bucket_bytes(const tchd_ddp* ddp, uint64_t* sizes, size_t capacity, size_t* count) noexcept {
  return guard([&] {
    const auto buckets = ddp->reducer->get_grad_buckets(false);
    *count = buckets.size();
    for (size_t i = 0; i < buckets.size() && i < capacity; ++i) {
      sizes[i] = buckets[i].getBuffer().nbytes();
    }
  });
}

extern "C" tchd_status tchd_ddp_fail(tchd_ddp* ddp) noexcept {
  return guard([&] {
    if (ddp->group->getBackendType() == c10d::ProcessGroup::BackendType::GLOO) {
      ddp->group->getDefaultBackend()->abort();
    }
  });
}

extern "C" tchd_status tchd_ddp_drop(tchd_ddp* ddp) noexcept {
  const auto removed = guard([&] {
    if (ddp->reducer) {
      ddp->reducer->remove_autograd_hooks();
    }
  });
  // Nothing in here throws: see `Destroy`.
  delete ddp;
  return removed;
}
