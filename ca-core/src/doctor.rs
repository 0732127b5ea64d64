//! Examination of a PKI directory: each check with a verdict and a way out.
//!
//! ```
//! use ca_core::{Authority, PkiLocation, SiteConfig, doctor, now};
//! # let home = tempfile::tempdir().unwrap();
//! # let dir = home.path().join(".ood/pki");
//! let location = PkiLocation::at(dir)?;
//! Authority::ensure(&location, &SiteConfig::default(), now())?;
//! for check in doctor::examine(&location, now()) {
//!     println!("{}: {} ({})", check.name, check.detail, check.verdict);
//! }
//! # Ok::<(), ca_core::Error>(())
//! ```

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use time::{Duration, OffsetDateTime};

use crate::authority::{
    CA_CERT, CA_KEY, CLIENT_CERT, CLIENT_KEY, TRUST, half_made_prefix, is_own_file, load,
};
use crate::certificate::Certificate;
use crate::client::ClientLeaf;
use crate::config::SiteConfig;
use crate::error::{Error, Result, Stamp};
use crate::issued::{ISSUED, IssuedRecord};
use crate::location::PkiLocation;
use crate::rotation::{Phase, phase};
use crate::store::{Access, Dir, Durability, TEMPORARY_PREFIX};
use crate::text::quoted;
use crate::webhosts::{WEBHOSTS, WebHosts};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It works, and something should be seen to.
    Warning,
    /// It does not work, or is not safe.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, a stable word or two.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Name of the check that [`configuration`] makes.
const CONFIGURATION: &str = "configuration";

/// Days of the authority's life below which a rotation is advised.
const AUTHORITY_LOW: Duration = Duration::days(180);
/// Difference of clocks that leaves survive, as their `notBefore` is set back.
const CLOCK_SKEW: Duration = Duration::minutes(10);

/// The check of the site's configuration, as it was loaded.
#[must_use]
pub fn configuration(loaded: &Result<SiteConfig>) -> Check {
    match loaded {
        Ok(_) => Check {
            name: CONFIGURATION,
            verdict: Verdict::Ok,
            detail: "read without errors".into(),
            fix: None,
        },
        Err(error) => Check {
            name: CONFIGURATION,
            verdict: Verdict::Failed,
            detail: error.to_string(),
            fix: error.hint(),
        },
    }
}

/// Looks at everything in and around a PKI directory. Writes nothing but one
/// temporary file there, to see the file server's clock and whether there is
/// room.
#[must_use]
pub fn examine(location: &PkiLocation, now: OffsetDateTime) -> Vec<Check> {
    let mut report = Report::default();
    report.add("directory", directory(location));
    let dir = match location.open() {
        Ok(Some(dir)) => dir,
        Ok(None) => {
            let error = Error::NoAuthority {
                path: location.path(),
            };
            report.add("authority", Err(error));
            return report.0;
        }
        Err(_) => return report.0,
    };
    report.add("files", files(&dir));
    report.add("authority", authority(&dir, now));
    report.add("trust bundle", trust(&dir));
    report.add("client leaf", client(location, now));
    report.add("web hosts", web_hosts(&dir));
    report.add("issued record", record(&dir));
    report.add("stray files", stray(location, &dir));
    report.add("file system", file_system(&dir));
    report.add("space", space(&dir));
    report.add("clock", clock(&dir, now));
    report.0
}

/// What a check found when nothing went wrong in looking.
enum Finding {
    Fine(String),
    Warn(String, String),
    Fail(String, String),
}

#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    fn add(&mut self, name: &'static str, found: Result<Finding>) {
        let (verdict, detail, fix) = match found {
            Ok(Finding::Fine(detail)) => (Verdict::Ok, detail, None),
            Ok(Finding::Warn(detail, fix)) => (Verdict::Warning, detail, Some(fix)),
            Ok(Finding::Fail(detail, fix)) => (Verdict::Failed, detail, Some(fix)),
            Err(error) => (Verdict::Failed, error.to_string(), error.hint()),
        };
        self.0.push(Check {
            name,
            verdict,
            detail,
            fix,
        });
    }
}

fn directory(location: &PkiLocation) -> Result<Finding> {
    let parent = location.open_parent()?;
    let Some(dir) = location.open()? else {
        return Ok(Finding::Fine(format!(
            "{} does not exist yet",
            location.path().display()
        )));
    };
    // What else is above the directory is the user's or the site's own affair.
    let dot_ood = parent
        .iter()
        .filter(|p| p.path().file_name() == Some(OsStr::new(".ood")));
    let mut open = Vec::new();
    for dir in dot_ood.chain([&dir]) {
        if dir.stat()?.st_mode & 0o077 != 0 {
            open.push(quoted(dir.path()));
        }
    }
    let open = open.join(" ");
    Ok(if open.is_empty() {
        Finding::Fine(format!("{} is yours alone", dir.path().display()))
    } else {
        Finding::Warn(
            format!("others may look into {open}"),
            format!("chmod 0700 {open}"),
        )
    })
}

const FILES: [(&str, Access); 5] = [
    (CA_KEY, Access::Private),
    (CA_CERT, Access::Public),
    (TRUST, Access::Public),
    (CLIENT_KEY, Access::Private),
    (CLIENT_CERT, Access::Public),
];

fn files(dir: &Dir) -> Result<Finding> {
    for (name, access) in FILES {
        if dir.read(name, access, 64 * 1024)?.is_none() {
            let missing = dir.path().join(name).display().to_string();
            let fix = match name {
                CLIENT_KEY | CLIENT_CERT => "make a new one with: ood-ca renew",
                _ => "restore it from a backup, or start over with: ood-ca rotate --emergency",
            };
            return Ok(Finding::Fail(format!("{missing} is missing"), fix.into()));
        }
    }
    Ok(Finding::Fine("types, owners and modes are right".into()))
}

fn authority(dir: &Dir, now: OffsetDateTime) -> Result<Finding> {
    let state = load(dir)?;
    crate::authority::check_time(&state.certificate, now)?;
    if !state.certificate.is_signed_by(&state.certificate) {
        return Ok(Finding::Fail(
            format!("{CA_CERT} is damaged: its signature is wrong"),
            "restore it from a backup, or start over with: ood-ca rotate --emergency".into(),
        ));
    }
    let end = state.certificate.not_after();
    if end - now < AUTHORITY_LOW {
        return Ok(Finding::Warn(
            format!("it ends at {}", Stamp(end)),
            "replace it in time: ood-ca rotate --prepare".into(),
        ));
    }
    Ok(Finding::Fine(format!(
        "key and certificate match, valid until {}",
        Stamp(end)
    )))
}

fn trust(dir: &Dir) -> Result<Finding> {
    let state = load(dir)?;
    if state.unfinished {
        return Ok(Finding::Warn(
            "a rotation was interrupted half-way".into(),
            "complete it with: ood-ca renew".into(),
        ));
    }
    Ok(match phase(&state) {
        Phase::Settled => Finding::Fine("it holds the authority alone".into()),
        Phase::Prepared => Finding::Warn(
            "a new authority is trusted but does not sign yet".into(),
            "once every web server was restarted: ood-ca rotate --activate".into(),
        ),
        Phase::Activated => Finding::Warn(
            "an old authority is still trusted".into(),
            "when its leaves are gone: ood-ca rotate --retire".into(),
        ),
    })
}

fn client(location: &PkiLocation, now: OffsetDateTime) -> Result<Finding> {
    let leaf = ClientLeaf::examine(location, now)?;
    let state = leaf.due.to_string();
    Ok(if leaf.due.is_due() {
        Finding::Fail(state, "renew it with: ood-ca renew".into())
    } else {
        let until = leaf.certificate.as_ref().map(Certificate::not_after);
        let until = until.map(|at| Stamp(at).to_string()).unwrap_or_default();
        Finding::Fine(format!("valid until {until}, {state}"))
    })
}

fn web_hosts(dir: &Dir) -> Result<Finding> {
    let state = load(dir)?;
    let signer = state.certificate.fingerprint();
    let hosts = WebHosts::read_in(dir)?;
    let old: Vec<String> = hosts
        .iter()
        .filter(|host| !host.authorities.contains(&signer))
        .map(|host| host.name.to_string())
        .collect();
    Ok(if old.is_empty() {
        Finding::Fine(match hosts.len() {
            0 => "none has loaded the trust bundle yet".into(),
            n => format!("{n} know the authority"),
        })
    } else {
        Finding::Warn(
            format!("{} runs with an older trust bundle", old.join(", ")),
            "restart your web server there (Help menu of the portal)".into(),
        )
    })
}

fn record(dir: &Dir) -> Result<Finding> {
    let record = IssuedRecord::read_in(dir)?;
    Ok(if record.unreadable.is_empty() {
        Finding::Fine(format!("{} certificates", record.entries.len()))
    } else {
        Finding::Warn(
            format!(
                "{} files are not certificates: {}",
                record.unreadable.len(),
                record.unreadable[..record.unreadable.len().min(5)].join(", ")
            ),
            format!("look at them in {}", dir.path().join(ISSUED).display()),
        )
    })
}

fn stray(location: &PkiLocation, dir: &Dir) -> Result<Finding> {
    let known = |name: &OsStr| {
        FILES.iter().any(|(file, _)| name == *file)
            || [ISSUED, WEBHOSTS].iter().any(|n| name == *n)
            || is_own_file(&name.to_string_lossy())
    };
    let (mut leftovers, mut unknown) = (Vec::new(), Vec::new());
    for name in dir.names()? {
        let shown = name.to_string_lossy().escape_debug().to_string();
        if name.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            leftovers.push(shown);
        } else if !known(&name) {
            unknown.push(shown);
        }
    }
    if let Some(parent) = location.open_parent()? {
        let prefix = half_made_prefix(location.name());
        let half_made = parent
            .names()?
            .into_iter()
            .filter(|n| n.as_bytes().starts_with(prefix.as_bytes()));
        leftovers.extend(half_made.map(|n| n.to_string_lossy().into_owned()));
    }
    if !unknown.is_empty() {
        return Ok(Finding::Warn(
            format!("not ours: {}", unknown.join(", ")),
            format!("move them out of {}", dir.path().display()),
        ));
    }
    Ok(if leftovers.is_empty() {
        Finding::Fine("none".into())
    } else {
        Finding::Warn(
            format!("left by an interrupted command: {}", leftovers.join(", ")),
            "nothing to do: they are removed by `ood-ca renew` after a day".into(),
        )
    })
}

/// statfs(2) magic numbers of the file systems that homes live on.
const FILE_SYSTEMS: [(u32, &str, Option<&str>); 14] = [
    (0x6969, "NFS", None),
    (0x0BD0_0BD0, "Lustre", None),
    (0x4750_4653, "GPFS", None),
    (0x1983_0326, "BeeGFS", None),
    (0x00C3_6400, "Ceph", None),
    (0x6573_5546, "FUSE", None),
    (0xEF53, "ext4", None),
    (0x5846_5342, "XFS", None),
    (0x9123_683E, "btrfs", None),
    (0x2FC1_2FC1, "ZFS", None),
    (0x794C_7630, "overlayfs", None),
    (0x0102_1994, "tmpfs", Some("it is lost at the next reboot")),
    (0x4D44, "FAT", Some("it keeps no owners and modes")),
    (
        0xFF53_4D42,
        "CIFS",
        Some("it may not keep owners and modes"),
    ),
];

fn file_system(dir: &Dir) -> Result<Finding> {
    let stat = rustix::fs::fstatfs(dir.fd()).map_err(|e| Error::io("inspect", dir.path(), e))?;
    // Some architectures sign-extend the number.
    let magic = u32::try_from(stat.f_type & 0xFFFF_FFFF).unwrap_or(0);
    Ok(
        match FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic) {
            Some((_, name, None)) => Finding::Fine((*name).to_owned()),
            Some((_, name, Some(trouble))) => Finding::Warn(
                format!("{name}: {trouble}"),
                "name another directory with pki_dir in ood_ca.yml or --pki-dir".into(),
            ),
            None => Finding::Fine(format!("type {magic:#x}")),
        },
    )
}

/// Room that a year of certificates takes, and more.
const PROBE: usize = 64 * 1024;

fn space(dir: &Dir) -> Result<Finding> {
    let stat = rustix::fs::fstatvfs(dir.fd()).map_err(|e| Error::io("inspect", dir.path(), e))?;
    // A quota shows only when something is written.
    let name = ".tmp-doctor-space";
    dir.replace(name, &[b'x'; PROBE], Access::Private, Durability::Synced)?;
    dir.remove(name)?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024);
    // Zero files in all: a file system that does not count them.
    let few_files = stat.f_files > 0 && stat.f_favail < 1000;
    Ok(if free_mib < 10 || few_files {
        Finding::Warn(
            format!("{free_mib} MiB and {} files are left", stat.f_favail),
            "free some space: without room certificates are not recorded".into(),
        )
    } else {
        Finding::Fine(format!(
            "{free_mib} MiB free, and your quota lets you write"
        ))
    })
}

fn clock(dir: &Dir, now: OffsetDateTime) -> Result<Finding> {
    let name = ".tmp-doctor-clock";
    dir.replace(name, b"", Access::Private, Durability::Relaxed)?;
    let stat = dir.stat_entry(OsStr::new(name))?;
    dir.remove(name)?;
    let Some(stat) = stat.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
    else {
        return Ok(Finding::Warn(
            "the file server's time could not be seen".into(),
            "try again".into(),
        ));
    };
    let server = OffsetDateTime::from_unix_timestamp(stat.st_mtime).unwrap_or(now);
    let off = (now - server).abs();
    let seconds = off.whole_seconds();
    let fix = || "set the clock of this machine by NTP; tell your administrator".to_owned();
    Ok(if off > CLOCK_SKEW {
        Finding::Fail(
            format!(
                "{seconds} s apart from the file server's: new certificates may not be valid yet elsewhere"
            ),
            fix(),
        )
    } else if off > Duration::minutes(1) {
        Finding::Warn(format!("{seconds} s apart from the file server's"), fix())
    } else {
        Finding::Fine("agrees with the file server's".into())
    })
}
