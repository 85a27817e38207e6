#include "guard.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <typeinfo>

#include <dlfcn.h>

#include <c10/util/Exception.h>
#include <c10/util/Flags.h>
#include <torch/csrc/distributed/c10d/exception.h>
#include <torch/headeronly/version.h>

C10_DECLARE_int(caffe2_log_level);

namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Where the class of an exception does not say it, only its words tell a deadline from a broken connection.
bool tells_timeout(std::string_view message) {
  return contains(message, "imed out") || contains(message, "imeout");
}

bool tells_lost_peer(std::string_view message) {
  return contains(message, "Connection closed by peer") || contains(message, "Connection reset by peer") ||
      contains(message, "Broken pipe") || contains(message, "Connection was likely closed");
}

bool tells_out_of_memory(std::string_view message) {
  return contains(message, "can't allocate memory") || contains(message, "out of memory");
}

tchd_status status(tchd_kind kind, const char* message) {
  return {kind, ::strdup(message)};
}

// gloo's exceptions have no header here, but the name of a class is part of the ABI.
tchd_kind kind_of_std(const std::exception& error) {
  const std::string_view type = typeid(error).name();
  const std::string_view message = error.what();
  if (contains(type, "4gloo16TimeoutException") || tells_timeout(message)) {
    return TCHD_TIMEOUT;
  }
  if (tells_lost_peer(message)) {
    return TCHD_PEER_LOST;
  }
  if (contains(type, "4gloo11IoException")) {
    return TCHD_NETWORK;
  }
  if (contains(type, "4gloo25InvalidOperationException")) {
    return TCHD_INVALID_ARGUMENT;
  }
  return tells_out_of_memory(message) ? TCHD_OUT_OF_MEMORY : TCHD_OTHER;
}

} // namespace

namespace tchd {

// The order goes from the special class to the general one: TimeoutError is a DistNetworkError is a c10::Error.
tchd_status current_exception() noexcept {
  try {
    throw;
  } catch (const InvalidArgument& error) {
    return status(TCHD_INVALID_ARGUMENT, error.message.c_str());
  } catch (const GroupClosed& error) {
    return status(error.kind, error.what());
  } catch (const c10::OutOfMemoryError& error) {
    return status(TCHD_OUT_OF_MEMORY, error.what_without_backtrace());
  } catch (const c10d::TimeoutError& error) {
    return status(TCHD_TIMEOUT, error.what_without_backtrace());
  } catch (const c10::DistNetworkError& error) {
    const char* message = error.what_without_backtrace();
    return status(tells_timeout(message) ? TCHD_TIMEOUT : TCHD_NETWORK, message);
  } catch (const c10::DistStoreError& error) {
    const char* message = error.what_without_backtrace();
    return status(tells_timeout(message) ? TCHD_TIMEOUT : TCHD_STORE, message);
  } catch (const c10::DistBackendError& error) {
    const char* message = error.what_without_backtrace();
    return status(tells_timeout(message) ? TCHD_TIMEOUT : TCHD_PEER_LOST, message);
  } catch (const c10::NotImplementedError& error) {
    return status(TCHD_UNSUPPORTED, error.what_without_backtrace());
  } catch (const c10::ValueError& error) {
    return status(TCHD_INVALID_ARGUMENT, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    return status(TCHD_INVALID_ARGUMENT, error.what_without_backtrace());
  } catch (const c10::IndexError& error) {
    return status(TCHD_INVALID_ARGUMENT, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    const char* message = error.what_without_backtrace();
    if (tells_timeout(message)) {
      return status(TCHD_TIMEOUT, message);
    }
    if (tells_lost_peer(message)) {
      return status(TCHD_PEER_LOST, message);
    }
    return status(tells_out_of_memory(message) ? TCHD_OUT_OF_MEMORY : TCHD_OTHER, message);
  } catch (const std::bad_alloc& error) {
    return status(TCHD_OUT_OF_MEMORY, error.what());
  } catch (const std::invalid_argument& error) {
    return status(TCHD_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return status(kind_of_std(error), error.what());
  } catch (...) {
    return status(TCHD_OTHER, "an exception that is no std::exception");
  }
}

} // namespace tchd

extern "C" void tchd_free(void* memory) noexcept {
  std::free(memory);
}

extern "C" const char* tchd_torch_version() noexcept {
  return TORCH_VERSION;
}

extern "C" void tchd_set_log_level(int32_t level) noexcept {
  FLAGS_caffe2_log_level = level;
}

// Global, because libtorch finds the backends of a device in registries that the library fills while it loads, and
// other libraries resolve their symbols against it.
extern "C" tchd_status tchd_load_library(const char* name) noexcept {
  if (::dlopen(name, RTLD_NOW | RTLD_GLOBAL) != nullptr) {
    return {TCHD_OK, nullptr};
  }
  const char* reason = ::dlerror();
  return status(TCHD_UNSUPPORTED, reason == nullptr ? "dlopen gave no reason" : reason);
}
