#include "closing.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace tchd {

void Closing::fail(Failure failure) noexcept {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_) {
      return;
    }
    failure_.emplace(std::move(failure));
  }
  changed_.notify_all();
}

void Closing::fail_with_current_exception() noexcept {
  const tchd_status status = current_exception();
  fail({static_cast<tchd_kind>(status.kind), status.message == nullptr ? "" : status.message});
  std::free(status.message);
}

std::optional<Failure> Closing::failure() {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

void Closing::refuse_after_failure() {
  if (auto earlier = failure()) {
    throw GroupClosed(earlier->kind, "the group is closed since an operation failed: " + earlier->message);
  }
}

tchd_status Closing::cause(tchd_status status) noexcept {
  // gloo's words for connections that this process closed itself.
  constexpr std::string_view kOwnDoing = "caused pair closure";
  if (status.message == nullptr || std::string_view(status.message).find(kOwnDoing) == std::string_view::npos) {
    return status;
  }
  auto first = failure();
  if (!first || first->message.find(kOwnDoing) != std::string::npos) {
    return status;
  }
  std::free(status.message);
  return {first->kind, ::strdup(("the group closed itself, as another operation failed: " + first->message).c_str())};
}

void Closing::operation_begins() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++operations_;
}

void Closing::operation_ends() noexcept {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    --operations_;
  }
  changed_.notify_all();
}

bool Closing::await_failure() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return failure_.has_value() || stop_; });
  return failure_.has_value();
}

void Closing::note_closed() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

void Closing::await_closed() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return closed_; });
}

void Closing::await_operations_and_stop() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return operations_ == 0; });
    stop_ = true;
  }
  changed_.notify_all();
}

} // namespace tchd
