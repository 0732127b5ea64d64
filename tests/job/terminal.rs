//! Under a terminal: the app has the foreground, keys reach it alone, and it can
//! be stopped and continued as any program of a shell.

use std::fs;

use crate::setup::Node;

/// Drives a shell in a pseudo-terminal by what it shows.
const DRIVER: &str = r#"
import os, pty, select, sys, time
child, terminal = pty.fork()
if child == 0:
    if sys.argv[2:]: os.execvp(sys.argv[2], sys.argv[2:])
    os.environ["HISTFILE"] = ""
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
seen = b""
def expect(text, start=0):
    global seen
    deadline = time.time() + 30
    while text.encode() not in seen[start:]:
        if time.time() > deadline:
            sys.exit("not seen: %r in %r" % (text, seen))
        if select.select([terminal], [], [], 0.1)[0]:
            try: seen += os.read(terminal, 4096)
            except OSError: sys.exit("ended early: %r" % seen)
    return len(seen)
def type(text): os.write(terminal, text.encode())
if not sys.argv[2:]:
    type("PS1='$ '; echo rea''dy\n")
    expect("ready")
mark = 0
for number, line in enumerate(open(sys.argv[1]).read().splitlines()):
    kind, _, text = line.partition(" ")
    if kind == "type": mark = len(seen); type(text.replace("\\n", "\n").replace("^C", "\x03").replace("^D", "\x04").replace("^Z", "\x1a"))
    else: expect(text, mark)
print("all seen")
"#;

/// How `ood-job` is started.
#[derive(Clone, Copy)]
enum Start {
    /// By a line of a shell, with this behind it.
    Shell(&'static str),
    /// By the terminal's own first process, which no shell stands above.
    Alone,
}

fn drive(flags: &str, app: &str, steps: &[&str]) {
    drive_started(Start::Shell(""), flags, app, steps);
}

fn drive_started(start: Start, flags: &str, app: &str, steps: &[&str]) {
    let node = Node::new();
    let alice = node.user();
    let script = alice.home.join("app.py");
    fs::write(&script, app).unwrap();
    let command = format!(
        "{} run {flags} -- python3 {}",
        alice.program().display(),
        script.display()
    );
    let (typed, direct) = match start {
        Start::Shell(rest) => (Some(format!("type {command}{rest}\\n")), ""),
        Start::Alone => (None, command.as_str()),
    };
    let mut lines: Vec<&str> = typed.iter().map(String::as_str).collect();
    lines.extend(steps);
    let file = alice.home.join("steps");
    fs::write(&file, lines.join("\n")).unwrap();
    let outcome = alice
        .run("python3")
        .args(["-c", DRIVER])
        .args([&file])
        .args(direct.split_whitespace())
        .output();
    assert!(outcome.stdout.contains("all seen"), "{outcome}");
}

const FLAGS: [&str; 2] = ["--outbound none", "--outbound none --no-pidns"];

#[test]
fn control_c_reaches_the_app_once_and_the_shell_gets_its_exit_code() {
    let app = r#"
import os, signal, sys, time
count = 0
def stop(*_):
    global count
    count += 1
    os.write(1, b"inter" + b"rupted %d\n" % count)
    time.sleep(0.3)
    sys.exit(9 + count)
signal.signal(signal.SIGINT, stop)
os.write(1, b"app " + b"is up\n")
# Not pause(), which would not return for a signal just before it.
while True: time.sleep(0.05)
"#;
    for flags in FLAGS {
        drive(
            flags,
            app,
            &[
                "see app is up", "type ^C", "see interrupted 1", "type echo code=$?\\n",
                "see code=10",
            ],
        );
    }
}

#[test]
fn it_reads_what_is_typed() {
    let app = "print('app ' + 'asks', flush=True)\nprint('got <' + input() + '>', flush=True)\n";
    for flags in FLAGS {
        drive(
            flags,
            app,
            &["see app asks", "type hello\\n", "see got <hello>", "see $ "],
        );
    }
}

#[test]
fn control_z_gives_the_shell_its_turn_and_fg_takes_it_back() {
    let app = "print('app ' + 'is up', flush=True)\nwhile True: print('got <' + input() + '>', flush=True)\n";
    for flags in FLAGS {
        drive(
            flags,
            app,
            &[
                "see app is up", "type ^Z", "see Stopped", "type echo the shell''s turn\\n",
                "see the shells turn", "type fg\\n", "see run", "type back again\\n",
                "see got <back again>", "type ^Z", "see Stopped", "type fg\\n", "see run",
                "type twice\\n", "see got <twice>", "type ^D", "see EOFError", "see $ ",
            ],
        );
    }
}

/// Reads lines until there are no more.
const READER: &str =
    "print('app ' + 'is up', flush=True)\nwhile True: print('got <' + input() + '>', flush=True)\n";

#[test]
fn control_z_stops_nothing_where_nobody_could_let_it_go_on() {
    for flags in FLAGS {
        drive_started(
            Start::Alone,
            flags,
            READER,
            &[
                "see app is up", "type ^Z", "type goes on\\n", "see got <goes on>", "type ^Z",
                "type and on\\n", "see got <and on>",
            ],
        );
    }
}

#[test]
fn control_z_stops_what_it_is_piped_into_as_well() {
    for flags in FLAGS {
        drive_started(
            Start::Shell(" | cat"),
            flags,
            READER,
            &[
                "see app is up", "type ^Z", "see Stopped", "type echo the shell''s turn\\n",
                "see the shells turn", "type fg\\n", "see run", "type back again\\n",
                "see got <back again>", "type ^D", "see EOFError", "see $ ",
            ],
        );
    }
}

#[test]
fn from_the_background_it_reads_once_fg_brings_it_to_the_front() {
    for flags in FLAGS {
        drive_started(
            Start::Shell(" &"),
            flags,
            READER,
            &[
                "see app is up",
                "type until jobs | grep Stop''ped; do sleep 0.05; done\\n",
                "see Stopped",
                "type fg\\n",
                "see run",
                "type hello\\n",
                "see got <hello>",
                "type ^Z",
                "see Stopped",
                "type fg\\n",
                "see run",
                "type again\\n",
                "see got <again>",
                "type ^D",
                "see EOFError",
                "see $ ",
            ],
        );
    }
}

#[test]
fn who_has_the_foreground_by_then_keeps_it_when_the_app_ends() {
    // Stops `ood-job` alone, two above it, and ends when a file appears.
    let app = r#"
import os, signal, time
above = lambda pid: int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
print("app " + "is up", flush=True)
os.kill(above(os.getppid()), signal.SIGSTOP)
while not os.path.exists("go"): time.sleep(0.02)
"#;
    drive(
        "--outbound none --no-pidns",
        app,
        &[
            "see app is up",
            "see Stopped",
            "type bg\\n",
            "see run",
            // It must wait at its prompt when the app ends.
            "type set -b; (sleep 0.5; touch go) & disown\\n",
            "see Done",
            "type echo the shell''s still\\n",
            "see the shells still",
        ],
    );
}
