//! What cron calls instead of `nginx_stage nginx_clean`.
//!
//! Open OnDemand's own command asks only whether a user runs Passenger apps; a
//! PUN that merely proxies, a WebSocket to a notebook say, it stops. Here a PUN
//! with a connection to a job is let alone. All others are left to it, one by
//! one: it still decides by its own rules, and removes what is stale.

use std::path::Path;
use std::time::Duration;

use ca_core::{SiteConfig, UserName};

use crate::error::{Error, Result};
use crate::pun::{self, Pun};
use crate::root;

/// How long nginx_stage may take for one user.
const LIMIT: Duration = Duration::from_secs(60);

/// What became of one PUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// Whose it is.
    pub user: String,
    /// How many connections to jobs it had open.
    pub connections: usize,
    /// Whether nginx_stage stopped it (or would).
    pub stopped: bool,
    /// What went wrong.
    pub problem: Option<String>,
}

/// Leaves every PUN without an open connection to a job to nginx_stage.
///
/// # Errors
/// If the PUNs cannot be listed.
pub fn clean(site: &SiteConfig, dry_run: bool) -> Result<Vec<Cleaned>> {
    let run_dir = Path::new(site.pun_run_dir.as_str());
    let puns = pun::list(run_dir).map_err(|e| Error::io("list", run_dir, e))?;
    Ok(puns
        .iter()
        .map(|pun| clean_one(site, pun, dry_run))
        .collect())
}

fn clean_one(site: &SiteConfig, pun: &Pun, dry_run: bool) -> Cleaned {
    let mut cleaned = Cleaned {
        user: pun.user.clone(),
        connections: 0,
        stopped: false,
        problem: None,
    };
    match pun.connections() {
        Ok(open) => cleaned.connections = open.len(),
        // What cannot be seen may be there.
        Err(error) => {
            cleaned.problem = Some(format!("its connections cannot be seen: {error}"));
            return cleaned;
        }
    }
    if cleaned.connections > 0 {
        return cleaned;
    }
    // It stops the PUNs of users who are gone even if it is told to stop none.
    if dry_run && pun.user_is_gone() {
        cleaned.stopped = true;
        return cleaned;
    }
    match ask_nginx_stage(site, pun, dry_run) {
        Ok(stopped) => cleaned.stopped = stopped,
        Err(problem) => cleaned.problem = Some(problem),
    }
    cleaned
}

/// Whether nginx_stage named the user as one whose PUN it stops.
fn ask_nginx_stage(site: &SiteConfig, pun: &Pun, dry_run: bool) -> Result<bool, String> {
    let user = pun.user.as_str();
    let name = UserName::parse(user).map_err(|e| e.to_string())?;
    let program = Path::new(site.nginx_stage.as_str());
    // It decodes `%` and `+` in what it is given.
    let name = name.as_str().replace('+', "%2B");
    let mut arguments = vec!["nginx_clean".to_owned(), format!("--user={name}")];
    if dry_run {
        arguments.push("--skip-nginx".to_owned());
    }
    let (said, complaint) = root::run_nginx_stage(program, &arguments, LIMIT)
        .map_err(|e| format!("{}: {e}", program.display()))?;
    match complaint.trim() {
        // Of a PUN that does not run it complains while it cleans up.
        complaint if complaint.is_empty() || pun.master.is_none() => Ok(said
            .lines()
            .any(|line| line.split(' ').next() == Some(user))),
        complaint => Err(complaint.lines().next().unwrap_or_default().to_owned()),
    }
}
