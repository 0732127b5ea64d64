//! One function for each command: call the library, print the outcome.

mod check;
mod issue;
mod renew;
mod rotate;
mod show;

use std::io::Read;
use std::path::Path;

use ca_core::cli;
use ca_core::store::retry_stale;
use ca_core::text::minute;
use ca_core::{Authority, ClientLeaf, Error, PkiLocation, Result, SiteConfig, now};
use clap::CommandFactory;
use serde_json::json;

use crate::args::{Args, Command};
use crate::json;

/// Runs the command and returns its exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    match &args.command {
        Command::Completions { shell } => {
            cli::completions(Args::command(), *shell);
            Ok(0)
        }
        Command::Man { page, out } => {
            cli::man(Args::command(), page.as_deref(), out.as_deref())?;
            Ok(0)
        }
        Command::Doctor => check::doctor(args),
        command => {
            let context = Context::new(args)?;
            match command {
                Command::Init => init(&context),
                Command::Issue(issue) => issue::run(&context, issue),
                Command::Renew(renew) => renew::renew(&context, renew),
                Command::NeedsRenewal(needs) => renew::needs_renewal(&context, needs),
                Command::Rotate(rotate) => rotate::run(&context, rotate),
                Command::Verify(verify) => check::verify(&context, verify),
                _ => show::run(&context),
            }
        }
    }
}

/// What every command needs to know.
struct Context {
    location: PkiLocation,
    site: SiteConfig,
    json: bool,
}

impl Context {
    fn new(args: &Args) -> Result<Self> {
        let site = SiteConfig::load(args.config.as_deref())?;
        let location = location(args, &site)?;
        Ok(Context {
            location,
            site,
            json: args.json,
        })
    }

    fn warn_all(&self, notices: &[impl ToString]) {
        for notice in notices {
            cli::warning(&notice.to_string());
        }
    }
}

fn location(args: &Args, site: &SiteConfig) -> Result<PkiLocation> {
    match &args.pki_dir {
        Some(dir) => PkiLocation::at(dir),
        None => PkiLocation::for_user(site),
    }
}

fn init(context: &Context) -> Result<u8> {
    let now = now();
    let created = matches!(
        Authority::open(&context.location, &context.site, now),
        Err(Error::NoAuthority { .. })
    );
    let authority = Authority::ensure(&context.location, &context.site, now)?;
    let mut notices = Vec::new();
    if !created {
        authority.finish_interrupted()?;
        if ClientLeaf::examine(&context.location, now)?.due.is_due() {
            notices = authority.renew_client(now)?.notices;
        }
    }
    context.warn_all(&notices);
    let path = context.location.path().display().to_string();
    if context.json {
        cli::json(&json!({
            "pki_dir": path,
            "created": created,
            "authority": json::certificate(authority.certificate(), now),
            "notices": strings(&notices),
        }));
    } else {
        let until = minute(authority.certificate().not_after());
        cli::line(&if created {
            format!("created your certificate authority in {path}, valid until {until}")
        } else {
            format!("your certificate authority is in {path}, valid until {until}")
        });
    }
    Ok(0)
}

fn strings(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// Reads a file that the user named, or standard input for `-`. The bounds on
/// its content are its parser's.
fn read_named(path: &Path) -> Result<Vec<u8>> {
    const MOST: u64 = 64 * 1024;
    let fail = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let read = |from: &mut dyn Read| {
        // It may be a key: room for all of it, so that no copy is left behind.
        let mut content = Vec::with_capacity(MOST as usize + 64);
        let read = from.take(MOST).read_to_end(&mut content);
        read.map_err(fail).map(|_| content)
    };
    if path == Path::new("-") {
        return read(&mut std::io::stdin().lock());
    }
    retry_stale(|| read(&mut open_named(path)?))
}

/// Opens a regular file, or a descriptor that the shell has handed over (as in
/// `ood-ca verify <(…)`). Anything else, a FIFO say, could make us wait for ever.
fn open_named(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let handed_over = path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    if !handed_over {
        options.custom_flags(nonblocking);
    }
    let file = options.open(path).map_err(fail)?;
    if handed_over || file.metadata().map_err(fail)?.is_file() {
        return Ok(file);
    }
    Err(Error::UnsafePath {
        path: path.to_owned(),
        problem: "it is not a regular file".into(),
        fix: "name a file, or - for standard input".into(),
    })
}
