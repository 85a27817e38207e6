//! What the last lines of a log give away, in the words of torch, CUDA, NCCL, gloo, Python and the system.
//!
//! A log's end holds more than its last failure: warnings that tell of memory and went on, failures that were handled, what peers said. So the
//! last exception is looked for first, with those that it follows from, and only where there is none does every line count.

use evenkeel_wire::FailureClass;

/// What a rank computes on, as far as its words mean something else there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A GPU has memory of its own: what fails in the host's is another matter.
    Gpu,
    /// A CPU device whose processes may allocate only so much.
    Capped,
    /// A CPU device with the host's memory.
    Host,
}

/// The class that the end of a log gives away.
#[must_use]
pub fn class_of(log: &str, memory: Memory) -> FailureClass {
    let lines: Vec<&str> = log.lines().map(without_rank).filter(|line| !goes_on(line)).collect();
    let mut end = lines.len();
    let mut class = FailureClass::Code;
    // Several ranks may write to one log: one that lost its peer speaks after the one that failed.
    while end > 0 {
        let start = episode(&lines[..end]);
        match class_of_words(&lines[start..end].join("\n"), memory) {
            FailureClass::Collective => class = FailureClass::Collective,
            other if class == FailureClass::Collective && other == FailureClass::Code => {}
            other => return other,
        }
        end = start;
    }
    class
}

/// Whether a program said what it ended of, as Python does.
#[must_use]
pub fn tells_of_exception(log: &str) -> bool {
    log.lines().map(without_rank).any(is_exception)
}

/// Memory of a card that other processes hold, in GiB, as torch tells of it where it ran out: a smaller batch is no answer to that.
#[must_use]
pub fn held_by_others(log: &str) -> Option<f64> {
    const LEAST: f64 = 1.0;
    let line = log.lines().rev().find(|line| line.contains("out of memory"))?;
    let mut held = 0.0;
    for part in line.split("Process ").skip(1) {
        let Some((_, rest)) = part.split_once(" has ") else { continue };
        let Some((amount, _)) = rest.split_once(" memory in use") else { continue };
        let mut words = amount.split_whitespace();
        let (Some(number), Some(unit)) = (words.next().and_then(|number| number.parse::<f64>().ok()), words.next())
        else {
            continue;
        };
        held += match unit {
            "GiB" => number,
            "MiB" => number / 1024.0,
            _ => 0.0,
        };
    }
    (held >= LEAST).then_some(held)
}

/// Whether a port that was to be listened at is in use.
#[must_use]
pub fn has_taken_port(log: &str) -> bool {
    ["Address already in use", "EADDRINUSE"].iter().any(|words| log.contains(words))
}

/// What those say who lose a peer.
const LOST_PEER: [&str; 12] = [
    "DistBackendError",
    "DistNetworkError",
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket closed",
    "recvValue failed",
    "failed to recv",
    "ncclRemoteError",
    "ncclSystemError",
    "remote process exited",
    "Watchdog caught collective operation timeout",
    "for recv operation to complete",
];

fn class_of_words(words: &str, memory: Memory) -> FailureClass {
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
    let shared = ["us error", "insufficient shared memory", "out of shared memory", "</torch_", "/dev/shm"];
    if has(&shared) && !has(&["Too many open files"]) {
        FailureClass::SharedMemory
    } else if has(&[
        "GPU is lost",
        "fallen off the bus",
        "ncorrectable ECC error",
        "no CUDA-capable device",
        "devices unavailable",
    ]) {
        FailureClass::DeviceLost
    } else if has(&["killed by signal: Killed"]) {
        FailureClass::OutOfMemoryHost
    } else if has(&OUT_OF_DEVICE_MEMORY) || (memory != Memory::Gpu && has(&OUT_OF_CPU_MEMORY)) {
        FailureClass::OutOfMemoryDevice
    } else if memory == Memory::Capped && has(&["can't start new thread"]) {
        // A thread's stack is data, too; without a cap it is the number of processes that is limited.
        FailureClass::OutOfMemoryDevice
    } else if memory == Memory::Capped && has(&["operation on closed file"]) && has(&["torch/serialization.py"]) {
        // Python's buffers in memory count as closed once they could not grow; who saves to one again is told that alone.
        FailureClass::OutOfMemoryDevice
    } else if has(&OUT_OF_CPU_MEMORY) || has(&OUT_OF_ANY_MEMORY) {
        // A cap is met by whatever a process allocates.
        if memory == Memory::Capped { FailureClass::OutOfMemoryDevice } else { FailureClass::OutOfMemoryHost }
    } else if has_taken_port(words) {
        FailureClass::Infrastructure
    } else if has(&LOST_PEER) {
        FailureClass::Collective
    } else if has(&["No space left on device", "Read-only file system", "Disk quota exceeded", "Input/output error"]) {
        FailureClass::Infrastructure
    } else {
        FailureClass::Code
    }
}

const OUT_OF_DEVICE_MEMORY: [&str; 12] = [
    "CUDA out of memory",
    "HIP out of memory",
    "CPU device out of memory",
    "OutOfMemoryError",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Cuda failure 2 'out of memory'",
    "Cuda failure 'out of memory'",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED",
    "ResourceExhaustedError",
];

/// What libtorch says of tensors in the host's memory, and oneDNN of its own.
const OUT_OF_CPU_MEMORY: [&str; 2] = ["DefaultCPUAllocator: can't allocate memory", "could not create a primitive"];

/// What anything says that gets no memory from the system.
const OUT_OF_ANY_MEMORY: [&str; 5] =
    ["MemoryError", "std::bad_alloc", "Cannot allocate memory", "memory allocation of", "std::length_error"];

/// Where the last failure begins: behind the exception before it, unless it follows from that one. All lines where there is no exception.
fn episode(lines: &[&str]) -> usize {
    let mut at = lines.iter().enumerate().rev().filter(|(_, line)| is_exception(line)).map(|(at, _)| at);
    let Some(mut later) = at.next() else { return 0 };
    for earlier in at {
        let follows = lines[earlier..later].iter().any(|line| {
            ["During handling of the above exception", "direct cause of the following exception"]
                .iter()
                .any(|words| line.contains(words))
        });
        if !follows {
            return earlier + 1;
        }
        later = earlier;
    }
    0
}

/// Whether a line is Python's last on an exception, but not one of a launcher that only tells of its children.
fn is_exception(line: &str) -> bool {
    let name = line.split([':', ' ']).next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    let identifier = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let ends = ["Error", "Exception", "Interrupt", "Exit"].iter().any(|ending| last.ends_with(ending));
    let launcher =
        ["ChildFailedError", "ProcessRaisedException", "ProcessExitedException", "SystemExit"].contains(&last);
    ends && !launcher && name.split('.').all(identifier)
}

/// Whether a line tells of something that the program went on from.
fn goes_on(line: &str) -> bool {
    let lower = line.to_lowercase();
    ["warning", "retrying", "ignoring"].iter().any(|word| lower.contains(word))
}

/// A line without the rank that torchrun or we put before it, nor the spaces.
fn without_rank(line: &str) -> &str {
    let line = line.trim();
    let Some(rest) = line.strip_prefix('[') else { return line };
    match rest.split_once(']') {
        Some((rank, rest))
            if !rank.is_empty() && rank.trim_start_matches("rank").chars().all(|c| c.is_ascii_digit()) =>
        {
            rest.trim_start_matches(':').trim_start()
        }
        _ => line,
    }
}
