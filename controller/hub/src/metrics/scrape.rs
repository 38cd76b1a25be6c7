//! Serves the metrics page on this computer.
//!
//! HTTP is hyper's. Few clients are served at once, each briefly; further ones are disconnected.

use crate::StartError;
use crate::lifecycle::Lifecycle;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::debug;

/// Maximum number of concurrent clients.
const ASKERS: usize = 8;

/// Timeout for each client.
const TIME: Duration = Duration::from_secs(10);

/// The longest request, bytes; hyper takes no less.
const REQUEST_BYTES: usize = 8 * 1024;

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// For older clients; the page is valid in this format too.
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Binds the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        return Err(StartError::MetricsOpen(address));
    }
    TcpListener::bind(address).await.map_err(|source| StartError::ListenMetrics { address, source })
}

/// Makes the page.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers until the hub stops.
pub(crate) async fn serve(page: Page, lifecycle: Lifecycle, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(ASKERS));
    loop {
        let asker = tokio::select! {
            biased;
            () = lifecycle.stop.cancelled() => return,
            asker = listener.accept() => asker,
        };
        match (asker, places.clone().try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                let (page, stop) = (page.clone(), lifecycle.stop.clone());
                lifecycle.tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        _ = tokio::time::timeout(TIME, converse(&page, stream)) => {}
                    }
                    drop(place);
                });
            }
            (Ok(_), Err(_)) => {}
            // Out of file descriptors: wait until some are free.
            (Err(error), _) => {
                debug!(%error, "a metrics connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(page: &Page, stream: TcpStream) {
    let answer = service_fn(|request| {
        let response = respond(page, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!(%error, "a metrics request failed");
    }
}

fn respond(page: &Page, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accepts = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let kind = if accepts.contains("application/openmetrics-text") { OPENMETRICS } else { PROMETHEUS };
    let (status, kind, body) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => (StatusCode::OK, kind, page()),
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Only GET.\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, PLAIN, "The metrics are at /metrics.\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
