//! Transcripts of the command, good and bad input: `tests/cmd/*.trycmd`.
//!
//! They run among the files of `cmd/files`. `TRYCMD=overwrite cargo test -p
//! pun-helper --test cli` writes the answers anew; look at the difference
//! before you commit it.
#![allow(missing_docs)]

#[test]
fn every_command_answers_as_its_transcript_says() {
    trycmd::TestCases::new()
        .register_bin(
            "pun-helper",
            std::path::Path::new(env!("CARGO_BIN_EXE_pun-helper")),
        )
        .env("OOD_CA_CONFIG", "")
        .case("tests/cmd/*.trycmd")
        .run();
}
