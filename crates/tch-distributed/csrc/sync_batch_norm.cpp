// Batch normalisation over the batches of all ranks. libtorch's own kernels for it are for CUDA alone; this is written in
// operations that every device has.
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "handles.h"

// GCC 14 takes the growing of a vector<bool> inside Function::apply for a write out of bounds.
#pragma GCC diagnostic ignored "-Warray-bounds"
#pragma GCC diagnostic ignored "-Wstringop-overflow"

using tchd::guard;

namespace {

// Only batch normalisation starts collectives on this group, and under the mutex: the backward pass runs on whatever thread
// calls it, and c10d does not guard the counters that match collectives between ranks.
struct SyncGroup : torch::CustomClassHolder {
  explicit SyncGroup(c10::intrusive_ptr<c10d::Backend> backend) : backend(std::move(backend)) {}

  // The ranks' tensors, one row a rank.
  at::Tensor gather(const at::Tensor& own) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<at::Tensor> inputs = {own};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int rank = 0; rank < backend->getSize(); ++rank) {
      outputs[0].push_back(at::empty_like(own));
    }
    backend->allgather(outputs, inputs)->wait();
    return at::stack(outputs[0]);
  }

  c10::intrusive_ptr<c10d::Backend> backend;
  std::mutex mutex;
};

// All dimensions but that of the channels.
std::vector<int64_t> reduced_dimensions(const at::Tensor& input) {
  std::vector<int64_t> dimensions = {0};
  for (int64_t i = 2; i < input.dim(); ++i) {
    dimensions.push_back(i);
  }
  return dimensions;
}

// A value a channel in the shape that broadcasts over `input`.
at::Tensor per_channel(const at::Tensor& values, const at::Tensor& input) {
  std::vector<int64_t> shape(static_cast<size_t>(input.dim()), 1);
  shape[1] = input.size(1);
  return values.view(shape);
}

// What is computed in: double on the CPU, where it costs little more than the memory for it, so that a sum over a large batch
// is exact to the last place of a float; float on GPUs, which are slow in double, unless the input is double itself.
at::ScalarType sum_type(const at::Tensor& input) {
  return input.is_cuda() && input.scalar_type() != at::kDouble ? at::kFloat : at::kDouble;
}

struct Statistics {
  at::Tensor mean;      // [C], double
  at::Tensor variance;  // [C], double, divided by the count
  double count = 0;     // values a channel, over all ranks
};

// Counts, means and sums of squared deviations of the ranks, put together as by Chan, Golub and LeVeque (1979). All ranks
// add in the same order, so all hold the same bits.
Statistics over_all_ranks(SyncGroup& group, const at::Tensor& input) {
  const auto channels = input.size(1);
  const auto count = channels == 0 ? 0 : input.numel() / channels;
  auto own = at::zeros({2 * channels + 1}, input.options().dtype(at::kDouble));
  if (count > 0) {
    auto [variance, mean] = at::var_mean(input.to(sum_type(input)), reduced_dimensions(input), /*correction=*/at::Scalar(0));
    own.narrow(0, 0, channels).copy_(mean);
    own.narrow(0, channels, channels).copy_(variance).mul_(static_cast<double>(count));
    own.narrow(0, 2 * channels, 1).fill_(static_cast<double>(count));
  }
  const auto all = group.gather(own);
  const auto counts = all.narrow(1, 2 * channels, 1);
  const auto means = all.narrow(1, 0, channels);
  const auto total = counts.sum().item<double>();
  if (total < 2) {
    throw tchd::InvalidArgument{
        "the batches of all ranks hold " + std::to_string(static_cast<int64_t>(total)) +
        " values a channel; training needs two at least"};
  }
  Statistics statistics;
  statistics.count = total;
  statistics.mean = (means * counts).sum(0) / total;
  const auto squares = all.narrow(1, channels, channels).sum(0) + ((means - statistics.mean).square() * counts).sum(0);
  statistics.variance = squares / total;
  return statistics;
}

void move_towards(const at::Tensor& running, const at::Tensor& value, double momentum) {
  // A handle of our own: the in-place operations want one that is not const.
  at::Tensor target = running;
  target.mul_(1 - momentum).add_(value.to(target.scalar_type()), momentum);
}

class SyncBatchNorm : public torch::autograd::Function<SyncBatchNorm> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& input,
      const std::optional<at::Tensor>& optional_weight,
      const std::optional<at::Tensor>& optional_bias,
      const at::Tensor& running_mean,
      const at::Tensor& running_var,
      double momentum,
      double eps,
      const c10::intrusive_ptr<SyncGroup>& group) {
    const auto weight = optional_weight.value_or(at::Tensor());
    const auto bias = optional_bias.value_or(at::Tensor());
    const auto statistics = over_all_ranks(*group, input);
    move_towards(running_mean, statistics.mean, momentum);
    move_towards(running_var, statistics.variance * (statistics.count / (statistics.count - 1)), momentum);

    const auto type = sum_type(input);
    const auto mean = statistics.mean.to(type);
    const auto variance = statistics.variance.to(type);
    const auto inverse = (statistics.variance + eps).rsqrt().to(type);
    // The kernel of one process, given the statistics of all.
    const auto wide = input.to(type);
    const auto scale = weight.defined() ? weight.to(type) : weight;
    const auto shift = bias.defined() ? bias.to(type) : bias;
    auto output = at::batch_norm(wide, scale, shift, mean, variance, /*training=*/false, momentum, eps, false);

    context->save_for_backward({input, weight, mean, inverse});
    context->saved_data["count"] = statistics.count;
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    return output.to(input.scalar_type());
  }

  // With x^ = (x - mean) * inverse and n values a channel over all ranks:
  //   dx = inverse * weight * (dy - sum(dy) / n - x^ * sum(dy * x^) / n)
  // The sums go over all ranks. The gradients of weight and bias are this rank's share, as those of every other layer.
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& input = saved[0];
    const auto& weight = saved[1];
    const auto& mean = saved[2];
    const auto& inverse = saved[3];
    const auto type = sum_type(input);
    const auto channels = input.size(1);
    const auto dimensions = reduced_dimensions(input);
    const auto gradient = gradients[0].to(type);
    const auto normal = (input.to(type) - per_channel(mean, input)) * per_channel(inverse, input);
    const auto sum = gradient.sum(dimensions);
    const auto sum_normal = (gradient * normal).sum(dimensions);

    torch::autograd::variable_list result(8);
    if (context->needs_input_grad(0)) {
      const auto group = c10::static_intrusive_pointer_cast<SyncGroup>(context->saved_data["group"].toCapsule());
      const auto count = context->saved_data["count"].toDouble();
      const auto all = group->gather(at::cat({sum, sum_normal}).to(at::kDouble)).sum(0).div_(count).to(type);
      const auto mean_gradient = per_channel(all.narrow(0, 0, channels), input);
      const auto mean_normal = per_channel(all.narrow(0, channels, channels), input);
      const auto factor = weight.defined() ? inverse * weight.to(type) : inverse;
      const auto own = (gradient - mean_gradient - normal * mean_normal) * per_channel(factor, input);
      result[0] = own.to(input.scalar_type());
    }
    if (weight.defined()) {
      result[1] = sum_normal.to(weight.scalar_type());
      result[2] = sum.to(weight.scalar_type());
    }
    return result;
  }
};

const at::Tensor& tensor(const tchd_tensor* handle) {
  return *reinterpret_cast<const at::Tensor*>(handle);
}

// Absent, and not undefined: Function::apply asks every tensor for its device.
std::optional<at::Tensor> optional(const tchd_tensor* handle) {
  return handle == nullptr ? std::nullopt : std::make_optional(tensor(handle));
}

} // namespace

struct tchd_sync_group {
  c10::intrusive_ptr<SyncGroup> inner;
};

extern "C" tchd_status tchd_sync_group_new(const tchd_group* group, tchd_sync_group** out) noexcept {
  return guard([&] { *out = new tchd_sync_group{c10::make_intrusive<SyncGroup>(group->inner)}; });
}

extern "C" tchd_status tchd_sync_group_drop(tchd_sync_group* group) noexcept {
  return guard([&] { delete group; });
}

extern "C" tchd_status tchd_sync_batch_norm(tchd_sync_group* group, const tchd_tensor* input, const tchd_tensor* weight, const tchd_tensor* bias, const tchd_tensor* running_mean, const tchd_tensor* running_var, double momentum, double eps, tchd_tensor** out) noexcept {
  return guard([&] {
    auto output = SyncBatchNorm::apply(
        tensor(input), optional(weight), optional(bias), tensor(running_mean), tensor(running_var), momentum, eps, group->inner);
    *out = reinterpret_cast<tchd_tensor*>(new at::Tensor(std::move(output)));
  });
}
