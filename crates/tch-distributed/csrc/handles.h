// What stands behind the opaque pointers: one strong reference each, so that objects may be dropped in any order.
#pragma once

#include <memory>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace tchd {
class Closing;
} // namespace tchd

struct tchd_store {
  c10::intrusive_ptr<c10d::Store> inner;
};

// A group of any backend: what makes one is a function of its own, what uses one is common.
struct tchd_group {
  c10::intrusive_ptr<c10d::Backend> inner;
  // What closes the group on a failure; null for a backend that sees to that itself.
  std::shared_ptr<tchd::Closing> closing;
};

struct tchd_work {
  c10::intrusive_ptr<c10d::Work> inner;
  std::shared_ptr<tchd::Closing> closing;
  // A send or a receive of gloo's, whose failure only the one who waits sees.
  bool unwatched;
};
