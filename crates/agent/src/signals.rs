//! Signals as a descriptor: all that concern the agent are blocked and read where the other descriptors are polled, so no
//! handler interrupts anything, and as PID 1 the agent hears them too.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that ask the agent for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A child has ended.
    Child,
    /// Pass this on to the trainer: SIGTERM or SIGINT.
    Pass(i32),
    /// End at once (SIGUSR1).
    Kill,
}

/// All that the agent takes for itself. SIGUSR2 and SIGHUP are taken and thrown away.
const TAKEN: [i32; 6] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP];

/// The blocked signals of this process.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals and opens the descriptor. Programs inherit the mask unless they call [`give_back`].
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn block() -> io::Result<Self> {
        let mut set = empty_set();
        for signal in TAKEN {
            // SAFETY: the set is initialised and the signal numbers are valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that has arrived; `None` when there is none at the moment.
    pub fn next(&self) -> Option<Request> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        loop {
            let mut info = [0u8; SIZE];
            if rustix::io::read(&self.0, &mut info).ok()? < SIZE {
                return None;
            }
            // `ssi_signo` is the first field.
            let signal = i32::from_ne_bytes(info[..4].try_into().expect("four bytes"));
            match signal {
                libc::SIGCHLD => return Some(Request::Child),
                libc::SIGTERM | libc::SIGINT => return Some(Request::Pass(signal)),
                libc::SIGUSR1 => return Some(Request::Kill),
                _ => {}
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives a program the signals as a shell would: none blocked, none ignored. To be called between fork and exec.
///
/// # Errors
/// When the kernel refuses the mask.
pub fn give_back() -> io::Result<()> {
    for signal in TAKEN.into_iter().chain([libc::SIGQUIT, libc::SIGPIPE]) {
        // SAFETY: the default disposition runs no code of ours, and the call is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = empty_set();
    // SAFETY: the set is initialised, the old mask is not asked for, and the call is async-signal-safe.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}
