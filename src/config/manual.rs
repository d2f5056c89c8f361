//! The manual page of the configuration, from the doc comments of its sections.
use std::fmt::Write as _;

use super::SECTIONS;

/// `docs/CONFIGURATION.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(HEAD);
    for section in SECTIONS {
        let _ = write!(out, "\n## [{}]\n\n{}\n\n", section.path, flow(section.about));
        out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let default = if key.default.is_empty() { "–".to_owned() } else { format!("`{}`", key.default) };
            let _ = writeln!(out, "| `{}` | {} | {default} | {} |", key.name, key.shape, flow(key.doc).replace('|', "\\|"));
        }
    }
    out
}

/// A doc comment's lines as one.
fn flow(doc: &str) -> String {
    doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

const HEAD: &str = "# Configuration

This page is generated from the source (`doorward config-docs`); a test keeps it fresh.

One TOML file, given as `--config FILE`. `doorward check --config FILE` says everything that is wrong with it, and where, at once.

- Every key can be set by an environment variable `DOORWARD_SECTION__KEY`, for example `DOORWARD_SERVER__PUBLIC_LISTEN` or
  `DOORWARD_SERVER__TLS__CERT_FILE`; it replaces what the file says. Lists are separated by commas.
- Durations are strings: `\"60s\"`, `\"10m\"`, `\"12h\"`, `\"30d\"`; the least is one second.
- Relative paths start at the folder of the configuration file.
- A secret can come from a file: the key with `_file` at its end. Giving both is a mistake.
- Unknown keys are mistakes.
- `SIGHUP` reads the file anew: certificates (new files or new contents of the same), `[lifetimes]`, `server.drain` and `server.drain_notice` change at once. A file
  with mistakes, or one that changes anything else, is refused as a whole with the reason in the log, and the old one stays active.
- One process at a time runs on an SQLite file: a second `serve`, and every command that writes (`bootstrap`, `seed`, `gc`, `keys rotate`,
  `keys revoke`, `restore`), is refused while it does. What only reads runs beside it: `check`, `audit verify`, `audit export`, `keys list`,
  `explain`, `backup`, `seed --plan`.
- The files of an SQLite database stay where they are while a process runs on them. Once one was removed, moved or replaced, nothing is served
  until a restart: what would be written then is in no file that the restart finds.
";
