// Turns whatever a call throws into a `tchd_status`.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "shim.h"

namespace tchd {

// For the shim's own complaints about its arguments.
struct InvalidArgument {
  std::string message;
};

// Thrown by operations on a group that has closed itself. A std::exception, as it passes through libtorch's own threads.
struct GroupClosed : std::runtime_error {
  GroupClosed(tchd_kind kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  tchd_kind kind;
};

// Classifies the exception in flight. To be called inside a `catch` block only.
tchd_status current_exception() noexcept;

template <class Call>
tchd_status guard(Call&& call) noexcept {
  try {
    std::forward<Call>(call)();
    return {TCHD_OK, nullptr};
  } catch (...) {
    return current_exception();
  }
}

inline std::string text(tchd_slice slice) {
  return slice.len == 0 ? std::string() : std::string(reinterpret_cast<const char*>(slice.data), slice.len);
}

inline std::vector<uint8_t> bytes(tchd_slice slice) {
  return slice.len == 0 ? std::vector<uint8_t>() : std::vector<uint8_t>(slice.data, slice.data + slice.len);
}

} // namespace tchd
