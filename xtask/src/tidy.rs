//! What the compiler does not check: module headers, sizes, banned words, layering, links.
//!
//! Each check is a function over one file or manifest that returns its complaints as text. Adding one
//! takes a few lines here and a call in [`check`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Lines of one file, tests in a file of their own not counted, beyond which it must be split.
const FILE_LINES_MAX: usize = 900;

/// Crates that own no clock, socket, file, thread or system randomness.
const PURE: [&str; 5] = ["mail", "rules", "smtp", "quota", "engine"];

/// What pure crates may use from outside, besides one another.
const PURE_DEPENDENCIES: [&str; 19] = [
    "aho-corasick",
    "annotate-snippets",
    "base64",
    "bytes",
    "encoding_rs",
    "hmac",
    "idna",
    "jiff",
    "mail-parser",
    "md-5",
    "memchr",
    "regex",
    "regex-syntax",
    "serde",
    "serde_json",
    "sha2",
    "smallvec",
    "thiserror",
    "toml",
];

/// Which crate of ours may use which: `mail` at the bottom, the program at the top.
const LAYERS: [(&str, &[&str]); 14] = [
    ("mail", &[]),
    ("rules", &["mail"]),
    ("smtp", &["mail"]),
    ("quota", &["mail", "rules"]),
    ("engine", &["mail", "rules", "smtp", "quota"]),
    ("store", &["mail", "quota", "engine"]),
    ("lab", &["mail"]),
    ("simulator", &["mail", "rules", "smtp", "quota", "engine", "store"]),
    ("node", &["mail", "rules", "smtp", "quota", "engine", "store"]),
    ("web", &["mail"]),
    ("deliverability", &["mail", "rules", "store", "web"]),
    ("control", &["mail", "rules", "quota", "engine", "store", "node", "web"]),
    (
        "cli",
        &[
            "mail",
            "rules",
            "smtp",
            "quota",
            "engine",
            "store",
            "node",
            "control",
            "deliverability",
            "web",
            "lab",
            "simulator",
        ],
    ),
    ("xtask", &[]),
];

/// All complaints about the tree below `workspace`.
pub fn check(workspace: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in files(workspace, "rs")? {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = relative(workspace, &file);
        faults.extend(rust_file(&name, &text));
    }
    for file in files(workspace, "md")? {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = relative(workspace, &file);
        faults.extend(markdown_file(workspace, &file, &name, &text));
    }
    faults.extend(layering(workspace)?);
    Ok(faults)
}

/// The name of a file as seen from the workspace.
fn relative(workspace: &Path, file: &Path) -> String {
    file.strip_prefix(workspace).unwrap_or(file).display().to_string()
}

/// All files with this ending, build folders and hidden ones left out.
fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ending)?);
        } else if path.extension().is_some_and(|have| have == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn rust_file(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let is_test = name.contains("/tests/") || name.ends_with("tests.rs");
    if !is_test && !text.trim_start().starts_with("//!") {
        faults.push(format!("{name}:1: a module begins with //! and what it promises"));
    }
    let lines = text.lines().count();
    if !is_test && lines > FILE_LINES_MAX {
        faults.push(format!("{name}: {lines} lines; split it (at most {FILE_LINES_MAX})"));
    }
    let mut in_tests = is_test || name.contains("/examples/") || name.contains("/benches/");
    for (number, line) in text.lines().enumerate() {
        in_tests |= line.trim() == "#[cfg(test)]";
        let at = number + 1;
        let code = line.split("//").next().unwrap_or_default();
        // Spelled in two halves so that this file does not accuse itself.
        for banned in [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!(")]
        {
            if code.contains(banned) {
                faults.push(format!("{name}:{at}: unfinished: {banned})"));
            }
        }
        for mark in [concat!("FIX", "ME"), concat!("XX", "X:")] {
            if line.contains(mark) {
                faults.push(format!("{name}:{at}: {mark} is no place to keep a plan"));
            }
        }
        if !in_tests && code.contains(concat!(".unw", "rap()")) {
            faults.push(format!(
                "{name}:{at}: unwrap outside tests; state the invariant with expect"
            ));
        }
        if !is_test && line.len() > 200 {
            faults.push(format!("{name}:{at}: {} octets in one line", line.len()));
        }
    }
    faults
}

/// Relative links lead somewhere; no path of somebody's machine.
fn markdown_file(workspace: &Path, file: &Path, name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = number + 1;
        for target in links(line) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let from = file.parent().unwrap_or(workspace);
            if !from.join(path).exists() {
                faults.push(format!("{name}:{at}: the link to {path} leads nowhere"));
            }
        }
        for machine in [concat!("/ro", "ot/"), concat!("/wo", "rk/")] {
            if line.contains(machine) {
                faults.push(format!("{name}:{at}: a path of one machine: {machine}"));
            }
        }
    }
    faults
}

/// The targets of `[text](target)` in a line.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// Who may depend on whom, read from the manifests.
fn layering(workspace: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let ours: BTreeSet<&str> = layers.keys().copied().filter(|name| *name != "xtask").collect();
    for (name, allowed) in &layers {
        let folder = if *name == "xtask" {
            workspace.join("xtask")
        } else {
            workspace.join("crates").join(name)
        };
        let manifest = folder.join("Cargo.toml");
        let text =
            std::fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let manifest: toml::Table = text.parse().with_context(|| name.to_string())?;
        let empty = toml::Table::new();
        let uses = manifest.get("dependencies").and_then(toml::Value::as_table).unwrap_or(&empty);
        for used in uses.keys() {
            if ours.contains(used.as_str()) {
                if !allowed.contains(&used.as_str()) {
                    faults.push(format!(
                        "crates/{name}: must not depend on {used} (ARCHITECTURE.md)"
                    ));
                }
            } else if PURE.contains(name) && !PURE_DEPENDENCIES.contains(&used.as_str()) {
                faults.push(format!("crates/{name} is pure and must not depend on {used}"));
            }
        }
    }
    let folders = std::fs::read_dir(workspace.join("crates"))?;
    for folder in folders {
        let name = folder?.file_name().to_string_lossy().into_owned();
        if !layers.contains_key(name.as_str()) {
            faults.push(format!("crates/{name} has no place in the layers"));
        }
    }
    Ok(faults)
}

/// The files that ARCHITECTURE.md names in backquotes and that are missing.
#[cfg(test)]
fn missing_files(workspace: &Path, text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| {
            let path_like = quoted.contains('/')
                && !quoted.contains([' ', '*', '<', ':', '@'])
                && !quoted.starts_with('/')
                && (quoted.ends_with(".rs") || quoted.ends_with(".toml") || quoted.ends_with('/'));
            path_like && !workspace.join(quoted).exists()
        })
        .map(str::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let faults = check(&crate::workspace()).unwrap();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn architecture_names_only_files_that_exist() {
        let workspace = crate::workspace();
        let text = std::fs::read_to_string(workspace.join("ARCHITECTURE.md")).unwrap();
        let missing = missing_files(&workspace, &text);
        assert!(missing.is_empty(), "ARCHITECTURE.md names missing files: {missing:?}");
        assert_eq!(missing_files(&workspace, "`crates/none/gone.rs`"), ["crates/none/gone.rs"]);
    }

    #[test]
    fn complaints_name_the_place() {
        let text = format!("fn a() {{\n    {}\n}}\n", concat!("to", "do!()"));
        let faults = rust_file("crates/x/src/a.rs", &text);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[1].starts_with("crates/x/src/a.rs:2:"));
        let unwrapped = rust_file("crates/x/src/b.rs", "//! B.\nfn b() { c().unwrap() }\n");
        assert_eq!(unwrapped.len(), 1, "{unwrapped:?}");
    }
}
