#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "guard.h"
#include "handles.h"

using std::chrono::milliseconds;
using tchd::bytes;
using tchd::guard;
using tchd::text;

namespace {

tchd_bytes copy(const std::vector<uint8_t>& value) {
  // One byte at least: malloc(0) may answer null, which would look like a failure.
  auto* memory = static_cast<uint8_t*>(std::malloc(value.empty() ? 1 : value.size()));
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  if (!value.empty()) {
    std::memcpy(memory, value.data(), value.size());
  }
  return {memory, value.size()};
}

std::vector<std::string> texts(const tchd_slice* slices, size_t count) {
  std::vector<std::string> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    all.push_back(text(slices[i]));
  }
  return all;
}

} // namespace

extern "C" tchd_status tchd_store_tcp(tchd_slice host, uint16_t port, int32_t listen_fd, int64_t timeout_ms, tchd_store** out) noexcept {
  return guard([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listen_fd >= 0;
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    options.waitWorkers = false;
    // Connecting counts in whole seconds, and zero would be forever.
    options.timeout = milliseconds((timeout_ms + 999) / 1000 * 1000);
    auto store = c10::make_intrusive<c10d::TCPStore>(text(host), options);
    store->setTimeout(milliseconds(timeout_ms));
    *out = new tchd_store{std::move(store)};
  });
}

extern "C" tchd_status tchd_store_file(tchd_slice path, int32_t world_size, int64_t timeout_ms, tchd_store** out) noexcept {
  return guard([&] {
    auto store = c10::make_intrusive<c10d::FileStore>(text(path), world_size);
    store->setTimeout(milliseconds(timeout_ms));
    *out = new tchd_store{std::move(store)};
  });
}

extern "C" tchd_status tchd_store_prefix(const tchd_store* store, tchd_slice prefix, tchd_store** out) noexcept {
  return guard([&] { *out = new tchd_store{c10::make_intrusive<c10d::PrefixStore>(text(prefix), store->inner)}; });
}

extern "C" tchd_status tchd_store_set(const tchd_store* store, tchd_slice key, tchd_slice value) noexcept {
  return guard([&] { store->inner->set(text(key), bytes(value)); });
}

extern "C" tchd_status tchd_store_get(const tchd_store* store, tchd_slice key, tchd_bytes* out) noexcept {
  return guard([&] { *out = copy(store->inner->get(text(key))); });
}

extern "C" tchd_status tchd_store_add(const tchd_store* store, tchd_slice key, int64_t amount, int64_t* out) noexcept {
  return guard([&] { *out = store->inner->add(text(key), amount); });
}

extern "C" tchd_status tchd_store_compare_set(const tchd_store* store, tchd_slice key, tchd_slice expected, tchd_slice desired, tchd_bytes* out) noexcept {
  return guard([&] { *out = copy(store->inner->compareSet(text(key), bytes(expected), bytes(desired))); });
}

extern "C" tchd_status tchd_store_check(const tchd_store* store, const tchd_slice* keys, size_t count, bool* out) noexcept {
  return guard([&] { *out = store->inner->check(texts(keys, count)); });
}

extern "C" tchd_status tchd_store_wait(const tchd_store* store, const tchd_slice* keys, size_t count, int64_t timeout_ms) noexcept {
  return guard([&] { store->inner->wait(texts(keys, count), milliseconds(timeout_ms)); });
}

extern "C" tchd_status tchd_store_delete(const tchd_store* store, tchd_slice key, bool* out) noexcept {
  return guard([&] { *out = store->inner->deleteKey(text(key)); });
}

extern "C" tchd_status tchd_store_num_keys(const tchd_store* store, int64_t* out) noexcept {
  return guard([&] { *out = store->inner->getNumKeys(); });
}

extern "C" tchd_status tchd_store_drop(tchd_store* store) noexcept {
  return guard([&] { delete store; });
}
