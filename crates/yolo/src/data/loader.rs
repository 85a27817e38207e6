//! Threads that have the next steps' images ready before they are asked for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::sample::Sample;
use super::set::Problem;
use crate::loss::Object;
use tch::Tensor;

/// Images of one size, and the objects of each. They become a tensor a part at a time: what a step of many micro-batches needs of a device's memory is
/// what one of these needs.
#[derive(Debug, Default)]
pub struct Batch {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
    /// What is in each image.
    pub objects: Vec<Vec<Object>>,
    /// Pictures that could not be read on the way.
    pub problems: Vec<Problem>,
}

impl Batch {
    /// Images of `width` times `height` pixels.
    #[must_use]
    pub fn new(samples: impl IntoIterator<Item = Sample>, width: u32, height: u32) -> Self {
        let samples = samples.into_iter();
        let images = samples.size_hint().0;
        let rgb = Vec::with_capacity(images * 3 * (width * height) as usize);
        let mut batch = Self { rgb, width, height, objects: Vec::with_capacity(images), problems: Vec::new() };
        for sample in samples {
            batch.rgb.extend(sample.rgb);
            batch.objects.push(sample.objects);
            batch.problems.extend(sample.problems);
        }
        batch
    }

    /// Some of the images in the network's form: `[images, 3, height, width]`, u8 with the channels innermost in memory.
    pub fn images(&self, range: Range<usize>) -> Tensor {
        let bytes = 3 * (self.width * self.height) as usize;
        let shape = [range.len() as i64, self.height.into(), self.width.into(), 3];
        let rgb = &self.rgb[range.start * bytes..range.end * bytes];
        Tensor::from_slice(rgb).view(shape).permute([0, 3, 1, 2])
    }
}

/// What a batch consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Numbers of the images.
    pub numbers: Vec<u32>,
    /// The epoch that they are for, from 0.
    pub epoch: u32,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Makes batches in their order, some ahead. Dropping it ends its threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Something was taken, finished, or is over.
    changed: Condvar,
    ahead: usize,
}

struct State {
    wanted: Box<dyn Iterator<Item = Wanted> + Send>,
    /// Begun and not yet taken, the next one first.
    begun: VecDeque<Begun>,
    /// Batches taken so far: the number of the first in `begun`.
    taken: usize,
    over: bool,
    failed: bool,
}

struct Begun {
    wanted: Wanted,
    samples: Vec<Option<Sample>>,
    started: usize,
    finished: usize,
}

impl Loader {
    /// Starts `threads` threads, from 1, that call `sample` for every number of every wanted batch; at most `ahead` batches, from 1, are
    /// ready or being made.
    #[must_use]
    pub fn new(
        wanted: impl Iterator<Item = Wanted> + Send + 'static,
        threads: usize,
        ahead: usize,
        sample: impl Fn(&Wanted, u32) -> Sample + Send + Sync + 'static,
    ) -> Self {
        let state = State { wanted: Box::new(wanted), begun: VecDeque::new(), taken: 0, over: false, failed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), ahead: ahead.max(1) });
        let sample = Arc::new(sample);
        let threads = (0..threads.max(1))
            .map(|_| {
                let (shared, sample) = (shared.clone(), sample.clone());
                thread::spawn(move || {
                    let guard = Failed(&shared);
                    shared.work(&*sample);
                    std::mem::forget(guard);
                })
            })
            .collect();
        Self { shared, threads }
    }
}

impl Iterator for Loader {
    type Item = Batch;

    /// The next batch, waited for; `None` after the last.
    ///
    /// # Panics
    ///
    /// A thread has panicked.
    fn next(&mut self) -> Option<Batch> {
        let mut state = self.shared.lock();
        let begun = loop {
            assert!(!state.failed, "a data thread has ended early");
            match state.begun.front() {
                Some(begun) if begun.finished == begun.samples.len() => break state.begun.pop_front()?,
                None if state.over => return None,
                _ => state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.taken += 1;
        drop(state);
        self.shared.changed.notify_all();
        Some(begun.batch())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        state.wanted = Box::new(std::iter::empty());
        state.begun.clear();
        drop(state);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Loader").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// Tells who waits that a thread has gone.
struct Failed<'a>(&'a Shared);

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        self.0.lock().failed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, sample: &(impl Fn(&Wanted, u32) -> Sample + ?Sized)) {
        let mut state = self.lock();
        loop {
            let Some((batch, slot, wanted)) = state.claim(self.ahead) else {
                if state.over {
                    // Whoever waits for more must hear that there is none.
                    self.changed.notify_all();
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let made = sample(&wanted, wanted.numbers[slot]);
            state = self.lock();
            // The batch is gone if the loader was dropped meanwhile.
            if let Some(begun) = batch.checked_sub(state.taken).and_then(|at| state.begun.get_mut(at)) {
                begun.samples[slot] = Some(made);
                begun.finished += 1;
                if begun.finished == begun.samples.len() {
                    self.changed.notify_all();
                }
            }
        }
    }
}

impl State {
    /// The next sample to make: its batch's number, its place there, and what it is. `None` when there is nothing to do now.
    fn claim(&mut self, ahead: usize) -> Option<(usize, usize, Wanted)> {
        let at = match self.begun.iter().position(|begun| begun.started < begun.samples.len()) {
            Some(at) => at,
            None if self.over || self.begun.len() >= ahead => return None,
            None => {
                let Some(wanted) = self.wanted.next() else {
                    self.over = true;
                    return None;
                };
                let samples = wanted.numbers.iter().map(|_| None).collect();
                self.begun.push_back(Begun { wanted, samples, started: 0, finished: 0 });
                self.begun.len() - 1
            }
        };
        let begun = &mut self.begun[at];
        begun.started += 1;
        Some((self.taken + at, begun.started - 1, begun.wanted.clone()))
    }
}

impl Begun {
    fn batch(self) -> Batch {
        let samples: Vec<Sample> = self.samples.into_iter().flatten().collect();
        Batch::new(samples, self.wanted.width, self.wanted.height)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn wanted(numbers: Vec<u32>) -> Wanted {
        Wanted { numbers, epoch: 0, width: 1, height: 1 }
    }

    fn grey(_: &Wanted, number: u32) -> Sample {
        Sample { rgb: vec![number as u8; 3], ..Sample::default() }
    }

    #[test]
    fn batches_come_in_their_order_however_many_threads_make_them() {
        for threads in [1, 2, 7] {
            let all = (0..50).map(|batch| wanted((0..4).map(|slot| batch * 4 + slot).collect()));
            let slow = |wanted: &Wanted, number: u32| {
                // The first of a batch is made last.
                (0..if number % 4 == 0 { 20_000 } else { 10 }).for_each(|turn| {
                    std::hint::black_box(turn);
                });
                grey(wanted, number)
            };
            let mut seen = Vec::new();
            for batch in Loader::new(all, threads, 3, slow) {
                let images = batch.images(0..4);
                assert_eq!(images.size(), [4, 3, 1, 1]);
                seen.extend(Vec::<u8>::try_from(images.select(1, 0).flatten(0, -1)).expect("bytes"));
                assert_eq!(
                    Vec::<u8>::try_from(batch.images(2..3).flatten(0, -1)).expect("bytes"),
                    [seen[seen.len() - 2]; 3]
                );
            }
            assert_eq!(seen, (0..200).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn no_more_is_made_than_was_asked_for() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let endless = std::iter::repeat_with(|| wanted(vec![0; 5]));
        let mut loader = Loader::new(endless, 2, 3, |wanted, number| {
            MADE.fetch_add(1, Ordering::Relaxed);
            grey(wanted, number)
        });
        assert!(loader.next().is_some());
        drop(loader);
        // One was taken, and three more may have been begun.
        assert!(MADE.load(Ordering::Relaxed) <= 20);
    }

    #[test]
    fn a_thread_that_panics_is_not_waited_for() {
        let loader = Loader::new(std::iter::once(wanted(vec![1])), 1, 1, |_, _| panic!("on purpose"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loader.count()));
        assert!(outcome.is_err());
    }
}
