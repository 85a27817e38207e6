// What stands behind the opaque pointers: one strong reference each, so that objects may be dropped in any order.
#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

struct tchd_store {
  c10::intrusive_ptr<c10d::Store> inner;
};

// A group of any backend: what makes one is a function of its own, what uses one is common.
struct tchd_group {
  c10::intrusive_ptr<c10d::Backend> inner;
};

struct tchd_work {
  c10::intrusive_ptr<c10d::Work> inner;
};
