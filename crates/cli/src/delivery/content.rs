//! The content of a delivery from files: HTML and text templates, or a whole message.

use std::path::{Path, PathBuf};

use clap::Args;
use node::prepare::{AddressSpec, ContentSpec, TemplateSpec, Unsubscribe};

use crate::exit::Failure;
use crate::globals::read_bounded;

/// What is sent.
#[derive(Clone, Debug, Default, Args)]
pub struct ContentArguments {
    /// Who it is from: an address, or Name <address>
    #[arg(long, value_name = "SENDER", required_unless_present = "eml")]
    from: Option<String>,
    /// The subject, a template
    #[arg(long, value_name = "TEXT", required_unless_present = "eml")]
    subject: Option<String>,
    /// The HTML body, a template: Dear {{ first_name }}
    #[arg(long, value_name = "FILE", required_unless_present_any = ["text", "eml"])]
    html: Option<PathBuf>,
    /// The text body, a template
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A complete message in place of --from, --subject, --html and --text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["html", "text", "from", "subject"])]
    eml: Option<PathBuf>,
    /// Where answers go: an address, or Name <address>
    #[arg(long, value_name = "ADDRESS", conflicts_with = "eml")]
    reply_to: Option<String>,
    /// The name shown with the recipient's address, a template: {{ first_name }} {{ last_name }}
    #[arg(long, value_name = "TEXT", conflicts_with = "eml")]
    to_name: Option<String>,
    /// Do not offer to unsubscribe: transactional mail
    #[arg(long, conflicts_with = "eml")]
    no_unsubscribe: bool,
}

impl ContentArguments {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, is not UTF-8, or is no message; an address has another form.
    pub fn read(&self) -> Result<ContentSpec, Failure> {
        if let Some(path) = &self.eml {
            return ContentSpec::from_eml(&read_bounded(path)?)
                .map_err(|fault| Failure::environment(format!("{}: {fault}", path.display())));
        }
        let address = |option: &str, text: &str| {
            address(text).map_err(|why| Failure::environment(format!("{option} {text:?}: {why}")))
        };
        let reply_to = self.reply_to.as_deref().map(|text| address("--reply-to", text));
        Ok(ContentSpec::Template(TemplateSpec {
            from: address("--from", self.from.as_deref().unwrap_or_default())?,
            reply_to: reply_to.transpose()?,
            to_name: self.to_name.clone().unwrap_or_default(),
            subject: self.subject.clone().unwrap_or_default(),
            html: self.html.as_deref().map(text_file).transpose()?,
            text: self.text.as_deref().map(text_file).transpose()?,
            unsubscribe: if self.no_unsubscribe { Unsubscribe::None } else { Unsubscribe::Managed },
            ..TemplateSpec::default()
        }))
    }
}

/// A file of UTF-8 text.
fn text_file(path: &Path) -> Result<String, Failure> {
    let octets = read_bounded(path)?;
    let octets = octets.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(octets);
    let text = String::from_utf8(octets).map_err(|fault| {
        let before = &fault.as_bytes()[..fault.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|octet| **octet == b'\n').count();
        Failure::environment(format!("{}:{line}: not UTF-8; save it as UTF-8", path.display()))
    })?;
    if text.trim().is_empty() {
        let words = format!("{} is empty; everybody would get an empty message", path.display());
        return Err(Failure::environment(words));
    }
    Ok(text)
}

/// `a@b`, `<a@b>`, `Name <a@b>` or `"Name, Inc." <a@b>`.
fn address(text: &str) -> Result<AddressSpec, String> {
    if text.chars().any(char::is_control) {
        return Err("it has control characters".to_owned());
    }
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => (name.trim(), address),
        None => ("", text),
    };
    let name = match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
    };
    let mailbox = mail::address::Mailbox::parse(address).map_err(|fault| fault.to_string())?;
    Ok(AddressSpec { name, address: mailbox.as_str().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_read() {
        for (text, wanted) in [
            ("a@example.com", Some(("", "a@example.com"))),
            ("<a@example.com>", Some(("", "a@example.com"))),
            ("Shop <news@example.com>", Some(("Shop", "news@example.com"))),
            (r#""Shop, \"The\"" <news@example.com>"#, Some(("Shop, \"The\"", "news@example.com"))),
            ("Shop <news@example.com", None),
            ("Shop", None),
            ("", None),
            ("Shop\r\nBcc: x@y <a@example.com>", None),
        ] {
            let read = address(text).ok();
            let read = read.as_ref().map(|one| (one.name.as_str(), one.address.as_str()));
            assert_eq!(read, wanted, "{text}");
        }
    }

    #[test]
    fn files_become_a_content() {
        let folder = tempfile::tempdir().unwrap();
        let html = folder.path().join("a.html");
        std::fs::write(&html, b"\xef\xbb\xbf<p>Dear {{ name }}</p>").unwrap();
        let arguments = ContentArguments {
            from: Some("Shop <news@example.com>".to_owned()),
            subject: Some("Hello".to_owned()),
            html: Some(html.clone()),
            ..ContentArguments::default()
        };
        let ContentSpec::Template(spec) = arguments.read().unwrap() else { panic!("a template") };
        assert_eq!(spec.html.as_deref(), Some("<p>Dear {{ name }}</p>"));
        std::fs::write(&html, b" \n").unwrap();
        let fault = arguments.read().unwrap_err().to_string();
        assert!(fault.contains("a.html is empty"), "{fault}");
        std::fs::write(&html, b"one\ntwo \xff").unwrap();
        let fault = arguments.read().unwrap_err().to_string();
        assert!(fault.contains("a.html:2: not UTF-8"), "{fault}");
    }
}
