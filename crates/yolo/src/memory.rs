//! Running out of memory as a value. A tensor operation that finds no memory panics, wherever in a model it is; here that is caught, and
//! told from every other panic.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// A device had not enough memory; one line of what libtorch said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfMemory(pub String);

impl OutOfMemory {
    /// By libtorch's message, which goes on with a backtrace.
    #[must_use]
    pub fn new(message: &str) -> Self {
        Self(first_line(message))
    }
}

thread_local! {
    /// Whether this thread is inside [`attempt`], where a panic need not be the program's end.
    static ATTEMPTING: Cell<bool> = const { Cell::new(false) };
    /// Where it last panicked there.
    static WHERE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`, which may run out of memory at any tensor operation. Tensors that it made are freed on the way out; what it changed in place
/// before is changed. Code inside must hold tch's guards, not its closures, for what has to be set back: closures forget it when they unwind.
///
/// # Errors
///
/// Memory ran out.
///
/// # Panics
///
/// As `work` does, for any other reason.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, OutOfMemory> {
    quiet_while_attempting();
    let before = ATTEMPTING.replace(true);
    // Whoever uses this drops what may be half-done, as said above.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    ATTEMPTING.set(before);
    outcome.or_else(|payload| match message(&*payload) {
        Some(text) if is_out_of_memory(text) => Err(OutOfMemory::new(text)),
        other => {
            // The hook was silent about it. The outermost attempt tells it, once.
            if !before {
                eprintln!("panicked at {}: {}", WHERE.take(), other.unwrap_or("no message"));
            }
            panic::resume_unwind(payload)
        }
    })
}

/// Whether libtorch means by these words that memory ran out: on a GPU, in our allocator, in its own for a CPU, in oneDNN.
#[must_use]
pub fn is_out_of_memory(text: &str) -> bool {
    ["out of memory", "can't allocate memory", "could not create a primitive", "CUBLAS_STATUS_ALLOC_FAILED"]
        .iter()
        .any(|phrase| text.contains(phrase))
}

fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied())
}

/// libtorch's message goes on with a C++ backtrace, and tch's begins with words about a `Result`. On a GPU, advice on its allocator follows
/// what counts: who holds how much.
fn first_line(text: &str) -> String {
    let line = text.split("\\n").next().unwrap_or(text).lines().next().unwrap_or_default();
    let line = line.split(" If reserved but unallocated").next().unwrap_or(line);
    line.rsplit_once("Torch(\"").map_or(line, |(_, said)| said).trim_end_matches(['"', ')']).to_owned()
}

fn quiet_while_attempting() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if ATTEMPTING.get() {
                WHERE.set(info.location().map_or(String::new(), ToString::to_string));
            } else {
                usual(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_is_a_value_and_nothing_else_is() {
        let torch = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2 GiB\\nException raised\")";
        let ran_out = attempt(|| panic!("{torch}")).expect_err("it ran out");
        assert_eq!(ran_out.to_string(), "CUDA out of memory. Tried to allocate 2 GiB");
        assert_eq!(attempt(|| 3), Ok(3));
        assert!(panic::catch_unwind(|| attempt(|| panic!("a mistake"))).is_err());
    }

    #[test]
    fn a_real_failure_of_libtorch_is_known() {
        let huge = || tch::Tensor::zeros([1 << 50], (tch::Kind::Float, tch::Device::Cpu));
        assert!(attempt(huge).is_err());
    }
}
