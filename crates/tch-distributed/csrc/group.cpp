// Groups and works of any backend.
#include <chrono>
#include <cstdlib>

#include "closing.h"
#include "guard.h"
#include "handles.h"

using std::chrono::milliseconds;
using tchd::guard;

extern "C" tchd_status tchd_group_monitored_barrier(const tchd_group* group, int64_t timeout_ms, bool wait_all_ranks) noexcept {
  return guard([&] {
    c10d::BarrierOptions options;
    options.timeout = milliseconds(timeout_ms);
    group->inner->monitoredBarrier(options, wait_all_ranks);
  });
}

extern "C" tchd_status tchd_group_failure(const tchd_group* group) noexcept {
  return guard([&] {
    if (group->closing) {
      group->closing->refuse_after_failure();
    }
  });
}

extern "C" tchd_status tchd_group_abort(const tchd_group* group) noexcept {
  return guard([&] { group->inner->abort(); });
}

extern "C" tchd_status tchd_group_shutdown(const tchd_group* group) noexcept {
  return guard([&] { group->inner->shutdown(); });
}

extern "C" tchd_status tchd_group_drop(tchd_group* group) noexcept {
  return guard([&] { delete group; });
}

extern "C" tchd_status tchd_work_wait(const tchd_work* work, int64_t timeout_ms) noexcept {
  const tchd_status status = guard([&] { work->inner->wait(milliseconds(timeout_ms)); });
  if (status.kind == TCHD_OK || !work->closing) {
    return status;
  }
  if (work->unwatched) {
    work->closing->fail({static_cast<tchd_kind>(status.kind), status.message == nullptr ? "" : status.message});
  }
  return work->closing->cause(status);
}

extern "C" tchd_status tchd_work_is_completed(const tchd_work* work, bool* out) noexcept {
  return guard([&] { *out = work->inner->isCompleted(); });
}

extern "C" tchd_status tchd_work_exception(const tchd_work* work) noexcept {
  const tchd_status status = guard([&] {
    if (work->inner->isCompleted()) {
      if (auto exception = work->inner->exception()) {
        std::rethrow_exception(exception);
      }
    }
  });
  return work->closing ? work->closing->cause(status) : status;
}

extern "C" tchd_status tchd_work_drop(tchd_work* work) noexcept {
  return guard([&] { delete work; });
}
