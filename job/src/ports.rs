//! What the processes of a job listen on, from `/proc` alone.
//!
//! The job's processes are those of its control group, or, where the batch
//! system makes none, the tree that this process is in. Only the caller's own
//! processes can be looked into.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::processes::{self, Stat};
use crate::procnet::{self, Listening, Protocol};

/// A port and who listens on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// The process.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub command: String,
    /// Whether it is in another network than this process, such as the one that
    /// `ood-job run` makes for an app.
    pub private: bool,
}

impl Port {
    /// Whether others than this node can reach it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.private && !self.address.ip().to_canonical().is_loopback()
    }
}

/// Which processes to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// Those of this process's job.
    #[default]
    Job,
    /// This process and those below it.
    Tree(i32),
}

/// What they listen on, ordered, each once for each process.
///
/// # Errors
/// [`Error::BadArgument`] if there is no such process.
pub fn of_job(whose: Whose) -> Result<Vec<Port>> {
    let everything = processes::all();
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let wanted = match whose {
        Whose::Tree(pid) => tree(pid, &everything)?,
        Whose::Job => match job_group(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
        {
            Some(group) => everything
                .iter()
                .filter(|p| is_in_group(p.pid, &group))
                .cloned()
                .collect(),
            None => tree(topmost(me, &everything), &everything)?,
        },
    };
    Ok(of_processes(&wanted))
}

fn tree(pid: i32, everything: &[Stat]) -> Result<Vec<Stat>> {
    let top = everything.iter().find(|p| p.pid == pid);
    let top = top.ok_or_else(|| {
        Error::argument(
            "process",
            &pid.to_string(),
            "there is none with this number here",
            "leave --pid out to see the whole job",
        )
    })?;
    let mut all = processes::descendants(pid, everything);
    all.push(top.clone());
    Ok(all)
}

/// The highest process above this one that is in its session: the shell that a
/// user or a batch system has started.
fn topmost(pid: i32, everything: &[Stat]) -> i32 {
    let by_pid: HashMap<i32, &Stat> = everything.iter().map(|p| (p.pid, p)).collect();
    let session = by_pid.get(&pid).map(|p| p.session);
    let mut top = pid;
    while let Some(parent) = by_pid.get(&top).and_then(|p| by_pid.get(&p.parent)) {
        if Some(parent.session) != session || parent.pid == top {
            break;
        }
        top = parent.pid;
    }
    top
}

/// The control group of the job: the part of the path up to `job_7` (Slurm) or
/// what follows the batch system's own group (PBS, LSF).
fn job_group(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| {
        // hierarchy-ID:controllers:path
        let path = line.splitn(3, ':').nth(2)?;
        let parts: Vec<&str> = path.split('/').collect();
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let slurm = |part: &&str| part.strip_prefix("job_").is_some_and(number);
        let pbs = |part: &&str| *part == "pbs_jobs.service" || *part == "pbspro.service";
        let lsf = |part: &&str| *part == "lsf";
        let end = parts.iter().position(slurm).or_else(|| {
            // pbs_jobs.service/jobid/7.server, lsf/cluster/job.7.1
            let group = parts.iter().position(|p| pbs(p) || lsf(p))?;
            (parts.len() > group + 2).then_some(group + 2)
        })?;
        Some(parts[..=end].join("/"))
    })
}

fn is_in_group(pid: i32, group: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| {
        let rest = path.strip_prefix(group);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn of_processes(wanted: &[Stat]) -> Vec<Port> {
    let network_of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network_of("self");
    // One look at each network, however many processes are in it.
    let mut networks: BTreeMap<std::path::PathBuf, HashMap<u64, Listening>> = BTreeMap::new();
    let mut ports = Vec::new();
    for process in wanted {
        let Some(network) = network_of(&process.pid.to_string()) else {
            continue;
        };
        let private = own.as_ref() != Some(&network);
        let listening = match networks.entry(network) {
            Entry::Occupied(known) => known.into_mut(),
            // A process that ends this moment must not hide what others have there.
            Entry::Vacant(new) => match procnet::of_process(process.pid) {
                Some(all) => new.insert(all.into_iter().map(|l| (l.inode, l)).collect()),
                None => continue,
            },
        };
        let mut mine: Vec<&Listening> = sockets_of(process.pid)
            .iter()
            .filter_map(|inode| listening.get(inode))
            .collect();
        // One socket may be open under several numbers.
        mine.sort_by_key(|l| l.inode);
        mine.dedup_by_key(|l| l.inode);
        ports.extend(mine.into_iter().map(|l| Port {
            protocol: l.protocol,
            address: l.address,
            pid: process.pid,
            command: process.name.clone(),
            private,
        }));
    }
    ports.sort();
    ports
}

/// The inodes of a process's sockets.
fn sockets_of(pid: i32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter_map(|link| {
            let text = link.to_str()?;
            text.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_own_group_is_found_for_each_batch_system() {
        for (cgroups, group) in [
            (
                "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
                "/system.slice/slurmstepd.scope/job_7",
            ),
            (
                "4:memory:/slurm_n1/uid_1000/job_7/step_batch\n1:name=systemd:/x\n",
                "/slurm_n1/uid_1000/job_7",
            ),
            (
                "0::/pbs_jobs.service/jobid/7.srv\n", "/pbs_jobs.service/jobid/7.srv",
            ),
            ("3:cpuset:/lsf/c1/job.7.1\n", "/lsf/c1/job.7.1"),
        ] {
            assert_eq!(job_group(cgroups).unwrap(), group);
        }
        for none in ["", "0::/user.slice/user-1000.slice", "0::/job_x", "junk"] {
            assert_eq!(job_group(none), None, "{none}");
        }
    }

    #[test]
    fn what_this_process_listens_on_is_listed() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let ports = of_job(Whose::Tree(me)).unwrap();
        for (protocol, address) in [
            (Protocol::Tcp, tcp.local_addr().unwrap()),
            (Protocol::Udp, udp.local_addr().unwrap()),
        ] {
            let port = ports.iter().find(|p| p.address == address).unwrap();
            assert_eq!((port.protocol, port.pid), (protocol, me));
            assert!(!port.is_open() && !port.private);
        }
        assert_eq!(
            of_job(Whose::Tree(i32::MAX)).unwrap_err().code(),
            "bad-argument"
        );
    }
}
