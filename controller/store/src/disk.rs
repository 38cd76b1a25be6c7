//! The executor of database work.

use futures::future::BoxFuture;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::sync::Arc;

/// A piece of work.
pub type Piece<'a> = BoxFuture<'a, ()>;

/// Executes database work in place of tokio. A simulation completes each piece before anything else
/// happens, and lets some fail.
pub trait Disk: Debug + Send + Sync {
    /// Executes a piece completely, or not at all.
    fn carry_out<'a>(&'a self, piece: Piece<'a>) -> BoxFuture<'a, io::Result<()>>;
}

/// Executes a piece of work on this disk.
///
/// # Errors
/// When the disk refuses it.
pub async fn on_disk<T: Send>(disk: &Option<Arc<dyn Disk>>, work: impl Future<Output = T> + Send) -> io::Result<T> {
    match disk {
        None => Ok(work.await),
        Some(disk) => try_on(disk.as_ref(), work).await,
    }
}

/// The same; the disk may fail.
pub(crate) async fn ask<T: Send, E: From<sqlx::Error> + Send>(
    disk: &Option<Arc<dyn Disk>>,
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, E> {
    on_disk(disk, work).await.unwrap_or_else(|error| Err(sqlx::Error::Io(error).into()))
}

async fn try_on<T: Send>(disk: &dyn Disk, work: impl Future<Output = T> + Send) -> io::Result<T> {
    let mut done = None;
    disk.carry_out(Box::pin(async { done = Some(work.await) })).await?;
    done.ok_or_else(|| io::ErrorKind::Interrupted.into())
}
