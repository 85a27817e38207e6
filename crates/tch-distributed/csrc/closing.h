// How a gloo group closes itself on any failure: what the group (gloo.cpp) and its works share.
//
// gloo tells only a dead rank's neighbours: a rank that waits for a living one waits on until its timeout. So the first
// failure of a group, whichever operation meets it, ends all connections of this rank. Its peers meet that as a failure of
// theirs and do the same: all ranks know within milliseconds.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "guard.h"

namespace tchd {

// What ended a group.
struct Failure {
  tchd_kind kind;
  std::string message;
};

// What a group, its operations under way and its closing thread share. Outlives the group where a work does.
class Closing {
 public:
  // Notes the first failure and wakes the thread that closes the connections. Later failures change nothing.
  void fail(Failure failure) noexcept;
  void fail_with_current_exception() noexcept;
  std::optional<Failure> failure();
  // Throws GroupClosed after a failure.
  void refuse_after_failure();
  // The failure behind `status`, where that only says that this rank closed its connections. Takes and gives ownership.
  tchd_status cause(tchd_status status) noexcept;

  void operation_begins();
  void operation_ends() noexcept;

  // For the group: its thread's body, and the end of it after the last operation has ended.
  bool await_failure();
  void note_closed();
  void await_closed();
  void await_operations_and_stop();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Failure> failure_;
  size_t operations_ = 0;
  bool closed_ = false;
  bool stop_ = false;
};

} // namespace tchd
