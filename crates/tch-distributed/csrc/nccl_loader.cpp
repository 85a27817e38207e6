// Loads the library that nccl.cpp becomes. Its bytes are part of the program, so that a program stays one file that can be
// copied anywhere; they reach the loader through a file in memory.
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guard.h"
#include "handles.h"

namespace {

using Make = tchd_status (*)(const tchd_store*, int32_t, int32_t, int32_t, bool, int64_t, c10d::Backend**);
using Memory = tchd_status (*)(int32_t, bool, uint64_t*);

// The reason why something that is there elsewhere is not here.
struct Missing : c10::NotImplementedError {
  explicit Missing(const std::string& reason) : c10::NotImplementedError({__func__, __FILE__, __LINE__}, reason) {}
};

std::string reason_of_errno(const char* doing) {
  return std::string("failed to ") + doing + " a file in memory: " + std::strerror(errno);
}

std::mutex mutex;
Make loaded = nullptr;
Memory memory = nullptr;

// Stays loaded: libtorch keeps pointers into it.
void load(tchd_slice library) {
  std::lock_guard<std::mutex> lock(mutex);
  if (loaded != nullptr) {
    return;
  }
  const int file = ::memfd_create("tchd_nccl", MFD_CLOEXEC);
  if (file < 0) {
    throw Missing(reason_of_errno("make"));
  }
  for (size_t written = 0; written < library.len;) {
    const ssize_t count = ::write(file, library.data + written, library.len - written);
    if (count < 0 && errno != EINTR) {
      const std::string reason = reason_of_errno("write");
      ::close(file);
      throw Missing(reason);
    }
    written += count < 0 ? 0 : static_cast<size_t>(count);
  }
  void* handle = ::dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* reason = handle == nullptr ? ::dlerror() : nullptr;
  ::close(file);
  if (handle == nullptr) {
    throw Missing(reason == nullptr ? "dlopen gave no reason" : reason);
  }
  const auto find = [&](const char* name) {
    void* symbol = ::dlsym(handle, name);
    if (symbol == nullptr) {
      throw Missing(std::string("the NCCL part has no ") + name);
    }
    return symbol;
  };
  memory = reinterpret_cast<Memory>(find("tchd_cuda_memory_of"));
  loaded = reinterpret_cast<Make>(find("tchd_nccl_backend"));
}

} // namespace

extern "C" tchd_status tchd_nccl_load(tchd_slice library) noexcept {
  return tchd::guard([&] { load(library); });
}

extern "C" tchd_status tchd_group_nccl(const tchd_store* store, int32_t rank, int32_t world_size, int32_t device, bool high_priority_stream, int64_t timeout_ms, tchd_group** out) noexcept {
  Make make = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex);
    make = loaded;
  }
  if (make == nullptr) {
    return tchd::guard([] { throw Missing("the NCCL part is not loaded"); });
  }
  c10d::Backend* backend = nullptr;
  const tchd_status made = make(store, rank, world_size, device, high_priority_stream, timeout_ms, &backend);
  if (made.kind != TCHD_OK) {
    return made;
  }
  return tchd::guard([&] {
    // Takes over the reference that the other side released.
    auto inner = c10::intrusive_ptr<c10d::Backend>::reclaim(backend);
    *out = new tchd_group{std::move(inner), nullptr};
  });
}

extern "C" tchd_status tchd_cuda_memory(int32_t device, bool forget, uint64_t* out) noexcept {
  Memory ask = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex);
    ask = memory;
  }
  if (ask == nullptr) {
    return tchd::guard([] { throw Missing("the NCCL part is not loaded"); });
  }
  return ask(device, forget, out);
}
