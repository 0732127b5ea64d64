//! What the batch system says about the job, by its environment alone: no
//! command is run and no daemon asked.

use std::fmt;

use ca_core::{SiteConfig, Ttl};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// How long a renewed leaf lives once the job has outlived the end that its
/// environment names: somebody has extended it, and how far is not known.
const OVERTIME: Duration = Duration::hours(1);

/// The shortest leaf: it must outlive a clock that is a little off, a file server
/// that takes its time and an end of the job that is put off at the last moment.
const SHORTEST: Duration = Duration::minutes(5);

/// Which batch system runs the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// PBS Pro, OpenPBS or Torque.
    Pbs,
    /// IBM Spectrum LSF.
    Lsf,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheduler::Slurm => "slurm",
            Scheduler::Pbs => "pbs",
            Scheduler::Lsf => "lsf",
        })
    }
}

/// The job that this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which batch system.
    pub scheduler: Scheduler,
    /// Its number or name there.
    pub id: String,
    /// When it will be ended, where the environment says so.
    pub ends: Option<OffsetDateTime>,
}

impl Job {
    /// Reads the environment.
    ///
    /// - Slurm: `SLURM_JOB_ID`, `SLURM_JOB_END_TIME` (seconds since 1970).
    /// - PBS: `PBS_JOBID`; Torque adds `PBS_WALLTIME` (seconds, from the job's
    ///   start). The start is not told, so `now` stands for it: the leaf may
    ///   outlive the job, and never ends before it.
    /// - LSF: `LSB_JOBID` and, in arrays, `LSB_JOBINDEX`. It tells no end.
    #[must_use]
    pub fn from_env(var: impl Fn(&str) -> Option<String>, now: OffsetDateTime) -> Option<Self> {
        let id = |name: &str| var(name).filter(|id| is_job_id(id));
        let number = |name: &str| var(name).and_then(|text| text.trim().parse::<i64>().ok());
        if let Some(id) = id("SLURM_JOB_ID").or_else(|| id("SLURM_JOBID")) {
            let ends = number("SLURM_JOB_END_TIME")
                .and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
            return Some(Job {
                scheduler: Scheduler::Slurm,
                id,
                ends,
            });
        }
        if let Some(id) = id("PBS_JOBID") {
            let ends = number("PBS_WALLTIME")
                .filter(|seconds| *seconds > 0)
                .and_then(|seconds| now.checked_add(Duration::seconds(seconds)));
            return Some(Job {
                scheduler: Scheduler::Pbs,
                id,
                ends,
            });
        }
        let id = id("LSB_JOBID")?;
        let index = var("LSB_JOBINDEX").filter(|i| i != "0" && is_job_id(i));
        Some(Job {
            scheduler: Scheduler::Lsf,
            id: index.map_or(id.clone(), |index| format!("{id}[{index}]")),
            ends: None,
        })
    }

    /// The job of this process's own environment.
    #[must_use]
    pub fn current(now: OffsetDateTime) -> Option<Self> {
        Self::from_env(|name| std::env::var(name).ok(), now)
    }
}

/// Letters, digits and what batch systems put between them: it is shown, and
/// handed to their commands.
fn is_job_id(text: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b".-_[]".contains(&b);
    (1..=100).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with('-')
}

/// How long a leaf minted now should live: what is left of the job, if that is not
/// very short, and never more than the site's own lifetime.
#[must_use]
pub fn leaf_lifetime(job: Option<&Job>, site: &SiteConfig, now: OffsetDateTime) -> Ttl {
    let Some(ends) = job.and_then(|job| job.ends) else {
        return site.leaf_lifetime;
    };
    let left = if ends > now { ends - now } else { OVERTIME };
    let left = left.max(SHORTEST);
    let left = u64::try_from(left.whole_seconds()).unwrap_or(0);
    Ttl::from_secs(left).min(site.leaf_lifetime)
}

/// For the batch system's answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Asks the batch system whether a job has ended. `false` also if it does not
/// answer, or not clearly: a session is not pruned on a guess. Only Slurm is
/// asked; `squeue` lists a job for a while after its end and then knows it no
/// longer. That it lists nothing is no answer.
#[must_use]
pub fn has_ended(job: &crate::sessions::JobId) -> bool {
    if job.scheduler != Scheduler::Slurm || !is_job_id(&job.id) {
        return false;
    }
    let Some((ok, said)) = squeue(&job.id) else {
        return false;
    };
    let ended = [
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "TIMEOUT",
    ];
    if ok {
        let mut states = said.lines().map(str::trim).peekable();
        states.peek().is_some() && states.all(|state| ended.contains(&state))
    } else {
        said.contains("Invalid job id")
    }
}

/// Whether it succeeded, and what it said.
fn squeue(id: &str) -> Option<(bool, String)> {
    use std::process::{Command, Stdio};
    let mut command = Command::new("squeue");
    // The user's own choice of what it lists is not meant for us.
    let own = std::env::vars_os().map(|(name, _)| name);
    for name in own.filter(|name| name.as_encoded_bytes().starts_with(b"SQUEUE_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(["--noheader", "--states=all", "--format=%T", "--jobs", id])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let deadline = std::time::Instant::now() + PATIENCE;
    // Its few lines fit into a pipe.
    while child.try_wait().ok()?.is_none() {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }

    fn job(vars: &[(&str, &str)]) -> Option<Job> {
        let get = |name: &str| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        };
        Job::from_env(get, now())
    }

    fn ttl(vars: &[(&str, &str)]) -> String {
        leaf_lifetime(job(vars).as_ref(), &SiteConfig::default(), now()).to_string()
    }

    #[test]
    fn a_leaf_lives_as_long_as_the_job() {
        let end = (NOW + 5400).to_string();
        assert_eq!(
            ttl(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", &end)]),
            "1h30m"
        );
        assert_eq!(
            ttl(&[("PBS_JOBID", "7.srv"), ("PBS_WALLTIME", "7200")]),
            "2h"
        );
    }

    #[test]
    fn without_an_end_or_with_a_far_one_the_sites_lifetime_counts() {
        let far = (NOW + 90 * 86_400).to_string();
        for vars in [
            &[][..],
            &[("SLURM_JOB_ID", "7")],
            &[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", "soon")],
            &[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", &far)],
            &[("LSB_JOBID", "7")],
            &[("PBS_JOBID", "7"), ("PBS_WALLTIME", "-1")],
        ] {
            assert_eq!(ttl(vars), "35d", "{vars:?}");
        }
    }

    #[test]
    fn a_job_that_outlives_its_end_gets_an_hour_at_a_time() {
        let past = (NOW - 5).to_string();
        let vars = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", &*past)];
        assert_eq!(ttl(&vars), "1h");
    }

    #[test]
    fn a_leaf_is_not_so_short_that_it_ends_before_it_is_looked_at() {
        for left in [1, 60, 299] {
            let end = (NOW + left).to_string();
            let vars = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", &*end)];
            assert_eq!(ttl(&vars), "5m", "{left}");
        }
        // But a site that wants them shorter has them so.
        let mut site = SiteConfig::default();
        site.leaf_lifetime = Ttl::from_secs(60);
        let ends = now() + Duration::seconds(100);
        let job = Job {
            scheduler: Scheduler::Slurm,
            id: "7".into(),
            ends: Some(ends),
        };
        assert_eq!(leaf_lifetime(Some(&job), &site, now()).to_string(), "1m");
    }

    #[test]
    fn each_batch_system_is_told_by_its_variables() {
        assert_eq!(job(&[]), None);
        assert_eq!(job(&[("SLURM_JOBID", "12")]).unwrap().id, "12");
        assert_eq!(job(&[("PBS_JOBID", "12[3].srv")]).unwrap().id, "12[3].srv");
        let array = [("LSB_JOBID", "12"), ("LSB_JOBINDEX", "3")];
        assert_eq!(job(&array).unwrap().id, "12[3]");
        let single = [("LSB_JOBID", "12"), ("LSB_JOBINDEX", "0")];
        assert_eq!(job(&single).unwrap().id, "12");
        assert_eq!(job(&[("SLURM_JOB_ID", "1;rm")]), None);
        assert_eq!(job(&[("SLURM_JOB_ID", "--all")]), None);
    }
}
