//! What came back and who was refused the second time, for people.

use super::again::Again;
use super::returns::CameBack;
use crate::output::{count, number, table};
use crate::rows::Rows;

/// What came back, by way, type and reason.
pub(crate) fn came_back(found: &CameBack, width: u16) -> String {
    let mut rows = table(&["Came back as", "Type", "Reason", ">Messages"]);
    for row in &found.rows {
        rows.add_row([
            row.came_as.to_owned(),
            row.failure_type.word().to_owned(),
            row.reason.map_or("-", |reason| reason.word()).to_owned(),
            number(row.count),
        ]);
    }
    titled("What came back: refusals in the session, and mail to the return path", rows, width)
}

/// Who was refused the second time, by state and reason.
pub(crate) fn again(found: &Again, width: u16) -> String {
    let mut rows = table(&["Same list again", "Reason", ">Recipients", ">Refused"]);
    for row in &found.rows {
        rows.add_row([
            row.state.word().to_owned(),
            row.reason.map_or("-", |reason| reason.word()).to_owned(),
            number(row.listed),
            number(row.refused),
        ]);
    }
    let listed = found.rows.iter().map(|row| row.listed).sum();
    rows.add_row([
        "all others".to_owned(),
        String::new(),
        number(found.offered.saturating_sub(listed)),
        number(found.refused.saturating_sub(found.rows.iter().map(|row| row.refused).sum())),
    ]);
    titled("The same list once more: who may not be written to any more", rows, width)
}

fn titled(title: &str, mut rows: Rows, width: u16) -> String {
    rows.set_width(width);
    format!("{title}\n{rows}\n\n")
}

/// Sentences about what came back.
pub(crate) fn about_returns(found: &CameBack) -> Vec<String> {
    let mut lines = vec![format!(
        "The receiving side sent back {}; read and matched: {}. Foreign: {}. Forged: {}. Kept aside for \
         people: {}.",
        count(found.sent_back, "mail"),
        number(found.matched),
        number(found.foreign),
        number(found.forged),
        number(found.other),
    )];
    if found.difference > 0 {
        lines.push(format!(
            "NOT UNDERSTOOD: in {} the record of the receiving side and ours differ; {} not taken by the listener.",
            count(found.difference, "mail"),
            number(found.not_taken),
        ));
    }
    if found.understood_otherwise > 0 {
        lines.push(format!(
            "{} for another reason than the receiving side had in mind.",
            were(found.understood_otherwise) + " understood",
        ));
    }
    let late = found.on_their_way + found.unread;
    if late > 0 {
        lines.push(format!("{} still on the way back.", count(late, "mail")));
    }
    lines
}

/// Sentences about the second delivery.
pub(crate) fn about_again(found: &Again) -> Vec<String> {
    let who = match found.difference {
        0 => "exactly those in quarantine or on the denylist",
        _ => "NOT those in quarantine or on the denylist",
    };
    let mut lines = vec![format!(
        "Of the same list {} accepted and {} refused at admission, {who}. Attempts to write to the refused, as \
         the receiving side saw them: {}. Of the accepted {} could be sent at once; the rest was cancelled.",
        were(found.accepted),
        were(found.refused),
        number(found.attempts_to_refused),
        number(found.sent),
    )];
    if found.difference > 0 {
        lines.push(format!(
            "WRONGLY ADMITTED OR REFUSED: {}.",
            count(found.difference, "recipient")
        ));
    }
    if found.attempts_to_refused > 0 {
        lines.push("WRITTEN TO ALTHOUGH REFUSED: see above.".to_owned());
    }
    lines
}

/// `1 was`, `2 were`.
fn were(recipients: u64) -> String {
    format!("{} {}", number(recipients), if recipients == 1 { "was" } else { "were" })
}
