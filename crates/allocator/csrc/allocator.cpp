// libtorch's allocator for CPU tensors, replaced: large blocks are kept and given out again, every byte is counted, and a
// cap is kept with the exception that a GPU's allocator throws. src/lib.rs says what each function does.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <limits.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace {

// Vector instructions and cache lines want this; it is also the room for a block's header.
constexpr size_t kAlignment = 64;
// Blocks from here on come from the kernel in whole pages and are kept when they are given back. Smaller ones are malloc's.
constexpr size_t kLarge = size_t(1) << 20;
// Scalars and shapes: too small to matter for a cap, and never refused, so that a few numbers can always be computed.
constexpr size_t kTiny = 4096;

struct Header {
  size_t bytes;    // of the whole block
  size_t counted;  // of them, those that were asked for
};
static_assert(sizeof(Header) <= kAlignment);

// What counts of a request: whole pages, or the little that it is. Not the block that serves it, or twice the images would take more or less
// than twice the memory, and nobody could say beforehand what fits.
size_t pages(size_t bytes) {
  const size_t step = bytes < kLarge ? kAlignment : 4096;
  return (bytes + step - 1) / step * step;
}

// Sizes of blocks, in steps of an eighth, so that one fits many requests. The kernel gives a new one's end only to who touches it.
size_t rounded(size_t bytes) {
  if (bytes < kLarge) {
    return pages(bytes);
  }
  size_t step = kLarge / 8;
  while (step * 16 < bytes) {
    step *= 2;
  }
  return (bytes + step - 1) / step * step;
}

class Counting final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t wanted) override {
    void* data = wanted == 0 ? nullptr : take(wanted);
    return {data, data, &give, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give; }

  void copy_data(void* to, const void* from, size_t bytes) const final { default_copy_data(to, from, bytes); }

  void set_cap(size_t bytes) {
    std::lock_guard<std::mutex> guard(lock_);
    cap_ = bytes;
  }

  void usage(uint64_t* in_use, uint64_t* peak, uint64_t* kept) {
    std::lock_guard<std::mutex> guard(lock_);
    *in_use = in_use_;
    *peak = peak_;
    *kept = kept_;
  }

  void forget_peak() {
    std::lock_guard<std::mutex> guard(lock_);
    peak_ = in_use_;
  }

  void fail_after(uint64_t allocations) {
    std::lock_guard<std::mutex> guard(lock_);
    // The one after those fails.
    failing_ = allocations + 1;
  }

  static Counting& get() {
    // Never destroyed: tensors in static variables of others may outlive every order of destruction.
    static Counting* one = new Counting;
    return *one;
  }

 private:
  static void give(void* data) {
    if (data != nullptr) {
      get().take_back(data);
    }
  }

  void* take(size_t wanted) {
    // An overflow of the sum is no size that anything has.
    TORCH_CHECK_WITH(OutOfMemoryError, wanted < SIZE_MAX / 2, "CPU device out of memory: tried to allocate ", wanted, " bytes");
    size_t bytes = rounded(wanted + kAlignment), counted = pages(wanted + kAlignment);
    std::unique_lock<std::mutex> guard(lock_);
    if (failing_ > 0 && --failing_ == 0) {
      guard.unlock();
      refuse(wanted, "on purpose, for a test");
    }
    if (bytes >= kLarge) {
      // A block that was kept of less may not take the sum beyond the cap.
      auto found = in_use_ + counted > cap_ ? free_.end() : free_.find(bytes);
      if (found != free_.end()) {
        void* block = found->second.back();
        found->second.pop_back();
        if (found->second.empty()) {
          free_.erase(found);
        }
        kept_ -= bytes;
        return in_use(block, bytes, counted);
      }
    }
    if (in_use_ + kept_ + counted > cap_ && bytes >= kTiny) {
      release();
      if (in_use_ + counted > cap_) {
        auto used = in_use_, cap = cap_;
        guard.unlock();
        refuse(wanted, used, " of ", cap, " bytes are in use");
      }
    }
    void* block = fresh(bytes);
    if (block == nullptr) {
      release();
      block = fresh(bytes);
    }
    if (block == nullptr) {
      guard.unlock();
      refuse(wanted, "the system has no more");
    }
    return in_use(block, bytes, counted);
  }

  // Under the lock.
  void* in_use(void* block, size_t bytes, size_t counted) {
    new (block) Header{bytes, counted};
    in_use_ += counted;
    peak_ = std::max(peak_, in_use_);
    return static_cast<char*>(block) + kAlignment;
  }

  void take_back(void* data) {
    void* block = static_cast<char*>(data) - kAlignment;
    auto [bytes, counted] = *static_cast<Header*>(block);
    std::lock_guard<std::mutex> guard(lock_);
    in_use_ -= counted;
    if (bytes < kLarge) {
      std::free(block);
      return;
    }
    // What is kept is worth keeping as long as it could be needed again: no more than was in use at once, as far back as the peak goes.
    if (kept_ + bytes > peak_) {
      release();
    }
    try {
      free_[bytes].push_back(block);
      kept_ += bytes;
    } catch (const std::bad_alloc&) {
      munmap(block, bytes);
    }
  }

  static void* fresh(size_t bytes) {
    if (bytes < kLarge) {
      return std::aligned_alloc(kAlignment, bytes);
    }
    void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // Huge pages are not asked for: in a virtual machine the first touch of one costs more than all the small ones that it stands for, unless its
    // host has given that memory already, and a training is no faster for them.
    return block == MAP_FAILED ? nullptr : block;
  }

  // Gives all kept blocks back to the kernel. Under the lock.
  void release() {
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) {
        munmap(block, bytes);
      }
    }
    free_.clear();
    kept_ = 0;
  }

  template <typename... Words>
  [[noreturn]] static void refuse(size_t wanted, const Words&... words) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CPU device out of memory: tried to allocate ", wanted, " bytes; ", words...);
    std::abort();
  }

  std::mutex lock_;
  std::map<size_t, std::vector<void*>> free_;
  size_t cap_ = SIZE_MAX;
  size_t in_use_ = 0, peak_ = 0, kept_ = 0;
  uint64_t failing_ = 0;
};

}  // namespace

extern "C" {

void ek_allocator_install(uint64_t cap) {
  Counting::get().set_cap(cap);
  // oneDNN takes tens of megabytes for a layer from malloc and gives them back after it: kept, or each layer of each step would pay for the page
  // faults again. These are the most that malloc takes for the two.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  c10::SetCPUAllocator(&Counting::get(), /*priority=*/255);
}

void ek_allocator_usage(uint64_t* in_use, uint64_t* peak, uint64_t* kept) { Counting::get().usage(in_use, peak, kept); }

void ek_allocator_forget_peak() { Counting::get().forget_peak(); }

void ek_allocator_fail_after(uint64_t allocations) { Counting::get().fail_after(allocations); }
}
