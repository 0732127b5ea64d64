//! `ood-job` in jobs of a real Slurm: a controller, a node and two users that
//! nobody else sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ood_ca_tests::tls::Server;
use ood_ca_tests::{Account, Outcome, eventually, require_tool};

use crate::setup::{
    APP, ELSEWHERE, NODE, Node, PATIENCE, User, assert_all_gone, processes_of, session_files,
};

/// All of them use the machine's control groups, which know nothing of networks.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A cluster of one node. Its controller has the address of another host, as it
/// would have: what an app reaches there it can reach elsewhere.
struct Slurm<'a> {
    node: Option<Server>,
    controller: Option<Server>,
    munge: Option<Server>,
    user: &'a User<'a>,
    dir: PathBuf,
    account: Account,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Slurm<'a> {
    fn start(on: &'a Node, user: &'a User<'a>) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in [
            "munged", "slurmctld", "slurmd", "sbatch", "srun", "hostname",
        ] {
            require_tool(tool);
        }
        let account = Account::of(&user.home, on.path());
        let dir = on.path().join("slurm");
        for part in ["state", "spool", "munge"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let munge = start_munge(&dir.join("munge"));
        let conf = write_configuration(&dir);
        let start = |daemon: &str| {
            let words = ["-D", "-f", conf.to_str().unwrap()];
            Server::start(require_tool(daemon), words)
        };
        let controller = start("slurmctld");
        let node = start("slurmd");
        user.set("SLURM_CONF", conf.display().to_string());
        let slurm = Slurm {
            node: Some(node),
            controller: Some(controller),
            munge: Some(munge),
            user,
            dir,
            account,
            _alone: alone,
        };
        eventually("the node is idle", PATIENCE, || {
            let said = user.run("sinfo").args(["-h", "-o", "%T"]).output().stdout;
            (said.trim() == "idle").then_some(())
        });
        slurm
    }

    /// Runs a batch script to its end; what it said. Steps that it has given up
    /// may still run.
    fn batch(&self, script: &str) -> String {
        const END: &str = "the end of the script\n";
        self.submit(&format!("{script}\necho {END}")).assert_ok();
        eventually("the script ends", 3 * PATIENCE, || {
            let said = fs::read_to_string(self.output()).ok()?;
            said.strip_suffix(END).map(str::to_owned)
        })
    }

    /// Hands in a batch script.
    fn submit(&self, script: &str) -> Outcome {
        let program = self.user.program();
        let script = format!("#!/bin/bash\nood_job={}\n{script}", program.display());
        self.user
            .run("sbatch")
            .args(["--parsable", "--time=10", "--output"])
            .args([self.output()])
            .within(self.user.home.path())
            .input(script.as_bytes())
            .output()
    }

    /// So that nothing outlives the daemons, which would be asked for its end.
    fn end_jobs(&self) {
        let me = format!("--user={}", self.account.name);
        let cancel = self
            .user
            .run("scancel")
            .args([&*me, "--signal=KILL", "--full"]);
        drop(cancel.output());
        for _ in 0..100 {
            let left = self.user.run("squeue").args(["--noheader", &*me]).output();
            if left.stdout.trim().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn output(&self) -> PathBuf {
        self.user.home.join("batch.out")
    }
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        self.end_jobs();
        if std::thread::panicking() {
            for daemon in [&self.controller, &self.node] {
                eprintln!("{}", daemon.as_ref().map(Server::said).unwrap_or_default());
            }
            eprintln!("{}", fs::read_to_string(self.output()).unwrap_or_default());
            return;
        }
        // Each needs the next one to end well.
        for daemon in [&mut self.node, &mut self.controller, &mut self.munge] {
            drop(daemon.take().map(Server::stop));
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn start_munge(dir: &Path) -> Server {
    let at = |name: &str| dir.join(name).display().to_string();
    // Nobody else's secret, and nobody else believes it.
    fs::write(at("key"), [b'k'; 64]).unwrap();
    fs::set_permissions(at("key"), fs::Permissions::from_mode(0o400)).unwrap();
    let flags = [
        ("--key-file", "key"),
        ("--socket", "socket"),
        ("--pid-file", "pid"),
        ("--log-file", "log"),
        ("--seed-file", "seed"),
    ];
    let words = flags.map(|(flag, name)| format!("{flag}={}", at(name)));
    let words = ["--foreground".to_owned(), "--force".to_owned()]
        .into_iter()
        .chain(words);
    let mut munge = Server::start(require_tool("munged"), words);
    let socket = dir.join("socket");
    munge.expect("munged listens", |_| socket.exists().then_some(()));
    munge
}

/// `slurm.conf` and `cgroup.conf`, without anything of the system's own.
fn write_configuration(dir: &Path) -> PathBuf {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let host = host.split('.').next().unwrap();
    let at = dir.display();
    let conf = dir.join("slurm.conf");
    let text = format!(
        "ClusterName=test\n\
         SlurmctldHost={host}({ELSEWHERE})\n\
         SlurmUser=root\n\
         SlurmdUser=root\n\
         AuthType=auth/munge\n\
         AuthInfo=socket={at}/munge/socket\n\
         StateSaveLocation={at}/state\n\
         SlurmdSpoolDir={at}/spool\n\
         SlurmctldPidFile={at}/slurmctld.pid\n\
         SlurmdPidFile={at}/slurmd.pid\n\
         ProctrackType=proctrack/cgroup\n\
         TaskPlugin=task/none\n\
         JobAcctGatherType=jobacct_gather/none\n\
         AccountingStorageType=accounting_storage/none\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_Core\n\
         MpiDefault=none\n\
         ReturnToService=2\n\
         KillWait=2\n\
         SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1\n\
         NodeName={host} NodeAddr={NODE} CPUs=1\n\
         PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    );
    fs::write(&conf, text).unwrap();
    // Version 2 without systemd is what the tests of a container have.
    let cgroup = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"
    } else {
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
    };
    fs::write(dir.join("cgroup.conf"), cgroup).unwrap();
    conf
}

/// `srun` in an app that `ood-job run` runs with these flags, for so many seconds.
fn srun_inside(flags: &str, seconds: u32) -> String {
    format!(
        "echo '{flags}:' $($ood_job run {flags} -- timeout -s KILL {seconds} srun --overlap -n1 echo a step 2>/dev/null)\n"
    )
}

#[test]
fn srun_from_inside_needs_one_of_the_ways_out() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    alice.home.dir("own");
    let refused = [
        "--outbound pasta", "--outbound slirp4netns", "--outbound none",
    ];
    let works = ["--to unix:own/socket", "--network host --allow-unisolated"];
    let refused_all = refused.iter().map(|flags| srun_inside(flags, 3));
    let works_all = works.iter().map(|flags| srun_inside(flags, 50));
    let script: String = refused_all.chain(works_all).collect();
    let said = slurm.batch(&script);
    for flags in refused {
        assert!(said.contains(&format!("{flags}:\n")), "{said}");
    }
    for flags in works {
        assert!(said.contains(&format!("{flags}: a step\n")), "{said}");
    }
}

#[test]
fn what_only_asks_works_from_inside() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    let ask = "squeue --noheader --format=%i:%T --jobs $SLURM_JOB_ID; echo $SLURM_JOB_ID";
    for outbound in ["pasta", "slirp4netns"] {
        let said = slurm.batch(&format!(
            "$ood_job run --outbound {outbound} -- sh -c '{ask}'"
        ));
        let number = |line: &&str| line.parse::<u32>().is_ok();
        let id = said.lines().find(number).unwrap();
        assert!(said.contains(&format!("{id}:RUNNING")), "{said}");
    }
}

#[test]
fn an_app_is_a_step_and_its_exit_code_the_steps() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    let said = slurm.batch("srun -n1 $ood_job run -- sh -c 'exit 7'; echo code $?");
    assert!(said.contains("code 7"), "{said}");
}

/// Hands in a job with an app and waits until that is ready; the job's number.
fn app_in_a_job(slurm: &Slurm<'_>, how: &str) -> String {
    let home = &slurm.user.home;
    fs::write(home.join("app.py"), APP).unwrap();
    let script = format!("{how} $ood_job run --publish connection.json -- python3 app.py");
    let outcome = slurm.submit(&script).assert_ok();
    let published = home.join("connection.json");
    eventually("the app is published", PATIENCE, || {
        published.exists().then_some(())
    });
    assert!(!session_files(home).is_empty());
    outcome.stdout.trim().to_owned()
}

#[test]
fn a_cancelled_job_leaves_nothing_where_ood_job_is_told() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    // A batch script gets the signal, its children do not.
    let id = app_in_a_job(&slurm, "exec");
    alice.run("scancel").args([&id]).output().assert_ok();
    assert_all_gone(&alice, PATIENCE);
    assert!(!alice.home.join("connection.json").exists());
}

#[test]
fn of_a_job_that_is_killed_whole_the_next_command_prunes_the_record() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    for how in [&[][..], &["--signal=KILL", "--full"]] {
        let id = app_in_a_job(&slurm, "");
        alice
            .run("scancel")
            .args(how)
            .args([&id])
            .output()
            .assert_ok();
        eventually("its processes are gone", PATIENCE, || {
            processes_of(alice.uid()).is_empty().then_some(())
        });
        alice.ood_job(["sessions"]).output().assert_ok();
        assert_all_gone(&alice, Duration::ZERO);
        drop(fs::remove_file(alice.home.join("connection.json")));
    }
}

#[test]
fn only_slurms_clear_answer_ends_a_session_of_another_node() {
    let node = Node::new();
    let alice = node.user();
    let slurm = Slurm::start(&node, &alice);
    let register = "$ood_job register 40123 --host n9.cluster.test; sleep 600";
    let submitted = slurm.submit(register).assert_ok();
    let id = submitted.stdout.trim();
    eventually("it is registered", PATIENCE, || {
        (!session_files(&alice.home).is_empty()).then_some(())
    });
    let sessions = || {
        let run = alice.ood_job(["sessions", "--ask-scheduler"]);
        // What the user likes to see of the queue decides nothing.
        let run = run
            .env("SQUEUE_PARTITION", "none")
            .env("SQUEUE_STATES", "PD");
        run.output().assert_ok().stdout
    };
    let said = sessions();
    assert!(!said.contains("pruned"), "{said}");
    alice.run("scancel").args([id]).output().assert_ok();
    eventually("the job has ended", PATIENCE, || {
        sessions().contains("(job-gone)").then_some(())
    });
    assert!(session_files(&alice.home).is_empty());
}
