//! Any octets as a file of rules of each kind, as a bundle, and as a query to a set compiled from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::id::SourceId;
use rules::bounce::{BounceRuleFile, BounceRules, Evidence};
use rules::bundle::Sealed;
use rules::reaction::{ReactionFile, ReactionRules};
use rules::recipient::{DomainRuleFile, FormatRuleFile, RecipientRules};
use rules::{Levels, RuleSet};

fuzz_target!(|octets: &[u8]| {
    let Some((kind, text)) = octets.split_first() else { return };
    match kind % 6 {
        0 => {
            if let Ok(file) = rules::parse("mx.toml", text) {
                let set = RuleSet::compile(&file, &Levels::default(), 1);
                let _ = set.find("mx1.provider.example", SourceId(1));
            }
        }
        1 => {
            if let Ok(file) = BounceRuleFile::parse("bounce.toml", text) {
                let evidence = Evidence::reply("550 5.1.1 user unknown", "mx.example");
                let _ = BounceRules::compile(&file).classify(&evidence);
            }
        }
        2 => {
            if let Ok(file) = ReactionFile::parse("reactions.toml", text) {
                let _ = ReactionRules::compile(&file);
            }
        }
        3 => {
            if let Ok(file) = DomainRuleFile::parse("domains.toml", text) {
                let _ = RecipientRules::compile(&file).find("mail.example.org");
            }
        }
        4 => {
            if let Ok(file) = FormatRuleFile::parse("formats.toml", text) {
                let _ = RecipientRules::compile(&file).find("mail.example.org");
            }
        }
        _ => {
            if let Ok(bundle) = Sealed::split(text) {
                let _ = bundle.contents();
            }
        }
    }
});
