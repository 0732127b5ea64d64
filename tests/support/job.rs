//! Apps of a portal's user that `ood-job run` runs.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::home::runnable_by;
use super::nginx::{User, World};
use super::tls::Server;
use super::tools::{ood_job, require_tool};

/// What every user may run: the test's own may name places in root's home.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// An app in a job on the node `n2`, in a network of its own.
#[derive(Debug)]
pub struct Job {
    /// By which the portal reaches it.
    pub host: String,
    /// At which the portal reaches it.
    pub port: u16,
    published: PathBuf,
    server: Option<Server>,
}

impl Job {
    /// Starts `ood-job run` with these flags, and waits until the app answers.
    /// `node` is shell script that root runs first, on the node, whose name and
    /// mounts nobody else sees. The app has nobody but the portal to talk to.
    ///
    /// # Panics
    /// If it ends before it is published.
    #[must_use]
    pub fn start(
        world: &World,
        user: &User,
        node: &str,
        environment: &[(&str, &str)],
        flags: &[&str],
        app: &[&str],
    ) -> Self {
        require_tool("hostname");
        let site = world.path("job.yml");
        fs::write(&site, "domain: cluster.test\n").unwrap();
        let published = user.home.join("connection.json");
        let (site, publish) = (site.display().to_string(), published.display().to_string());
        let program = runnable_by(ood_job(), user.home.uid());
        let program = program.display().to_string();
        let node = format!("set -e\nhostname n2\n{node}\nexec \"$@\"");
        let mut words = strings(&["--uts", "--mount", "--", "sh", "-c", &node, "sh"]);
        words.extend(as_user(user, environment));
        words.extend(strings(&[
            &program, "run", "--config", &site, "--publish", &publish, "--listen", "127.0.0.2:0",
            "--outbound", "none",
        ]));
        words.extend(strings(flags));
        words.push("--".into());
        words.extend(strings(app));
        let mut server = Server::start(require_tool("unshare"), words);
        let connection: Value = server.expect("the app is published", |_| {
            let text = fs::read_to_string(&published).ok()?;
            Some(serde_json::from_str(&text).unwrap())
        });
        Job {
            host: connection["host"].as_str().unwrap().to_owned(),
            port: connection["port"].as_u64().unwrap().try_into().unwrap(),
            published,
            server: Some(server),
        }
    }

    /// The path of its session, with the slash at its end.
    #[must_use]
    pub fn path(&self, form: &str) -> String {
        format!("/pun/{form}/{}/{}/", self.host, self.port)
    }

    /// Ends the job as a scheduler does, and waits until it has; what it said.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn stop(mut self) -> String {
        // The field is only ever taken by what consumes the job.
        let server = self.server.take().expect("it runs");
        let said = server.stop();
        let _ = fs::remove_file(&self.published);
        said
    }
}

/// What runs the rest of a line as the user, at home, with nothing else in the
/// environment but what every user has.
fn as_user(user: &User, environment: &[(&str, &str)]) -> Vec<String> {
    let home = &user.home;
    let (uid, dir) = (home.uid(), home.path().display());
    let mut words = vec![
        require_tool("setpriv").display().to_string(),
        format!("--reuid={uid}"),
        format!("--regid={uid}"),
    ];
    words.extend(strings(&[
        "--clear-groups", "--pdeathsig=TERM", "--", "env",
    ]));
    words.extend([
        format!("--chdir={dir}"),
        format!("HOME={dir}"),
        format!("PATH={PATH}"),
    ]);
    words.extend(
        environment
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    words
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl Drop for Job {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        if std::thread::panicking() {
            eprintln!("the job said:\n{}", server.said());
        } else {
            // So that nothing writes into the home directory that goes next.
            server.stop();
        }
    }
}
