//! The house rules: documents that are true, bands that hold, files that stay small.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file under a folder.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(folder)];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !["target", "node_modules", ".git"].contains(&entry.file_name().to_str().unwrap_or("")) {
                    todo.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn rust() -> Vec<PathBuf> {
    files("src").into_iter().chain(files("tests")).filter(|p| p.extension().is_some_and(|e| e == "rs")).collect()
}

/// The crates that a member's manifest names of our own.
fn own_dependencies(member: &str) -> BTreeSet<String> {
    let manifest: toml::Table = read(format!("src/{member}/Cargo.toml")).parse().expect("TOML");
    let members = members();
    let of =
        |section: &str| manifest.get(section).and_then(|d| d.as_table()).map(|d| d.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    of("dependencies").into_iter().filter(|d| members.contains(d)).collect()
}

fn members() -> Vec<String> {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let list = manifest["workspace"]["members"].as_array().expect("members").clone();
    list.iter().map(|m| m.as_str().expect("a path").trim_start_matches("src/").to_owned()).collect()
}

const PURE: [&str; 7] = ["tokens", "ledger", "protocol", "accounts", "edge", "policy", "schema"];
/// Hands that the world band shares: no state, no port, one policy.
const SHARED: [&str; 2] = ["outbound", "whole"];
const WORLD: [&str; 4] = ["store", "web", "admin", "gateway"];

#[test]
fn the_bands_hold() {
    let known: BTreeSet<&str> = PURE.into_iter().chain(SHARED).chain(WORLD).collect();
    for member in members() {
        assert!(known.contains(member.as_str()), "{member} belongs to no band: say which in docs/ARCHITECTURE.md and here");
        let depends = own_dependencies(&member);
        for other in WORLD {
            assert!(!depends.contains(other), "{member} depends on {other}, a crate of the world band");
        }
    }
    for member in PURE {
        let manifest: toml::Table = read(format!("src/{member}/Cargo.toml")).parse().expect("TOML");
        let names: Vec<&String> = manifest["dependencies"].as_table().expect("dependencies").keys().collect();
        for impure in ["tokio", "hyper", "axum", "reqwest", "sqlx", "rusqlite", "redis", "tokio-rustls"] {
            assert!(!names.iter().any(|n| *n == impure), "{member} is pure and depends on {impure}");
        }
    }
}

#[test]
fn migrations_pair_up() {
    let names = |engine: &str| -> Vec<String> {
        files(&format!("migrations/{engine}")).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let sqlite = names("sqlite");
    assert!(!sqlite.is_empty());
    assert_eq!(sqlite, names("postgres"));
    for (n, name) in sqlite.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", n + 1)), "{name} is out of order");
    }
}

#[test]
fn the_configuration_manual_is_fresh() {
    let printed = Command::new(env!("CARGO_BIN_EXE_doorward")).arg("config-docs").output().expect("the binary runs");
    let printed = String::from_utf8(printed.stdout).expect("text");
    assert_eq!(read("docs/CONFIGURATION.md").trim(), printed.trim(), "run: doorward config-docs > docs/CONFIGURATION.md");
}

/// The words in backticks of a document that look like paths of this repository.
fn paths_of(document: &str) -> Vec<String> {
    let text = read(document);
    let tops = ["src/", "tests/", "docs/", "migrations/", "scripts/", "templates/", "benches/", ".ci/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|w| tops.iter().any(|t| w.starts_with(t)))
        .map(|w| w.split([' ', ':']).next().unwrap_or(w).to_owned())
        .collect()
}

#[test]
fn every_path_that_the_documents_name_exists() {
    for document in ["README.md", "docs/SPECS.md", "docs/ARCHITECTURE.md", "docs/THREATS.md"] {
        let paths = paths_of(document);
        assert!(!paths.is_empty() || document == "README.md", "{document} names no path");
        for path in paths {
            assert!(root().join(&path).exists(), "{document} names {path}, which is not there");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in files("docs").into_iter().chain([root().join("README.md")]).filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !link.starts_with('#') {
                let target = document.parent().unwrap().join(link.split('#').next().unwrap());
                assert!(target.exists(), "{} links to {link}", document.display());
            }
        }
    }
}

#[test]
fn every_decision_is_listed_once() {
    let index = read("docs/decisions/README.md");
    let mut numbers = BTreeSet::new();
    for path in files("docs/decisions") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "README.md" {
            assert!(index.contains(&format!("({name})")), "{name} is not in docs/decisions/README.md");
            assert!(numbers.insert(name[..4].to_owned()), "two decisions have the number of {name}");
        }
    }
}

#[test]
fn every_file_of_tests_is_part_of_the_suite() {
    let main = read("tests/suite/main.rs");
    let declared = |name: &str| main.lines().any(|line| line.trim() == format!("mod {name};"));
    for file in std::fs::read_dir(root().join("tests/suite")).expect("the suite") {
        let path = file.expect("a file").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(name == "main" || declared(&name), "tests/suite/{name} is in no test binary");
    }
    assert!(declared("faults") && main.contains("../faults/mod.rs"), "tests/faults is in no test binary");
}

#[test]
fn every_threat_names_a_test_that_exists() {
    let tests: BTreeSet<String> = rust()
        .iter()
        .flat_map(|p| {
            let text = std::fs::read_to_string(p).unwrap();
            text.lines()
                .filter_map(|l| {
                    l.trim()
                        .trim_start_matches("pub(super) ")
                        .trim_start_matches("async ")
                        .strip_prefix("fn ")?
                        .split('(')
                        .next()
                        .map(str::to_owned)
                })
                .collect::<Vec<_>>()
        })
        .collect();
    let threats = read("docs/THREATS.md");
    let mut rows = 0;
    for row in threats.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| attack") && !l.starts_with("| ---")) {
        let last = row.trim_end_matches([' ', '|']).rsplit('|').next().expect("a last column");
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).filter_map(|w| w.rsplit("::").next()).collect();
        assert!(!named.is_empty(), "no test in the row: {row}");
        for name in named {
            assert!(tests.contains(name), "THREATS names the test {name}, which is not there");
        }
        rows += 1;
    }
    assert!(rows >= 30, "{rows} threats");
}

#[test]
fn every_spec_row_names_its_tests() {
    let specs = read("docs/SPECS.md");
    let rows: Vec<&str> = specs.lines().filter(|l| l.starts_with("| ") && l.contains("tests/suite/")).collect();
    assert!(rows.len() >= 15, "{} specs", rows.len());
    for row in rows {
        assert!(row.contains("`src/"), "no decision file in: {row}");
    }
}

#[test]
fn source_files_stay_small_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for path in rust() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let lines = text.lines().count();
        if lines > 600 {
            wrong.push(format!("{name} has {lines} lines: which second thing moved in?"));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{name} does not begin by saying what it is"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_ignored_stubbed_or_unfinished() {
    let words = ["#[ign\u{6f}re", "tod\u{6f}!(", "unimplement\u{65}d!(", "FIXM\u{45}", "XX\u{58}"];
    for path in rust() {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in words {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
    }
}

#[test]
fn the_repository_speaks_only_of_itself() {
    let forbidden = ["/wor\u{6b}/", "/tm\u{70}/brief", "/roo\u{74}/", "docs.\u{72}s/-/"];
    for folder in ["src", "tests", "docs", "scripts", "migrations", "templates", "benches", ".ci"] {
        for path in files(folder) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for word in forbidden {
                assert!(!text.contains(word), "{word} in {}", path.display());
            }
        }
    }
}

#[test]
fn scripts_are_strict() {
    for path in files("scripts").into_iter().chain(files(".ci")) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.starts_with("#!") && text.lines().next().is_some_and(|l| l.contains("bash")) {
            assert!(text.contains("set -euo pipefail"), "{}", path.display());
        }
    }
}
