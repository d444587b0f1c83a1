//! Faults of the node as problem documents.

use node::intake::IntakeFault;
use store::RefusedWrite;
use web::Problem;

/// A fault that a client is told as a problem document.
pub(crate) trait AsProblem {
    /// The document.
    fn problem(self) -> Problem;
}

impl AsProblem for IntakeFault {
    fn problem(self) -> Problem {
        match self {
            IntakeFault::Refused(refused) => refused.problem(),
            IntakeFault::Template(fault) => Problem::invalid(fault.to_string())
                .with("field", fault.part.to_string())
                .with("line", fault.line)
                .with("column", fault.column),
            IntakeFault::Invalid(why) => Problem::invalid(why),
            IntakeFault::Quarantined(why) => Problem::conflict("quarantined", why),
            IntakeFault::TryLater(_) | IntakeFault::NoRoom(_) => {
                Problem::try_later(self.to_string())
            }
        }
    }
}

impl AsProblem for RefusedWrite {
    fn problem(self) -> Problem {
        let detail = self.to_string();
        match self {
            RefusedWrite::UnknownDelivery(_)
            | RefusedWrite::UnknownText(_)
            | RefusedWrite::UnknownTask(_)
            | RefusedWrite::UnknownBundle(_) => Problem::not_found(detail),
            RefusedWrite::OtherBundle { .. } => Problem::conflict("other-bundle", detail),
            RefusedWrite::WrongState { .. } | RefusedWrite::WrongContent(_) => {
                Problem::conflict("wrong-state", detail)
            }
            RefusedWrite::NoContent(_) => Problem::conflict("no-content", detail),
            RefusedWrite::KeyReused => Problem::conflict("key-reused", detail),
            RefusedWrite::TooLarge { .. } => Problem::too_large(detail),
            RefusedWrite::BadOptions(_) | RefusedWrite::EmptyAddress { .. } => {
                Problem::invalid(detail)
            }
        }
    }
}
