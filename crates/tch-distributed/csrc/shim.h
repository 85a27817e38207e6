// The C surface between Rust and c10d. `src/ffi.rs` mirrors it declaration by declaration.
//
// Every function that can fail returns a `tchd_status` and is `noexcept`: no C++ exception crosses into Rust. Objects
// are opaque pointers made by one function and given back to exactly one other. Bytes and keys are pointer and length.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Kinds of failure; the numbers are those of `Kind` in `src/error.rs`.
enum tchd_kind : int32_t {
  TCHD_OK = 0,
  TCHD_TIMEOUT = 1,
  TCHD_PEER_LOST = 2,
  TCHD_STORE = 3,
  TCHD_NETWORK = 4,
  TCHD_OUT_OF_MEMORY = 5,
  TCHD_INVALID_ARGUMENT = 6,
  TCHD_UNSUPPORTED = 7,
  TCHD_OTHER = 8,
};

struct tchd_status {
  int32_t kind;
  // Zero-terminated, to be given back with `tchd_free`; null for success, and where even its memory could not be had.
  char* message;
};

struct tchd_slice {
  const uint8_t* data;
  size_t len;
};

// Bytes made by the shim, to be given back with `tchd_free`.
struct tchd_bytes {
  uint8_t* data;
  size_t len;
};

struct tchd_store;
struct tchd_group;
struct tchd_work;
// An `at::Tensor` as tch holds it.
struct tchd_tensor;

void tchd_free(void* memory) noexcept;
const char* tchd_torch_version() noexcept;
// libtorch's own log on stderr: 0 info, 1 warning, 2 error, 3 fatal.
void tchd_set_log_level(int32_t level) noexcept;
tchd_status tchd_load_library(const char* name) noexcept;

// `listen_fd` of -1 makes a client; otherwise the descriptor of a listening socket, which now belongs to the store.
tchd_status tchd_store_tcp(tchd_slice host, uint16_t port, int32_t listen_fd, int64_t timeout_ms, tchd_store** out) noexcept;
// `world_size` of -1: unknown, the file is not removed at the end.
tchd_status tchd_store_file(tchd_slice path, int32_t world_size, int64_t timeout_ms, tchd_store** out) noexcept;
tchd_status tchd_store_prefix(const tchd_store* store, tchd_slice prefix, tchd_store** out) noexcept;
tchd_status tchd_store_set(const tchd_store* store, tchd_slice key, tchd_slice value) noexcept;
tchd_status tchd_store_get(const tchd_store* store, tchd_slice key, tchd_bytes* out) noexcept;
tchd_status tchd_store_add(const tchd_store* store, tchd_slice key, int64_t amount, int64_t* out) noexcept;
tchd_status tchd_store_compare_set(const tchd_store* store, tchd_slice key, tchd_slice expected, tchd_slice desired, tchd_bytes* out) noexcept;
tchd_status tchd_store_check(const tchd_store* store, const tchd_slice* keys, size_t count, bool* out) noexcept;
tchd_status tchd_store_wait(const tchd_store* store, const tchd_slice* keys, size_t count, int64_t timeout_ms) noexcept;
tchd_status tchd_store_delete(const tchd_store* store, tchd_slice key, bool* out) noexcept;
tchd_status tchd_store_num_keys(const tchd_store* store, int64_t* out) noexcept;
tchd_status tchd_store_drop(tchd_store* store) noexcept;

// Exactly one of `interface` and `address` is not empty.
tchd_status tchd_group_gloo(const tchd_store* store, int32_t rank, int32_t world_size, tchd_slice interface, tchd_slice address, int32_t threads, int64_t timeout_ms, tchd_group** out) noexcept;
// Both only with the feature `nccl`. `library` is the file that nccl.cpp became; it has to be loaded, once, before a group is made.
tchd_status tchd_nccl_load(tchd_slice library) noexcept;
tchd_status tchd_group_nccl(const tchd_store* store, int32_t rank, int32_t world_size, int32_t device, bool high_priority_stream, int64_t timeout_ms, tchd_group** out) noexcept;
tchd_status tchd_group_all_reduce(const tchd_group* group, const tchd_tensor* tensor, uint8_t op, tchd_work** out) noexcept;
tchd_status tchd_group_broadcast(const tchd_group* group, const tchd_tensor* tensor, int32_t root, tchd_work** out) noexcept;
tchd_status tchd_group_barrier(const tchd_group* group, tchd_work** out) noexcept;
tchd_status tchd_group_monitored_barrier(const tchd_group* group, int64_t timeout_ms, bool wait_all_ranks) noexcept;
tchd_status tchd_group_reduce(const tchd_group* group, const tchd_tensor* tensor, int32_t root, uint8_t op, tchd_work** out) noexcept;
tchd_status tchd_group_all_gather(const tchd_group* group, const tchd_tensor* const* outputs, size_t count, const tchd_tensor* input, tchd_work** out) noexcept;
tchd_status tchd_group_all_gather_into_tensor(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* input, tchd_work** out) noexcept;
// `count` of 0 on ranks that are not the root.
tchd_status tchd_group_gather(const tchd_group* group, const tchd_tensor* const* outputs, size_t count, const tchd_tensor* input, int32_t root, tchd_work** out) noexcept;
tchd_status tchd_group_scatter(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* const* inputs, size_t count, int32_t root, tchd_work** out) noexcept;
tchd_status tchd_group_reduce_scatter_tensor(const tchd_group* group, const tchd_tensor* output, const tchd_tensor* input, uint8_t op, tchd_work** out) noexcept;
// `count` of 0: equal splits.
tchd_status tchd_group_all_to_all_single(const tchd_group* group, const tchd_tensor* output, const int64_t* output_splits, const tchd_tensor* input, const int64_t* input_splits, size_t count, tchd_work** out) noexcept;
tchd_status tchd_group_send(const tchd_group* group, const tchd_tensor* tensor, int32_t peer, int32_t tag, tchd_work** out) noexcept;
tchd_status tchd_group_recv(const tchd_group* group, const tchd_tensor* tensor, int32_t peer, int32_t tag, tchd_work** out) noexcept;
// The failure that closed the group, if one did.
tchd_status tchd_group_failure(const tchd_group* group) noexcept;
// Both leave the group to be dropped.
tchd_status tchd_group_abort(const tchd_group* group) noexcept;
tchd_status tchd_group_shutdown(const tchd_group* group) noexcept;
tchd_status tchd_group_drop(tchd_group* group) noexcept;

// `timeout_ms` of 0: as long as the group's own timeout lets it run.
tchd_status tchd_work_wait(const tchd_work* work, int64_t timeout_ms) noexcept;
tchd_status tchd_work_is_completed(const tchd_work* work, bool* out) noexcept;
// The failure of a work that has ended; success for one that runs or ended well.
tchd_status tchd_work_exception(const tchd_work* work) noexcept;
tchd_status tchd_work_drop(tchd_work* work) noexcept;

// DDP and what goes with it (ddp.cpp). Lists of tensors are arrays of handles.
struct tchd_ddp;

enum tchd_hook : uint8_t { TCHD_HOOK_NONE = 0, TCHD_HOOK_FP16 = 1, TCHD_HOOK_BF16 = 2 };

struct tchd_ddp_options {
  int64_t first_bucket_bytes;
  int64_t bucket_bytes;
  bool find_unused_parameters;
  bool static_graph;
  bool gradient_as_bucket_view;
  // A `tchd_hook`.
  uint8_t hook;
};

// Equal for two handles of one tensor.
const void* tchd_tensor_identity(const tchd_tensor* tensor) noexcept;
tchd_status tchd_group_broadcast_coalesced(const tchd_group* group, const tchd_tensor* const* tensors, size_t count, int32_t root) noexcept;
// Verifies the parameters, broadcasts parameters and buffers, registers the hooks. One name a parameter.
tchd_status tchd_ddp_new(const tchd_group* group, const tchd_ddp_options* options, const tchd_tensor* const* parameters, const tchd_slice* names, size_t parameter_count, const tchd_tensor* const* buffers, size_t buffer_count, tchd_ddp** out) noexcept;
// Around every forward pass; `after` only where the pass is to be synchronised.
tchd_status tchd_ddp_before_forward(tchd_ddp* ddp, bool synchronise, bool send_buffers) noexcept;
tchd_status tchd_ddp_after_forward(tchd_ddp* ddp, const tchd_tensor* const* outputs, size_t count) noexcept;
tchd_status tchd_ddp_backward(tchd_ddp* ddp, const tchd_tensor* loss) noexcept;
tchd_status tchd_ddp_zero_grad(tchd_ddp* ddp) noexcept;
// Writes at most `capacity` sizes and says how many buckets there are.
tchd_status tchd_ddp_bucket_bytes(const tchd_ddp* ddp, uint64_t* sizes, size_t capacity, size_t* count) noexcept;
// Ends a gloo group whose gradients this rank will not complete, so that its peers do not wait for them. NCCL's own abort may
// hang: there the watchdog, or whoever started the ranks, ends them.
tchd_status tchd_ddp_fail(tchd_ddp* ddp) noexcept;
tchd_status tchd_ddp_drop(tchd_ddp* ddp) noexcept;

// SyncBatchNorm (sync_batch_norm.cpp).
struct tchd_sync_group;

// A group that only batch normalisation uses from then on.
tchd_status tchd_sync_group_new(const tchd_group* group, tchd_sync_group** out) noexcept;
tchd_status tchd_sync_group_drop(tchd_sync_group* group) noexcept;
// `weight` and `bias`: both or neither are null. `out` is a new tensor that the caller owns.
tchd_status tchd_sync_batch_norm(tchd_sync_group* group, const tchd_tensor* input, const tchd_tensor* weight, const tchd_tensor* bias, const tchd_tensor* running_mean, const tchd_tensor* running_var, double momentum, double eps, tchd_tensor** out) noexcept;

} // extern "C"
