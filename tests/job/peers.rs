//! Programs of several processes that talk to each other, in a network of the
//! app's own.

use std::fs;
use std::path::PathBuf;

use nix::mount::{MsFlags, mount};
use ood_ca_tests::{Run, ood_job, require_tool};

use crate::setup::{Node, User};

/// With each way to the world there is another set of interfaces to choose from.
const NETWORKS: [&str; 3] = [
    "--outbound pasta", "--outbound slirp4netns", "--outbound none",
];

/// Its scheduler, its workers and their nannies are processes, with TCP between.
const DASK: &str = r#"
import os
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, local_directory=os.path.expanduser("~"), dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(2, timeout=60)
            squares = client.map(lambda n: n * n, range(100))
            print("sum", client.submit(sum, squares).result(timeout=60))
            print("processes", len({os.getpid(), *client.run(os.getpid).values()}), flush=True)
"#;

/// The Python of the environment in the target directory, which may be closed to
/// the user, where the node shows it.
fn python_with_dask(node: &Node) -> PathBuf {
    // <target>/<profile>/ood-job
    let venv = ood_job().ancestors().nth(2).unwrap().join("dask");
    assert!(
        venv.join("bin/dask").exists(),
        "this test needs Dask in {venv}; make it with: /usr/bin/python3 -m venv {venv} && \
         {venv}/bin/pip install distributed (scripts/test does that)",
        venv = venv.display()
    );
    let seen = node.path().join("dask");
    fs::create_dir(&seen).unwrap();
    let bind = MsFlags::MS_BIND;
    mount(Some(&venv), &seen, None::<&str>, bind, None::<&str>).unwrap();
    // It is not the node's to change, nor to remove with what is.
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, &seen, None::<&str>, read_only, None::<&str>).unwrap();
    seen.join("bin/python3")
}

/// Runs this in a network of its own; what it said.
fn run(user: &User<'_>, flags: &str, app: &[&str]) -> String {
    let words: Vec<&str> = flags.split(' ').chain(["--"]).collect();
    let mut job = user.start(&[&words, app].concat());
    assert_eq!(job.code(), 0, "{flags}: {}", job.said());
    job.said()
}

#[test]
fn dask_with_workers_that_are_processes() {
    let node = Node::new();
    let alice = node.user();
    let python = python_with_dask(&node);
    // Not in /tmp, where it would stay.
    let scratch = alice.home.dir("scratch").display().to_string();
    alice.set("DASK_TEMPORARY_DIRECTORY", scratch);
    let script = alice.home.join("cluster.py");
    fs::write(&script, DASK).unwrap();
    let app = [python.to_str().unwrap(), script.to_str().unwrap()];
    for flags in NETWORKS {
        let said = run(&alice, flags, &app);
        assert!(
            said.contains("sum 328350\nprocesses 3\n"),
            "{flags}: {said}"
        );
    }
}

/// Each adds its number, and all know the sum.
const MPI: &str = r#"
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int rank, size, mine, sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    mine = rank + 1;
    MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) printf("%d of %d\n", sum, size);
    return MPI_Finalize();
}
"#;

#[test]
fn open_mpi_over_shared_memory_and_over_loopback() {
    let node = Node::new();
    let alice = node.user();
    require_tool("mpirun.openmpi");
    let (source, program) = (node.path().join("sum.c"), node.path().join("sum"));
    fs::write(&source, MPI).unwrap();
    Run::new(require_tool("mpicc.openmpi"))
        .args([source.as_path(), "-o".as_ref(), program.as_path()])
        .output()
        .assert_ok();
    let program = program.to_str().unwrap();
    // Open MPI leaves loopback out unless it is told; then it is all there may be.
    for transport in [
        "--mca btl vader,self",
        "--mca btl tcp,self --mca btl_tcp_if_include lo",
    ] {
        let start = ["mpirun.openmpi", "--oversubscribe", "-n", "3"];
        let options: Vec<&str> = transport.split(' ').collect();
        let app = [&start, &*options, &[program]].concat();
        for flags in NETWORKS {
            let said = run(&alice, flags, &app);
            assert!(said.contains("6 of 3\n"), "{transport} {flags}: {said}");
        }
    }
}
