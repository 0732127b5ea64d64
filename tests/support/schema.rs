//! Holds `--json` output to the schemas in `docs/json`, and the schemas to the
//! output: they must notice when it is not as they say.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tls::python_with;
use super::{Outcome, Run};

/// What commands printed, by the schema that it should obey.
#[derive(Debug)]
pub struct Documents {
    schemas: PathBuf,
    entries: Vec<Value>,
}

/// What the validator says.
#[derive(Debug)]
pub struct Verdict {
    /// Where output and schema disagree, or a schema says too little.
    pub problems: Vec<String>,
    /// What the schemas allow and no document showed.
    pub unseen: Vec<String>,
    /// How many changed documents were tried in vain.
    pub mutants: u64,
}

impl Documents {
    /// None yet; the schemas are those of this folder in `docs/json`.
    #[must_use]
    pub fn of(folder: &str) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        Documents {
            schemas: tests.parent().unwrap().join("docs/json").join(folder),
            entries: Vec::new(),
        }
    }

    /// Takes what a command printed: it must have ended with this exit code and
    /// have printed one object on one line.
    #[track_caller]
    pub fn take(&mut self, schema: &str, code: i32, outcome: &Outcome) -> Value {
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        let one_line = outcome.stdout.ends_with('\n') && outcome.stdout.lines().count() == 1;
        assert!(one_line, "not one object on one line: {outcome}");
        let document = outcome.json();
        if schema == "error" {
            let message = document["error"]["message"].as_str().unwrap_or_default();
            assert!(
                outcome.stderr.contains(&format!("error: {message}\n")),
                "{outcome}"
            );
        }
        self.add(schema, &outcome.command().to_string_lossy(), &document);
        document
    }

    /// Adds a document of other origin.
    pub fn add(&mut self, schema: &str, label: &str, document: &Value) {
        self.entries
            .push(json!({ "schema": schema, "label": label, "document": document }));
    }

    /// Holds all of them to their schemas.
    #[must_use]
    pub fn validate(&self) -> Verdict {
        let input = json!({ "schemas": self.schemas, "documents": self.entries });
        let outcome = Run::new(python_with("jsonschema"))
            .args(["-c", include_str!("schema.py")])
            .input(input.to_string().as_bytes())
            .output()
            .assert_ok();
        let verdict = outcome.json();
        let texts = |key: &str| {
            let all = verdict[key].as_array().unwrap().iter();
            all.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        Verdict {
            problems: texts("problems"),
            unseen: texts("unseen"),
            mutants: verdict["mutants"].as_u64().unwrap(),
        }
    }

    /// Every output is as its schema says, and every property, word and null
    /// that the schemas allow was seen in some output, but for those listed
    /// with a reason.
    #[track_caller]
    pub fn assert_all_as_said(&self, not_shown: &[(&str, &str)]) {
        let verdict = self.validate();
        let problems = &verdict.problems;
        assert!(
            problems.is_empty(),
            "{} problems:\n{}",
            problems.len(),
            problems.join("\n")
        );
        let listed: Vec<_> = not_shown.iter().map(|(what, _)| *what).collect();
        assert_eq!(
            verdict.unseen, listed,
            "left: what the schemas allow and no output showed"
        );
        let documents = self.entries.len() as u64;
        assert!(
            verdict.mutants > 15 * documents,
            "only {} mutants of {documents} documents",
            verdict.mutants
        );
    }
}
