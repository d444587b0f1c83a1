//! `mailweir deliverability keygen`

use std::path::PathBuf;

use clap::Args;
use node::deliverability::keys::{SigningKey, write_new};
use serde::Serialize;

use super::{beside, broken};
use crate::exit::{Ended, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};

#[derive(Debug, Args)]
pub(super) struct KeygenArguments {
    /// The file of the private key; the public one is written beside it, with the ending .pub
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The private key that the new one replaces: it signs a statement, written with the ending
    /// .statement, that bundles carry from then on
    #[arg(long, value_name = "FILE")]
    replaces: Option<PathBuf>,
}

/// What `deliverability keygen --format json` answers.
#[derive(Serialize)]
struct Made {
    key: String,
    public_key: String,
    files: Vec<PathBuf>,
}

pub(super) fn run(globals: &Globals, arguments: &KeygenArguments) -> Ended {
    let old = arguments.replaces.as_deref().map(SigningKey::read).transpose().map_err(broken)?;
    let key = SigningKey::generate().map_err(broken)?;
    let public = key.public();
    key.write(&arguments.file).map_err(broken)?;
    let mut files = vec![arguments.file.clone(), beside(&arguments.file, ".pub")];
    write_new(&files[1], &format!("{public}\n"), 0o644).map_err(broken)?;
    if let Some(old) = old {
        let statement = beside(&arguments.file, ".statement");
        let line = serde_json::to_string(&old.replaced_by(public)).map_err(broken)?;
        write_new(&statement, &format!("{line}\n"), 0o644).map_err(broken)?;
        files.push(statement);
    }
    if globals.json() {
        let (key, public_key) = (public.id().to_string(), public.to_string());
        print_json(&Made { key, public_key, files })?;
        return Ok(Outcome::Fine);
    }
    let mut words = format!(
        "key {}\n\nprivate  {}  (keep it safe: without it no client follows a new bundle)\npublic   {}\n",
        public.id(),
        files[0].display(),
        files[1].display(),
    );
    if let Some(statement) = files.get(2) {
        words += &format!(
            "signed   {}  (publish it with every bundle: --statement)\n",
            statement.display()
        );
    }
    words += &format!(
        "\nclients need in their configuration:\n\n[deliverability]\npublic_keys = [\"{public}\"]\n"
    );
    print(&words)?;
    Ok(Outcome::Fine)
}
