//! Who gets in.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::job::{HOST, Job, PORT, User};

#[test]
fn the_owners_web_server_gets_in_and_nobody_else() {
    let alice = User::new();
    let job = Job::ready(&alice, "");
    assert_eq!(job.port, PORT);
    assert_eq!(alice.ask("/", &[])["uid"], alice.home.uid());

    let bob = User::new();
    bob.home.ood_ca("init").assert_ok();
    let out = alice.home.dir("other");
    let issue = format!("issue --host {HOST} --out {}", out.display());
    alice.home.ood_ca(&issue).assert_ok();
    let of = |user: &User, name: &str| {
        let pki = user.home.pki();
        (
            pki.join(format!("{name}.crt")),
            pki.join(format!("{name}.key")),
        )
    };
    let bobs = of(&bob, "client");
    let server = (out.join("server.crt"), out.join("server.key"));
    let url = format!("https://{HOST}:{PORT}/");
    for (who, client) in [
        ("another user's web server", Some(&bobs)),
        ("nobody's", None),
        ("a job's leaf of the owner", Some(&server)),
    ] {
        let client = client.map(|(c, k)| (c.as_path(), k.as_path()));
        let said = alice.request(client, &[&url]);
        assert!(!said.status.success(), "{who} got in: {said}");
        assert_eq!(said.stdout, "", "{who} was answered: {said}");
        // The handshake or what follows it at once: no answer, no refusal in HTTP.
        assert!(
            matches!(said.code(), Some(35 | 52 | 55 | 56)),
            "{who}: {said}"
        );
    }
    // Nor without TLS.
    let said = alice.request(None, &[&format!("http://{HOST}:{PORT}/")]);
    assert!(!said.stdout.contains("uid"), "{said}");
    drop(job);
}

#[test]
fn the_web_server_knows_whom_it_talks_to() {
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    let pki = alice.home.pki();
    let (certificate, key) = (pki.join("client.crt"), pki.join("client.key"));
    let client = Some((certificate.as_path(), key.as_path()));
    // curl's 60: not the certificate that was expected.
    let other = format!("n002.cluster.example:{PORT}:127.0.0.1");
    let url = format!("https://n002.cluster.example:{PORT}/");
    let said = alice.request(client, &["--resolve", &other, &url]);
    assert_eq!(said.code(), Some(60), "{said}");
    // Old TLS is not spoken.
    let url = format!("https://{HOST}:{PORT}/");
    let said = alice.request(client, &["--tls-max", "1.2", &url]);
    assert_eq!(said.code(), Some(35), "{said}");
}

#[test]
fn whoever_connects_and_says_nothing_is_not_waited_for() {
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    let mut silent = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    // Twice what the end waits for.
    silent
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // Closed with or without a word, and not left open.
    let mut said = [0; 64];
    let ended = loop {
        match silent.read(&mut said) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    assert!(ended.is_ok(), "{ended:?}");
}

#[test]
fn a_trace_of_the_job_script_shows_no_key_and_no_value_of_a_header() {
    let alice = User::new();
    let code = format!(
        "name=X-Token value=hidden-$((6*7)); set -ax\n\
         give () {{ {{ set +x; }} 2>/dev/null; add_caddy_header \"$name\" \"$value\"; set -x; }}\n\
         give; MTLS_OUTBOUND=none start_mtls {PORT} {PORT} python3 -c 'pass'"
    );
    let ran = alice.shell(&code).output();
    assert!(ran.stderr.contains("+ give"), "nothing is traced: {ran}");
    for secret in ["PRIVATE KEY", "hidden-42"] {
        let shown = ran
            .stderr
            .replace("value='hidden-42'", "")
            .replace("value=hidden-42", "");
        assert!(!shown.contains(secret), "{secret}: {ran}");
    }
}
