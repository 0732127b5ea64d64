//! Processes as `/proc` shows them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, test_kill_process};

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Since boot, in clock ticks. With the pid it names a process for good.
    pub(crate) start_time: u64,
    pub(crate) is_zombie: bool,
}

impl Stat {
    /// Reads that of a process; `None` if there is none, or if this process may
    /// not see it: see [`Seen`].
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
            group: number(2)?,
            session: number(3)?,
            // Field 22 of proc(5), the third of which is our first.
            start_time: fields.get(19)?.parse().ok()?,
            is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        })
    }
}

/// What can be known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is none of this number.
    Gone,
    /// There is one, of which `/proc` shows nothing: with the option hidepid it
    /// hides what cannot be looked into, and a supervisor cannot.
    Hidden,
    /// There is one.
    There(Stat),
}

impl Seen {
    /// Looks for a process. `/proc` alone cannot tell hidden from gone; a signal
    /// that is never sent can.
    pub(crate) fn of(pid: i32) -> Self {
        if let Some(stat) = Stat::of(pid) {
            return Seen::There(stat);
        }
        let Some(number) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
            return Seen::Gone;
        };
        match test_kill_process(number) {
            Err(Errno::SRCH) => Seen::Gone,
            // Also that of another user, who may have got the number since.
            Ok(()) | Err(_) => Seen::Hidden,
        }
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

/// This process's own children. The kernel lists them to their parent also where
/// `/proc` hides them; where it lists none, they are looked for.
pub(crate) fn children() -> Vec<i32> {
    listed_children().unwrap_or_else(|| {
        let me = getpid().as_raw_nonzero().get();
        let everything = all();
        let mine = everything.iter().filter(|p| p.parent == me);
        mine.map(|p| p.pid).collect()
    })
}

/// `None` for a kernel without `CONFIG_PROC_CHILDREN`.
fn listed_children() -> Option<Vec<i32>> {
    let mut pids = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let list = thread.ok()?.path().join("children");
        match fs::read_to_string(list) {
            Ok(text) => pids.extend(text.split_ascii_whitespace().filter_map(number)),
            // Without the file there is none for this thread itself either; a
            // thread that has ended has handed its children to another.
            Err(_) if pids.is_empty() => {
                fs::metadata("/proc/thread-self/children").ok()?;
            }
            Err(_) => {}
        }
    }
    Some(pids)
}

fn number(text: &str) -> Option<i32> {
    text.parse().ok()
}

/// Ends every process below this one, but for those of `spared` and what is
/// below them. What they start meanwhile is found in the next round, as orphans
/// of ours come back to us (this process must be a subreaper).
pub(crate) fn kill_descendants(spared: &[i32]) {
    kill_descendants_within(PATIENCE, spared);
}

fn kill_descendants_within(patience: Duration, spared: &[i32]) {
    let me = getpid().as_raw_nonzero().get();
    let deadline = Instant::now() + patience;
    loop {
        let everything = all();
        let mut safe: HashSet<i32> = spared.iter().copied().collect();
        for pid in spared {
            safe.extend(descendants(*pid, &everything).iter().map(|p| p.pid));
        }
        let visible = descendants(me, &everything);
        let mut below: Vec<i32> = visible
            .iter()
            .filter(|p| !p.is_zombie)
            .map(|p| p.pid)
            .collect();
        // What is below a hidden one comes to us when that one has ended.
        let hidden = children().into_iter();
        below.extend(hidden.filter(|pid| !everything.iter().any(|p| p.pid == *pid)));
        below.retain(|pid| !safe.contains(pid));
        if below.is_empty() {
            return;
        }
        // All stopped before the first dies, so that none makes new ones
        // meanwhile.
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in below.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, signal);
            }
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        // Not before: a machine that stood still is no reason to leave any.
        if Instant::now() > deadline {
            return;
        }
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
        assert_eq!(Seen::of(me), Seen::There(Stat::of(me).unwrap()));
        for none in [i32::MAX, 0, -1] {
            assert_eq!(Seen::of(none), Seen::Gone);
        }
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn what_is_below_is_killed_once_however_late_it_is() {
        const ALONE: &str = "OOD_JOB_TEST_ALONE";
        let name = "processes::tests::what_is_below_is_killed_once_however_late_it_is";
        if std::env::var_os(ALONE).is_none() {
            // In a process of its own, which has no children of other tests.
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let alone = alone.args(["--exact", name]).env(ALONE, "1");
            let outcome = alone.output().unwrap();
            assert!(outcome.status.success(), "{outcome:?}");
            return;
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        kill_descendants_within(Duration::ZERO, &[]);
        let deadline = Instant::now() + Duration::from_secs(30);
        // An error: it was waited for already.
        while let Ok(None) = child.try_wait() {
            let late = Instant::now() > deadline;
            if late {
                child.kill().unwrap();
            }
            assert!(!late, "it lives");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_child_is_listed_whichever_thread_has_started_it() {
        let spawn = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").spawn().unwrap()
        };
        // A child that is started by another thread stays that thread's.
        let (say, said) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            say.send(spawn()).unwrap();
            let _ = ended.recv();
        });
        let mut both = [spawn(), said.recv().unwrap()];
        let found = children();
        for child in &mut both {
            let pid = i32::try_from(child.id()).unwrap();
            assert!(found.contains(&pid), "{found:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        drop(end);
        other.join().unwrap();
    }
}
