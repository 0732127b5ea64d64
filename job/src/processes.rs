//! Processes as `/proc` shows them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process};

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// Since boot, in clock ticks. With the pid it names a process for good.
    pub(crate) start_time: u64,
    pub(crate) is_zombie: bool,
}

impl Stat {
    /// Reads that of a process; `None` if there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, brackets and spaces too.
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse().ok();
        Some(Stat {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            parent: number(1)?,
            session: number(3)?,
            // Field 22 of proc(5), the third of which is our first.
            start_time: fields.get(19)?.parse().ok()?,
            is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        })
    }
}

/// All processes that `/proc` shows.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Stat::of).collect()
}

/// The processes below this one, itself not included.
pub(crate) fn descendants(of: i32, among: &[Stat]) -> Vec<Stat> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for process in among {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([of]);
    let mut next = vec![of];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.pid) {
                found.push((*child).clone());
                next.push(child.pid);
            }
        }
    }
    found
}

/// This process's own children.
pub(crate) fn children() -> Vec<i32> {
    let me = getpid().as_raw_nonzero().get();
    all()
        .iter()
        .filter(|p| p.parent == me)
        .map(|p| p.pid)
        .collect()
}

/// Ends every process below this one, but for those of `spared` and what is
/// below them. What they start meanwhile is found in the next round, as orphans
/// of ours come back to us (this process must be a subreaper).
pub(crate) fn kill_descendants(spared: &[i32]) {
    let me = getpid().as_raw_nonzero().get();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let everything = all();
        let mut safe: HashSet<i32> = spared.iter().copied().collect();
        for pid in spared {
            safe.extend(descendants(*pid, &everything).iter().map(|p| p.pid));
        }
        let mut below = descendants(me, &everything);
        below.retain(|p| !safe.contains(&p.pid) && !p.is_zombie);
        if below.is_empty() || Instant::now() > deadline {
            return;
        }
        // All stopped before the first dies, so that none makes new ones
        // meanwhile.
        for signal in [Signal::STOP, Signal::KILL] {
            for process in &below {
                if let Some(pid) = Pid::from_raw(process.pid) {
                    let _ = kill_process(pid, signal);
                }
            }
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let text = "42 (a) S 1 2) R 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1000 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.name, "a) S 1 2");
        assert_eq!((stat.pid, stat.parent, stat.session), (42, 7, 9));
        assert_eq!(stat.start_time, 123_456);
        assert!(!stat.is_zombie);
    }

    #[test]
    fn this_process_is_there_and_nothing_is_not() {
        let me = getpid().as_raw_nonzero().get();
        assert_eq!(Stat::of(me).unwrap().pid, me);
        assert_eq!(Stat::of(i32::MAX), None);
        assert_eq!(Stat::parse(""), None);
    }
}
