//! The C programs, each in every way it can be built and watched.

use ca_core::{Certificate, Kind};

use crate::build::{AS_CPP, Place, Program, VARIANTS, Watch};

const ALL: &[Watch] = &[Watch::Nobody, Watch::Sanitizers, Watch::Valgrind];

/// Builds `tests/ffi/<name>.c` in every way and runs it in a home of its own.
fn run_all(name: &str, watches: &[Watch], args: impl Fn(&Place) -> Vec<String>) {
    for variant in VARIANTS {
        for watch in watches {
            let program = Program::build(&format!("ffi/{name}.c"), *variant, *watch);
            let place = Place::new().with_request();
            let mut all = vec![place.path().display().to_string()];
            all.extend(args(&place));
            let outcome = program.run(&all);
            assert!(
                outcome.status.success(),
                "{name} {variant:?} {watch:?}: {outcome}"
            );
            assert!(
                outcome.stdout.ends_with(" checks\n"),
                "{name} {variant:?} {watch:?}: {outcome}"
            );
        }
    }
}

fn none(_: &Place) -> Vec<String> {
    Vec::new()
}

#[test]
fn every_function_does_what_the_header_says() {
    run_all("abi", ALL, none);
}

#[test]
fn wrong_calls_are_refused_and_harm_nothing() {
    run_all("misuse", ALL, none);
}

#[test]
fn a_freed_handle_is_refused() {
    // What C promises nothing about is not shown to those who watch for it.
    run_all("misuse", &[Watch::Nobody], |_| vec!["freed".into()]);
}

#[test]
fn threads_share_a_handle_while_the_authority_is_rotated() {
    let with = |each: &'static str| {
        move |place: &Place| {
            let rotate = format!("{} rotate --prepare >&2", place.ood_ca());
            vec![each.to_owned(), rotate]
        }
    };
    run_all("threads", &[Watch::Nobody, Watch::Sanitizers], with("100"));
    run_all("threads", &[Watch::Valgrind], with("4"));
}

#[test]
fn a_forked_process_uses_and_frees_what_it_inherits() {
    run_all("fork", ALL, none);
}

#[test]
fn forks_while_other_threads_issue_do_not_hang() {
    // AddressSanitizer's own locks are not made for such a fork.
    run_all("fork", &[Watch::Nobody], |_| vec!["40".into()]);
    run_all("fork", &[Watch::ValgrindButLeaks], |_| vec!["4".into()]);
}

#[test]
fn an_open_handle_follows_a_rotation() {
    run_all("rotation", ALL, |place| vec![place.ood_ca()]);
}

#[test]
fn the_programs_are_cpp_too() {
    for variant in AS_CPP {
        for name in ["abi", "misuse"] {
            let program = Program::build(&format!("ffi/{name}.c"), *variant, Watch::Nobody);
            let place = Place::new().with_request();
            program.run(&[place.path()]).assert_ok();
        }
    }
}

#[test]
fn who_watches_for_leaks_sees_one() {
    for (watch, code, says) in [
        (Watch::Sanitizers, 1, "LeakSanitizer"),
        (Watch::Valgrind, 99, "definitely lost"),
    ] {
        for variant in VARIANTS {
            let program = Program::build("ffi/leak.c", *variant, watch);
            let outcome = program.run(&[Place::new().path()]);
            assert_eq!(
                outcome.code(),
                Some(code),
                "{variant:?} {watch:?} {outcome}"
            );
            assert!(outcome.stderr.contains(says), "{variant:?} {outcome}");
        }
    }
}

#[test]
fn the_example_prints_a_certificate() {
    for variant in VARIANTS {
        for watch in ALL {
            let program = Program::build("../ffi/examples/issue.c", *variant, *watch);
            let place = Place::new();
            let pki = place.join("pki").display().to_string();
            let said = program
                .run(&["--pki-dir", &pki, "n001.cluster.example", "10.0.0.5"])
                .assert_ok();
            let leaf = Certificate::from_pem(said.stdout.as_bytes()).unwrap();
            assert_eq!(leaf.kind(), Kind::Server);
            let names = ["n001.cluster.example", "10-0-0-5.ip.ood.internal"];
            assert_eq!(leaf.dns_names(), names);
            assert!(said.stderr.contains(&leaf.serial().to_string()), "{said}");

            let refused = program.run(&["--pki-dir", &pki, "n001;rm"]);
            assert_eq!(refused.code(), Some(1), "{refused}");
            assert!(refused.stderr.contains("hint: use letters"), "{refused}");
        }
    }
}
