//! What a connection holds, and how much may come in on it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

/// What a connection holds for as long as it lasts, also when it has become a WebSocket.
#[derive(Debug)]
pub struct Held {
    pub allowance: Allowance,
    connections: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Held {
    /// Takes a place, and counts it.
    pub fn new(connections: Gauge, place: OwnedSemaphorePermit) -> Self {
        connections.inc();
        Self { allowance: Allowance::default(), connections, _place: place }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// How many bytes may still come in on a connection; without end, until somebody limits it.
///
/// A frame is gathered before it can be looked at: what somebody unknown may send bounds what they can have us hold.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicU64>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Allowance {
    /// So many bytes from here on.
    pub fn limit(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// As many as may come.
    pub fn lift(&self) {
        self.limit(u64::MAX);
    }

    /// Takes note of what came; `false` if that was too much.
    fn spend(&self, bytes: usize) -> bool {
        let spent = u64::try_from(bytes).unwrap_or(u64::MAX);
        let take = |left: u64| match left {
            u64::MAX => Some(left),
            left => left.checked_sub(spent),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A stream whose allowance is spent by what is read from it.
#[derive(Debug)]
pub struct Metered<S> {
    pub inner: S,
    pub allowance: Allowance,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let came = buf.filled().len().saturating_sub(before);
        match read {
            Poll::Ready(Ok(())) if !self.allowance.spend(came) => {
                Poll::Ready(Err(std::io::Error::other("more than somebody unknown may send")))
            }
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn stream_ends_when_its_allowance_is_spent_and_not_before() {
        let (mut theirs, ours) = tokio::io::duplex(1024);
        let allowance = Allowance::default();
        let mut ours = Metered { inner: ours, allowance: allowance.clone() };
        let mut buf = [0; 8];
        theirs.write_all(&[1; 8]).await.unwrap();
        ours.read_exact(&mut buf).await.unwrap();
        allowance.limit(8);
        theirs.write_all(&[1; 9]).await.unwrap();
        ours.read_exact(&mut buf).await.unwrap();
        assert!(ours.read_u8().await.is_err());
        allowance.lift();
        theirs.write_all(&[1; 9]).await.unwrap();
        ours.read_exact(&mut buf).await.unwrap();
    }
}
