//! One function for each command: call the library, print the outcome.

use std::net::Ipv4Addr;

use ca_core::cli;
use ca_core::doctor::Verdict;
use ca_core::text::minute;
use ca_core::{PkiLocation, SiteConfig, Ttl, now};
use clap::CommandFactory;
use ood_job::headers::{self, Source};
use ood_job::node::Node;
use ood_job::ports::{self, Whose};
use ood_job::ready::Check;
use ood_job::run::{NetworkName, Notice, RunRequest};
use ood_job::sandbox::Outbound;
use ood_job::scheduler::{self, Job};
use ood_job::sessions::{self, Holder, JobId, Record, Registry, Session};
use ood_job::{Error, Result, config, doctor};
use ood_relay::Mode;
use serde_json::json;

use crate::args::{self, Args, Command};
use crate::{access_log, json};

/// Runs the command and returns its exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    match &args.command {
        Command::Run(options) => run_app(args, options),
        Command::Ports(options) => list_ports(args, options),
        Command::Register(options) => register(args, options),
        Command::Unregister(options) => unregister(args, options),
        Command::Sessions(options) => list_sessions(args, options),
        Command::Doctor => Ok(examine(args)),
        Command::Config(options) => {
            print_config(options);
            Ok(0)
        }
        Command::Completions { shell } => {
            cli::completions(Args::command(), *shell);
            Ok(0)
        }
        Command::Man { page, out } => {
            cli::man(Args::command(), page.as_deref(), out.as_deref())?;
            Ok(0)
        }
    }
}

fn site(args: &Args) -> Result<SiteConfig> {
    Ok(SiteConfig::load(args.config.as_deref())?)
}

fn pki(args: &Args, site: &SiteConfig) -> ca_core::Result<PkiLocation> {
    match &args.pki_dir {
        Some(dir) => PkiLocation::at(dir),
        None => PkiLocation::for_user(site),
    }
}

fn run_app(args: &Args, options: &args::Run) -> Result<u8> {
    let site = site(args)?;
    let pki = pki(args, &site)?;
    let lines = options.header.iter().cloned().map(Source::Line);
    let files = options.header_file.iter().cloned().map(Source::File);
    let env = options.header_env.iter().cloned().map(Source::Env);
    let sources: Vec<Source> = lines.chain(files).chain(env).collect();
    // What is not UTF-8 is refused as what it is, and not as a variable that is not set.
    let var = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let headers = headers::gather(&sources, var, options.client_cert_headers)?;
    warn_of_loopback(options.host.iter().map(ToString::to_string));
    let request = RunRequest {
        command: options.command.clone(),
        listen: options.listen,
        hosts: options.host.clone(),
        target: options.to.clone().unwrap_or_default(),
        mode: if options.tcp { Mode::Tcp } else { Mode::Http },
        headers,
        network: options.network.map(|network| match network {
            args::Network::Private => NetworkName::Private,
            args::Network::Host => NetworkName::Host,
        }),
        pid_namespace: !options.no_pidns,
        outbound: match options.outbound {
            args::Outbound::Auto => Outbound::Auto,
            args::Outbound::Pasta => Outbound::Pasta,
            args::Outbound::Slirp4netns => Outbound::Slirp4netns,
            args::Outbound::None => Outbound::None,
        },
        allow_unisolated: options.allow_unisolated,
        publish: options.publish.clone(),
        ready_timeout: options.ready_timeout,
        ready: match options.ready {
            Some(args::Ready::Http) => Check::Http,
            Some(args::Ready::Tcp) => Check::Tcp,
            None if options.tcp => Check::Tcp,
            None => Check::Http,
        },
        pki,
        site,
        log: access_log::open(options.access_log.as_deref())?,
    };
    ood_job::run::run(request, tell)
}

fn tell(notice: Notice) {
    match notice {
        Notice::Unisolated(why) => cli::warning(why),
        Notice::Degraded(what) => cli::warning(&what),
        Notice::NotRenewed(error) => {
            cli::warning(&format!(
                "the certificate could not be renewed yet: {error}"
            ));
        }
        Notice::NewAuthority(place) => cli::remark(&format!(
            "ood-job: made a certificate authority for you in {}; if the portal refuses this app, restart your web server there (Help, Restart Web Server)",
            place.display()
        )),
        Notice::EndedEarly { code: 0 } => cli::warning(
            "the app ended (exit code 0) before it answered; it must stay in the foreground, for what it leaves behind ends with it",
        ),
        Notice::EndedEarly { code } => cli::warning(&format!(
            "the app ended (exit code {code}) before it answered"
        )),
        Notice::Ready { connection, after } => cli::remark(&format!(
            "ood-job: ready at {}:{} after {:.2} s",
            connection.host,
            connection.port,
            after.as_secs_f64()
        )),
        _ => {}
    }
}

fn list_ports(args: &Args, options: &args::Ports) -> Result<u8> {
    let whose = options.pid.map_or(Whose::Job, Whose::Tree);
    let ports = ports::of_job(whose)?;
    if args.json {
        let rows: Vec<_> = ports.iter().map(json::port).collect();
        cli::json(&json!({ "ports": rows }));
    } else if options.lines {
        let host = Node::current(&site(args)?).host().unwrap_or_default();
        let open = ports.iter().filter(|p| p.is_open());
        let tcp = open.filter(|p| p.protocol.to_string() == "tcp");
        let mut numbers: Vec<u16> = tcp.map(|p| p.address.port()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            cli::line(&format!("{host}:{number}"));
        }
    } else {
        let heads = ["PROTO", "ADDRESS", "PID", "COMMAND", "REACHED BY"];
        let mut rows = vec![heads.map(String::from).to_vec()];
        rows.extend(ports.iter().map(|p| {
            let reach = match (p.private, p.is_open()) {
                (true, _) => "its own network",
                (false, true) => "everybody",
                (false, false) => "this node's users",
            };
            vec![
                p.protocol.to_string(),
                p.address.to_string(),
                p.pid.to_string(),
                p.command.clone(),
                reach.into(),
            ]
        }));
        cli::table(&rows, "");
    }
    Ok(0)
}

fn register(args: &Args, options: &args::Register) -> Result<u8> {
    let (site, at) = (site(args)?, now());
    let node = Node::current(&site);
    let job = Job::current(at);
    let (named, port) = options.place.clone();
    let named: Vec<String> = named.into_iter().chain(options.host.clone()).collect();
    let hosts = if named.is_empty() {
        node.registered_names()
    } else {
        named.clone()
    };
    warn_of_loopback(hosts.iter().cloned());
    let host = named.into_iter().next().or_else(|| node.host());
    let host = host.ok_or_else(|| {
        Error::Core(ca_core::Error::BadRequest {
            why: "this node has neither a name nor an address that others could use".into(),
            hint: "name it with --host",
        })
    })?;
    let ttl = options
        .ttl
        .unwrap_or_else(|| scheduler::leaf_lifetime(job.as_ref(), &site, at));
    let seconds = i64::try_from(Ttl::as_secs(ttl)).unwrap_or(i64::MAX);
    let record = Record {
        session: sessions::new_id()?,
        host,
        port,
        holder: options.pid.map(Holder::of).transpose()?,
        job: job.as_ref().map(JobId::from),
        created: at,
        expires: at.saturating_add(time::Duration::seconds(seconds)),
        command: None,
    };
    let registry = Registry::for_user()?;
    registry.prune(at)?;
    registry.register(&record, &hosts).map_err(about_host)?;
    let all = registry.list(at)?;
    if let Some(session) = all.iter().find(|s| s.record.session == record.session) {
        if args.json {
            cli::json(&json::session(session));
        } else {
            cli::line(&format!("registered: {}", session.names.join(" ")));
        }
    }
    Ok(0)
}

/// The hints of a name are those of `ood-ca`, with its options.
fn about_host(error: Error) -> Error {
    match error {
        Error::Core(ca_core::Error::BadName {
            what, input, why, ..
        }) => Error::Core(ca_core::Error::BadName {
            what,
            input,
            why,
            hint: args::HOST_HINT,
        }),
        other => other,
    }
}

fn warn_of_loopback(hosts: impl Iterator<Item = String>) {
    for host in hosts.filter(|host| is_loopback(host)) {
        cli::warning(&format!(
            "{host}: the portal reaches no loopback, unless the site allows it (allow_hosts); give a name or an address of this node"
        ));
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse().is_ok_and(|a: Ipv4Addr| a.is_loopback());
    address || host.eq_ignore_ascii_case("localhost")
}

fn unregister(args: &Args, options: &args::Unregister) -> Result<u8> {
    let (host, port) = &options.place;
    let registry = Registry::for_user()?;
    let taken = registry.unregister(host, *port).map_err(about_host)?;
    if !args.json {
        cli::line(&format!("unregistered: {}", taken.names.join(" ")));
        return Ok(0);
    }
    match &taken.session {
        Some(session) => cli::json(&json::session(session)),
        None => taken
            .names
            .iter()
            .for_each(|name| cli::json(&json::unreadable(name))),
    }
    Ok(0)
}

fn list_sessions(args: &Args, options: &args::Sessions) -> Result<u8> {
    let registry = Registry::for_user()?;
    let at = now();
    let pruned = if options.ask_scheduler {
        registry.prune_asking(at, scheduler::has_ended)?
    } else {
        registry.prune(at)?
    };
    let live = registry.list(at)?;
    if args.json {
        let rows = |all: &[Session]| all.iter().map(json::session).collect::<Vec<_>>();
        let mut gone = rows(&pruned.sessions);
        gone.extend(pruned.unreadable.iter().map(|name| json::unreadable(name)));
        cli::json(&json!({ "sessions": rows(&live), "pruned": gone }));
        return Ok(0);
    }
    let heads = ["SESSION", "WHERE", "JOB", "COMMAND", "UNTIL"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    rows.extend(live.iter().map(|session| {
        let record = &session.record;
        let job = record
            .job
            .as_ref()
            .map(|j| format!("{} {}", j.scheduler, j.id));
        vec![
            record.session.chars().take(8).collect(),
            format!("{}:{}", record.host, record.port),
            job.unwrap_or_else(|| "-".into()),
            record.command.clone().unwrap_or_else(|| "-".into()),
            minute(record.expires),
        ]
    }));
    if live.is_empty() {
        cli::line("no sessions");
    } else {
        cli::table(&rows, "");
    }
    for session in &pruned.sessions {
        cli::line(&format!(
            "pruned: {}:{} ({})",
            session.record.host, session.record.port, session.state
        ));
    }
    for name in &pruned.unreadable {
        cli::line(&format!("pruned: {name} (unreadable)"));
    }
    Ok(0)
}

fn examine(args: &Args) -> u8 {
    // The namespaces first: they want a process with one thread.
    let mut report = doctor::examine();
    let location = SiteConfig::load(args.config.as_deref()).and_then(|site| pki(args, &site));
    report.checks.push(doctor::authority(&location));
    let worst = cli::worst(&report.checks);
    let command = format!("ood-job run {}", report.mode.flags());
    let command = command.trim_end();
    if args.json {
        cli::json(&json!({
            "verdict": worst.to_string(),
            "checks": cli::checks_json(&report.checks),
            "mode": report.mode.to_string(),
            "command": command,
        }));
    } else {
        cli::write_checks(&report.checks);
        cli::line(&format!("run apps here with: {command} -- COMMAND"));
    }
    u8::from(worst == Verdict::Failed)
}

fn print_config(options: &args::Config) {
    let program = match options.program {
        args::Program::Caddy => config::Program::Caddy,
        args::Program::Stunnel => config::Program::Stunnel,
        args::Program::Nginx => config::Program::Nginx,
        args::Program::Haproxy => config::Program::Haproxy,
        args::Program::Ghostunnel => config::Program::Ghostunnel,
    };
    let ends = config::Ends {
        listen: options.listen,
        to: options.to.clone(),
        certs: options.certs.clone(),
    };
    // Both may be made later.
    let missing = ends.missing_files();
    if !missing.is_empty() {
        let certs = ends.certs.as_str();
        cli::warning(&format!(
            "{certs} has no {} yet; make what is missing with: ood-ca issue --out {certs}",
            missing.join(", ")
        ));
    }
    if let Err(error) = ends.to.target().check_private() {
        cli::warning(&error.to_string());
        if let Some(hint) = error.hint() {
            cli::remark(&format!("hint: {hint}"));
        }
    }
    cli::raw(config::render(program, &ends).as_bytes());
    if program == config::Program::Caddy {
        // JSON has no comments.
        cli::remark(&format!(
            "run it with: STEPPATH={}/caddy caddy run --config FILE   (without STEPPATH, a library of Caddy's makes ~/.step)",
            options.certs.as_str()
        ));
    }
}
