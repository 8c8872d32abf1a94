//! What of a plan runs when.
//!
//! As many jobs run side by side as there are processors. A job waits for the host that it boots, and for another job that
//! builds into its folder: cargo would wait there too, and a processor would have nothing to do. Of the jobs that can start,
//! the first in the list does.

use std::{
    num::NonZeroUsize,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{host_build::HostKind, process};

/// Something to do, and what must be so before.
pub struct Job<T> {
    pub work: T,
    /// The folder that it builds into, alone.
    pub folder: Option<BuildFolder>,
    /// Hosts that must have been built.
    pub after: Vec<HostKind>,
    /// The host that it builds.
    pub builds: Option<HostKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildFolder {
    /// Of the repository's own workspace.
    Workspace,
    /// Of the host and what is built like it.
    Host,
}

/// Runs all jobs. After an interrupt no other job starts.
pub fn run<T: Send>(jobs: Vec<Job<T>>, work: impl Fn(T) + Sync) {
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let queue = Queue { state: Mutex::new(State::new(jobs)), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((job, claim)) = queue.next() {
                    // Released also where the work panics: else all others would wait.
                    let _claim = Running { queue: &queue, claim };
                    work(job);
                }
            });
        }
    });
}

struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: Vec<Job<T>>,
    busy: Vec<BuildFolder>,
    unbuilt: Vec<HostKind>,
}

/// A job that runs, until this is dropped.
struct Running<'a, T> {
    queue: &'a Queue<T>,
    claim: Claim,
}

impl<T> Drop for Running<'_, T> {
    fn drop(&mut self) {
        self.queue.ended(self.claim);
    }
}

/// What a running job keeps from others.
#[derive(Clone, Copy)]
struct Claim {
    folder: Option<BuildFolder>,
    builds: Option<HostKind>,
}

impl<T> Queue<T> {
    fn next(&self) -> Option<(T, Claim)> {
        let mut state = self.state();
        loop {
            if process::interrupted() || state.waiting.is_empty() {
                return None;
            }
            if let Some(next) = state.take() {
                return Some(next);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ended(&self, claim: Claim) {
        self.state().release(claim);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn new(jobs: Vec<Job<T>>) -> Self {
        let unbuilt = jobs.iter().filter_map(|job| job.builds).collect();
        Self { waiting: jobs, busy: Vec::new(), unbuilt }
    }

    fn take(&mut self) -> Option<(T, Claim)> {
        let ready = self.waiting.iter().position(|job| {
            job.folder.is_none_or(|folder| !self.busy.contains(&folder))
                && job.after.iter().all(|host| !self.unbuilt.contains(host))
        })?;
        let Job { work, folder, builds, .. } = self.waiting.remove(ready);
        self.busy.extend(folder);
        Some((work, Claim { folder, builds }))
    }

    fn release(&mut self, claim: Claim) {
        self.busy.retain(|folder| Some(*folder) != claim.folder);
        self.unbuilt.retain(|host| Some(*host) != claim.builds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &'static str) -> Job<&'static str> {
        Job { work: name, folder: None, after: Vec::new(), builds: None }
    }

    fn build(name: &'static str, kind: HostKind) -> Job<&'static str> {
        Job { folder: Some(BuildFolder::Host), builds: Some(kind), ..job(name) }
    }

    #[test]
    fn a_boot_waits_for_its_host() {
        let boot = Job { after: vec![HostKind::Sse], ..job("boot") };
        let mut state = State::new(vec![boot, build("host", HostKind::Sse)]);
        let (first, claim) = state.take().expect("the build");
        assert_eq!(first, "host");
        assert!(state.take().is_none());
        state.release(claim);
        assert_eq!(state.take().expect("the boot").0, "boot");
    }

    #[test]
    fn two_builds_into_one_folder_follow_each_other() {
        let jobs = vec![build("one", HostKind::Sse), build("other", HostKind::NoSse), job("check")];
        let mut state = State::new(jobs);
        let (_, one) = state.take().expect("a build");
        assert_eq!(state.take().expect("what needs no folder").0, "check");
        assert!(state.take().is_none());
        state.release(one);
        assert_eq!(state.take().expect("the other build").0, "other");
    }

    #[test]
    fn a_job_whose_host_nobody_builds_does_not_wait() {
        let mut state = State::new(vec![Job { after: vec![HostKind::NoSse], ..job("bench") }]);
        assert!(state.take().is_some());
    }
}
