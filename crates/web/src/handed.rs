//! The body of an answer of which somebody is to know that it went out whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Octets that are handed over at a time.
const PIECE: usize = 16 << 10;

/// What is done before the last piece goes out.
type Last = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Octets that the connection takes piece by piece. What is to be noted of a whole answer is done when all pieces but
/// the last were taken, and the last one waits for it: so nobody can speak of what he has got before it is noted, and a
/// client that goes away half way, or asks for the head alone (HEAD), is not counted.
pub struct Handed {
    octets: Bytes,
    last: Option<Last>,
}

impl Handed {
    /// A body of these octets; `last` is done before the last piece of them goes out. Where it fails the connection is
    /// cut, so that the client asks again.
    pub fn body<F: Into<BoxError> + 'static>(
        octets: Bytes,
        last: impl Future<Output = Result<(), F>> + Send + 'static,
    ) -> Body {
        let last = async move { last.await.map_err(Into::into) };
        Body::new(Self { octets, last: Some(Box::pin(last)) })
    }
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.octets.len() > PIECE {
            let piece = self.octets.split_to(PIECE);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(last) = self.last.as_mut() {
            let done = ready!(last.as_mut().poll(context));
            self.last = None;
            if let Err(fault) = done {
                self.octets = Bytes::new();
                return Poll::Ready(Some(Err(fault)));
            }
        }
        let rest = core::mem::take(&mut self.octets);
        Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))))
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_empty() && self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_noted_before_the_last_piece_and_not_sooner() {
        for (octets, pieces) in [(0, 0), (1, 1), (PIECE, 1), (PIECE + 1, 2), (3 * PIECE, 3)] {
            let told = Arc::new(AtomicUsize::new(0));
            let telling = Arc::clone(&told);
            let noted = async move {
                telling.fetch_add(1, Ordering::AcqRel);
                Ok::<(), Infallible>(())
            };
            let mut body = Handed::body(Bytes::from(vec![7; octets]), noted);
            assert_eq!(body.size_hint().exact(), Some(octets as u64));
            let mut taken = 0;
            for piece in 1..=pieces {
                taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
                let is_last = usize::from(piece == pieces);
                assert_eq!(told.load(Ordering::Acquire), is_last, "{octets}: piece {piece}");
            }
            assert_eq!(taken, octets);
            assert!(body.frame().await.is_none() && told.load(Ordering::Acquire) == 1);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_noted_is_not_sent_whole() {
        let failing = async { Err::<(), _>("a full disk") };
        let mut body = Handed::body(Bytes::from(vec![7; PIECE + 1]), failing);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.is_end_stream());
    }
}
