//! Examination of an installed setup, from the portal's configuration to one
//! user's certificates: each check with a verdict and a way out.

use ca_core::text::quoted;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::doctor::{self, Check, Verdict};
use ca_core::store::{Access, Dir};
use ca_core::{ConfigPath, HostName, SiteConfig, TrustBundle, UserName};
use serde_yaml::Value;

use crate::conf::check_snippet;
use crate::facts::{HostFacts, SNIPPET, TRUST};
use crate::hook::{HookRequest, Host};
use crate::hosts::HostRules;
use crate::report::{HookReport, Problem};
use crate::root::{Account, MAX_OWN_FILE};
use crate::{nginx, pun, read, root, wire};

/// What to look at.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// The site's configuration, if it is not in the usual place.
    pub config: Option<PathBuf>,
    /// A user to look at as well.
    pub user: Option<UserName>,
    /// The configuration of nginx_stage.
    pub nginx_stage_config: PathBuf,
    /// The directory of the system's cron jobs.
    pub cron_dir: PathBuf,
}

/// What was found: the verdict, and what to do.
enum Finding {
    Fine(String),
    Warn(String, String),
    Fail(String, String),
}
use Finding::{Fail, Fine, Warn};

impl Finding {
    fn named(self, name: &'static str) -> Check {
        let (verdict, detail, fix) = match self {
            Fine(detail) => (Verdict::Ok, detail, None),
            Warn(detail, fix) => (Verdict::Warning, detail, Some(fix)),
            Fail(detail, fix) => (Verdict::Failed, detail, Some(fix)),
        };
        Check {
            name,
            verdict,
            detail,
            fix,
        }
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        let fix = problem
            .hint
            .unwrap_or_else(|| "see docs/admin-guide.md".into());
        Fail(problem.message, fix)
    }
}

impl From<crate::Error> for Finding {
    fn from(error: crate::Error) -> Self {
        Problem::from(error).into()
    }
}

/// Looks at everything. Writes nothing of root's; a user who is named gets
/// what a hook would give them in their own home directory.
#[must_use]
pub fn examine(request: &CheckRequest) -> Vec<Check> {
    let loaded = SiteConfig::load(request.config.as_deref());
    let mut checks = vec![configuration(request, &loaded)];
    // All else hangs on it: what the defaults would give helps nobody.
    let Ok(site) = loaded else { return checks };
    let mut add = |name: &'static str, found: Finding| checks.push(found.named(name));
    add("rights", rights());
    match HostFacts::gather(site.clone(), None) {
        Ok(facts) => {
            add("hosts", hosts(&facts));
            add("resolver", resolver(&facts));
        }
        Err(error) => add("portal", error.into()),
    }
    add("snippets", directory(&site.snippet_dir));
    add("trust bundles", directory(&site.trust_dir));
    add("error pages", error_pages(&site.errors_dir));
    add("nginx", nginx_found(&site));
    add("hook", hook(&site));
    add("apache", apache(&site));
    add(
        "nginx_stage",
        nginx_stage(&site, &request.nginx_stage_config),
    );
    add("cron", cron(&request.cron_dir));
    if let Some(user) = &request.user {
        for (name, found) in of_user(request, &site, user) {
            add(name, found);
        }
    }
    checks
}

/// The user's part of the hook and `ood-ca` read it as the user.
fn configuration(request: &CheckRequest, loaded: &ca_core::Result<SiteConfig>) -> Check {
    let usual = Path::new(SiteConfig::DEFAULT_PATH);
    let path = request.config.as_deref().unwrap_or(usual);
    let closed = |m: fs::Metadata| m.mode() & 0o004 == 0;
    if loaded.is_ok() && fs::metadata(path).is_ok_and(closed) {
        let what = format!(
            "users cannot read {}, and their part needs it",
            path.display()
        );
        return Fail(what, format!("chmod o+r {}", quoted(path))).named("configuration");
    }
    doctor::configuration(loaded)
}

fn rights() -> Finding {
    if rustix::process::geteuid().is_root() {
        Fine("root sees it all".into())
    } else {
        Warn(
            "not all can be seen without root".into(),
            "run it as root: sudo pun-helper check".into(),
        )
    }
}

fn hosts(facts: &HostFacts) -> Finding {
    let rules = match facts.rules() {
        Ok(rules) => rules,
        Err(error) => return error.into(),
    };
    match rules.host_regex() {
        Some(regex) if matches_anything(&rules) => Warn(
            format!("host_regex {regex} matches hosts all over the world"),
            "set host_regex in ood_ca.yml to what your compute nodes are called".into(),
        ),
        Some(regex) if facts.site.host_regex.is_some() => Fine(format!("host_regex {regex}")),
        Some(regex) => Fine(format!(
            "host_regex {regex}, from {}",
            facts.site.portal_config.as_str()
        )),
        None => Fail(
            "no host_regex is set: the proxy answers 503 to everything".into(),
            "set host_regex in ood_ca.yml to what your compute nodes are called".into(),
        ),
    }
}

/// Whether the expression lets through names that no compute node has (RFC 2606).
fn matches_anything(rules: &HostRules) -> bool {
    let names = ["www.example.com", "example.net", "a-b.test"];
    let mut names = names.iter().filter_map(|name| HostName::parse(name).ok());
    names.any(|name| rules.matches_some_form(&name))
}

fn resolver(facts: &HostFacts) -> Finding {
    let plan = match &facts.resolver {
        Ok(plan) => plan,
        Err(error) => {
            return Fail(error.to_string(), error.hint().unwrap_or_default());
        }
    };
    let servers: Vec<String> = plan.nameservers.iter().map(ToString::to_string).collect();
    let domain = plan
        .domain
        .as_ref()
        .map_or("no domain".into(), ToString::to_string);
    let found = format!(
        "{}; {domain}; {} static hosts",
        servers.join(" "),
        plan.hosts.len()
    );
    match plan.warnings.first() {
        None => Fine(found),
        Some(first) => Warn(
            format!("{found}; {first}"),
            "name the servers with resolver: in ood_ca.yml".into(),
        ),
    }
}

fn directory(path: &ConfigPath) -> Finding {
    let path = Path::new(path.as_str());
    match Dir::open_guarded(path) {
        Ok(Some(_)) => Fine(format!("{} is root's alone", path.display())),
        Ok(None) => match path.parent().map(Dir::open_guarded) {
            Some(Ok(Some(_))) => Fine(format!("{} is made by the first hook", path.display())),
            _ => Fail(
                format!("{} does not exist, nor what is above it", path.display()),
                "install Open OnDemand, or set snippet_dir and trust_dir".into(),
            ),
        },
        Err(error) => crate::Error::from(error).into(),
    }
}

fn error_pages(dir: &ConfigPath) -> Finding {
    let path = Path::new(dir.as_str());
    let pages = fs::read_dir(path).map(|entries| {
        let names = entries.flatten().map(|e| e.path());
        names
            .filter(|p| p.extension().is_some_and(|e| e == "html"))
            .count()
    });
    match pages {
        Ok(0) | Err(_) => Fail(
            format!("there are no pages in {}", path.display()),
            "copy nginx/errors there, or set errors_dir".into(),
        ),
        Ok(_) if !starting_page_may_run(path) => Fail(
            format!(
                "the script of {}/starting.html is not ours: browsers will not run it",
                path.display()
            ),
            "take starting.html over from nginx/errors, and change its text only".into(),
        ),
        Ok(n) => Fine(format!("{n} in {}", path.display())),
    }
}

/// Whether the script of the page that tries again by itself is the one that the
/// locations let run.
fn starting_page_may_run(dir: &Path) -> bool {
    let ours = script_of(include_str!("../../nginx/errors/starting.html"));
    let page = read::text_file(&dir.join("starting.html"), MAX_PAGE);
    page.is_ok_and(|page| script_of(&page) == ours)
}

/// Largest page that is read, in bytes.
const MAX_PAGE: u64 = 1024 * 1024;

fn script_of(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once("<script>")?;
    Some(rest.split_once("</script>")?.0)
}

fn nginx_found(site: &SiteConfig) -> Finding {
    let Some(binary) = nginx::find(site) else {
        return Fail(
            "no nginx was found".into(),
            "install Open OnDemand's nginx, or name yours with nginx: in ood_ca.yml".into(),
        );
    };
    match root::version_of(&binary, Duration::from_secs(5)) {
        Ok(version) => Fine(format!("{version}, {}", binary.display())),
        Err(problem) => problem.into(),
    }
}

const HOOK_KEY: &str = "pun_pre_hook_root_cmd";

fn yaml(path: &Path) -> Result<Value, Finding> {
    let fail = |e: String| {
        Fail(
            format!("{}: {e}", path.display()),
            format!("look at it: less {}", quoted(path)),
        )
    };
    let text = fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    serde_yaml::from_str(&text).map_err(|e| fail(e.to_string()))
}

fn hook(site: &SiteConfig) -> Finding {
    let file = site.portal_config.as_str();
    let portal = match yaml(Path::new(file)) {
        Ok(portal) => portal,
        Err(found) => return found,
    };
    let set = format!(
        "set {HOOK_KEY} in {file} to the path of ood-ca-hook, and regenerate the portal's configuration"
    );
    let Some(command) = portal.get(HOOK_KEY).and_then(Value::as_str) else {
        return Fail(format!("{HOOK_KEY} is not set"), set);
    };
    let path = Path::new(command);
    let Ok(meta) = fs::metadata(path) else {
        return Fail(format!("{command} does not exist"), set);
    };
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Fail(format!("{command} is not a program"), set);
    }
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Fail(
            format!("others than root may change {command}, and root runs it"),
            format!("chown root {0} && chmod go-w {0}", quoted(command)),
        );
    }
    let ours = std::env::current_exe().and_then(fs::metadata);
    let same = ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (meta.dev(), meta.ino()));
    let named = path.file_name().is_some_and(|name| name == "ood-ca-hook");
    if same && named {
        return Fine(format!("{command} is this program"));
    }
    if same {
        return Fail(
            format!(
                "{command} gets `--user NAME` and no more: by that name it does not know what to do"
            ),
            "link it by the name ood-ca-hook, and name that".into(),
        );
    }
    let calls = fs::read_to_string(path)
        .is_ok_and(|script| script.contains("ood-ca-hook") || script.contains("pun-helper hook"));
    if calls {
        Fine(format!("{command} calls it"))
    } else {
        Warn(
            format!("{command} is another hook"),
            format!("{set}; name the other one with also_run: in ood_ca.yml"),
        )
    }
}

/// Where Open OnDemand's generator puts the portal's configuration.
const APACHE: [&str; 3] = [
    "/etc/httpd/conf.d/ood-portal.conf",
    "/etc/apache2/sites-available/ood-portal.conf",
    "/opt/rh/httpd24/root/etc/httpd/conf.d/ood-portal.conf",
];

fn apache(site: &SiteConfig) -> Finding {
    let portal = yaml(Path::new(site.portal_config.as_str())).ok();
    let command = portal.as_ref().and_then(|p| p.get(HOOK_KEY)?.as_str());
    let fix = "run /opt/ood/ood-portal-generator/sbin/update_ood_portal and reload Apache";
    let Some((path, text)) = APACHE
        .iter()
        .find_map(|p| Some((p, fs::read_to_string(p).ok()?)))
    else {
        return Warn(
            "the portal's Apache configuration was not found".into(),
            fix.into(),
        );
    };
    judge_apache(path, &text, command, fix)
}

/// `command` is the hook that the portal's configuration names.
fn judge_apache(path: &str, text: &str, command: Option<&str>, fix: &str) -> Finding {
    let is_set = |line: &str| line.contains("OOD_PUN_PRE_HOOK_ROOT_CMD");
    let names = |line: &str| command.is_none_or(|command| line.contains(command));
    if !text.lines().any(|line| is_set(line) && names(line)) {
        return Fail(
            format!("{path} does not name the hook: it is older than the setting"),
            fix.into(),
        );
    }
    // Of what nginx/ood_portal.yml adds, the word that stands nowhere else.
    if !text.contains("ood_ca_blocked") {
        return Fail(
            format!("{path} lacks the second lock against what a job may tell the browser"),
            format!(
                "take custom_vhost_directives over from ood_portal.yml among the examples; {fix}"
            ),
        );
    }
    Fine(format!("{path} names a hook and has the second lock"))
}

fn nginx_stage(site: &SiteConfig, file: &Path) -> Finding {
    let fix = || {
        let dir = Path::new(site.snippet_dir.as_str());
        let dir = dir.file_name().unwrap_or_default().to_string_lossy();
        format!(
            "give pun_app_configs in {} its three defaults and {{env: sys, owner: '', name: '../../{dir}/%{{user}}/*'}}",
            file.display()
        )
    };
    let config = match yaml(file) {
        Ok(config) => config,
        Err(_) => return Fail(format!("{} cannot be read", file.display()), fix()),
    };
    let Some(entries) = config.get("pun_app_configs").and_then(Value::as_sequence) else {
        return Fail(
            "pun_app_configs is not set: no PUN reads our locations".into(),
            fix(),
        );
    };
    let of = |entry: &Value, key: &str| {
        let value = entry.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    for env in ["dev", "usr", "sys"] {
        if !entries
            .iter()
            .any(|e| of(e, "env") == env && of(e, "name") == "*")
        {
            return Fail(
                format!("pun_app_configs lacks the default entry for {env}: those apps are gone"),
                fix(),
            );
        }
    }
    // OOD's own place for the configuration of system apps.
    let apps = Path::new("/var/lib/ondemand-nginx/config/apps/sys");
    let wanted = format!("{}/%{{user}}/*", site.snippet_dir.as_str());
    let reached = |entry: &Value| {
        let path = apps.join(of(entry, "name"));
        of(entry, "env") == "sys" && plain(&path) == Path::new(&wanted)
    };
    if entries.iter().any(reached) {
        Fine(format!("PUNs read {wanted}.conf"))
    } else {
        Fail(
            format!("no entry of pun_app_configs leads to {wanted}.conf"),
            fix(),
        )
    }
}

/// The path with `..` taken out, as nginx_stage does it: by its text.
fn plain(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn cron(dir: &Path) -> Finding {
    let fix = "let it call `pun-helper clean` instead of `nginx_stage nginx_clean`";
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ours = false;
    for path in entries.map(|entry| entry.path()) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        for line in lines {
            if line.contains("nginx_clean") {
                return Fail(
                    format!(
                        "{} stops PUNs with open connections to jobs",
                        path.display()
                    ),
                    fix.into(),
                );
            }
            ours |= line.contains("pun-helper clean");
        }
    }
    if ours {
        Fine("idle PUNs are stopped by pun-helper clean".into())
    } else {
        Warn(
            format!("nothing in {} stops idle PUNs", dir.display()),
            fix.into(),
        )
    }
}

fn of_user(
    request: &CheckRequest,
    site: &SiteConfig,
    user: &UserName,
) -> Vec<(&'static str, Finding)> {
    let hook = HookRequest {
        user: user.clone(),
        config: request.config.clone(),
    };
    let view = match view(&hook, site) {
        Ok(view) => view,
        Err(problem) => return vec![("user", problem.into())],
    };
    let mut found = vec![("user", Fine(format!("{user} is known")))];
    match view.findings {
        Err(problem) => found.push(("authority", problem.into())),
        Ok(findings) => found.extend(findings.into_iter().map(|f| {
            let detail = format!("{}: {}", f.name, f.detail);
            let finding = match f.verdict.as_str() {
                "ok" => Fine(detail),
                "warning" => Warn(detail, f.fix),
                _ => Fail(detail, f.fix),
            };
            ("user's files", finding)
        })),
    }
    let restart = || "let the user restart their web server (Help menu of the portal)".to_owned();
    found.push((
        "trust copy",
        match (view.trust, view.trust_copy) {
            (_, Err(problem)) | (Err(problem), _) => problem.into(),
            (Ok(_), Ok(None)) => Warn("there is none yet".into(), restart()),
            (Ok(trust), Ok(Some(copy))) if trust == copy => Fine(format!(
                "{} authorities, the user's own",
                copy.authorities().len()
            )),
            (Ok(_), Ok(Some(_))) => Warn("the user's has changed since".into(), restart()),
        },
    ));
    let checked = |text: String| match check_snippet(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Problem::from(error)),
    };
    let snippet = view.snippet.and_then(|text| text.map(checked).transpose());
    found.push((
        "snippet",
        match (snippet, view.wanted, view.accepted) {
            (Err(problem), ..) | (_, _, Err(problem)) | (_, Err(problem), _) => problem.into(),
            (Ok(None), ..) => Warn("there is none yet".into(), restart()),
            (Ok(Some(text)), Ok(wanted), Ok(())) if text == wanted => {
                Fine("as it would be rendered now, and nginx accepts it".into())
            }
            (Ok(Some(_)), ..) => Warn("it is not what would be rendered now".into(), restart()),
        },
    ));
    let run_dir = Path::new(site.pun_run_dir.as_str());
    let running = pun::find(run_dir, user.as_str()).and_then(|pun| Some((pun.master?, pun)));
    found.push((
        "web server",
        match running.map(|(master, pun)| (master, pun.connections())) {
            None => Fine("does not run".into()),
            Some((master, Ok(open))) => Fine(format!(
                "runs as process {master}, {} connections to jobs",
                open.len()
            )),
            Some((_, Err(error))) => Warn(
                format!("its connections cannot be seen: {error}"),
                "run it as root: sudo pun-helper check".into(),
            ),
        },
    ));
    found
}

/// What there is to see of a user: their own PKI directory, looked at by a child
/// that has become the user, what lies in root's directories, and what would be
/// rendered now. Writes nothing of root's.
struct UserView {
    findings: Result<Vec<wire::Finding>, Problem>,
    trust: Result<TrustBundle, Problem>,
    trust_copy: Result<Option<TrustBundle>, Problem>,
    snippet: Result<Option<String>, Problem>,
    wanted: Result<String, Problem>,
    accepted: Result<(), Problem>,
}

fn view(request: &HookRequest, site: &SiteConfig) -> Result<UserView, Problem> {
    let account = Account::find(&request.user)?;
    let host = Host::look(site, &account)?;
    let mut ignored = HookReport::new(&request.user);
    let mut part = host.start_user_part(&account, request, &mut ignored);
    let findings = match &mut part {
        Ok(part) => part.examine().map_err(|refusal| refusal.problem),
        Err(refusal) => Err(refusal.problem.clone()),
    };
    let trust = part
        .and_then(|mut part| part.trust())
        .map_err(|refusal| refusal.problem);
    let read = |base: &ConfigPath, name: &str| -> Result<Option<Vec<u8>>, Problem> {
        let path = Path::new(base.as_str()).join(account.name.as_str());
        match Dir::open_guarded(&path)? {
            Some(dir) => Ok(dir.read(name, Access::Public, MAX_OWN_FILE)?),
            None => Ok(None),
        }
    };
    let trust_copy = read(&site.trust_dir, TRUST).and_then(|pem| match pem {
        Some(pem) => Ok(Some(TrustBundle::from_pem(&pem)?)),
        None => Ok(None),
    });
    let snippet = read(&site.snippet_dir, SNIPPET)
        .map(|text| text.map(|text| String::from_utf8_lossy(&text).into_owned()));
    let wanted = || {
        let (facts, paths) = (host.facts.as_ref(), host.paths.as_ref());
        let (facts, paths) = (facts.map_err(Clone::clone)?, paths.map_err(Clone::clone)?);
        let (binary, _) = host.binary.as_ref().map_err(Clone::clone)?;
        let snippet = facts.render(paths, root::version_of(binary, host.limit())?)?;
        Ok(snippet.as_str().to_owned())
    };
    let accepted = match (&snippet, &trust_copy, &host.binary) {
        (Ok(Some(text)), Ok(bundle), Ok((binary, _))) => {
            host.accepts(binary, text, bundle.as_ref())
        }
        _ => Ok(()),
    };
    Ok(UserView {
        findings,
        trust,
        wanted: wanted(),
        trust_copy,
        snippet,
        accepted,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn verdict(found: &Finding) -> Verdict {
        match found {
            Fine(_) => Verdict::Ok,
            Warn(..) => Verdict::Warning,
            Fail(..) => Verdict::Failed,
        }
    }

    #[test]
    fn nginx_stage_must_keep_its_defaults_and_lead_to_our_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nginx_stage.yml");
        let site = SiteConfig::default();
        let defaults = "pun_app_configs:\n  - {env: dev, owner: '%{user}', name: '*'}\n  - {env: usr, owner: '*', name: '*'}\n  - {env: sys, owner: '', name: '*'}\n";
        let ours = "  - {env: sys, owner: '', name: '../../mtls/%{user}/*'}\n";
        let judged = |text: &str| {
            fs::write(&file, text).unwrap();
            verdict(&nginx_stage(&site, &file))
        };
        assert_eq!(judged(&format!("{defaults}{ours}")), Verdict::Ok);
        assert_eq!(judged(defaults), Verdict::Failed);
        assert_eq!(
            judged(&format!("pun_app_configs:\n{ours}")),
            Verdict::Failed
        );
        assert_eq!(judged("ondemand_portal: x\n"), Verdict::Failed);
        assert_eq!(judged(": :\n -"), Verdict::Failed);
        let elsewhere = ours.replace("mtls", "other");
        assert_eq!(judged(&format!("{defaults}{elsewhere}")), Verdict::Failed);
    }

    #[test]
    fn apache_must_name_the_hook_and_have_the_second_lock() {
        let command = Some("/usr/sbin/ood-ca-hook");
        let judged =
            |text: &str| verdict(&judge_apache("ood-portal.conf", text, command, "do this"));
        let other = "  SetEnv OOD_PUN_PRE_HOOK_ROOT_CMD \"/opt/other\"\n";
        let hook = "  SetEnv OOD_PUN_PRE_HOOK_ROOT_CMD \"/usr/sbin/ood-ca-hook\"\n";
        let examples: Value =
            serde_yaml::from_str(include_str!("../../nginx/ood_portal.yml")).unwrap();
        let lines = examples["custom_vhost_directives"].as_sequence().unwrap();
        let lock: String = lines
            .iter()
            .map(|l| l.as_str().unwrap().to_owned() + "\n")
            .collect();
        assert_eq!(judged(&lock), Verdict::Failed);
        assert_eq!(judged(hook), Verdict::Failed);
        assert_eq!(judged(&format!("{other}{lock}")), Verdict::Failed);
        assert_eq!(judged(&format!("{hook}{lock}")), Verdict::Ok);
    }

    #[test]
    fn a_cron_job_that_stops_busy_puns_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(verdict(&cron(dir.path())), Verdict::Warning);
        fs::write(
            dir.path().join("a"),
            "# nginx_stage nginx_clean\n0 * * * * root pun-helper clean\n",
        )
        .unwrap();
        assert_eq!(verdict(&cron(dir.path())), Verdict::Ok);
        fs::write(
            dir.path().join("ood"),
            "0 */2 * * * root nginx_stage nginx_clean 2>&1\n",
        )
        .unwrap();
        assert_eq!(verdict(&cron(dir.path())), Verdict::Failed);
    }
}
