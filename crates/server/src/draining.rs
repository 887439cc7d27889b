//! What happens to waiting syncs when the server stops: they end at once, so that a restart need not wait for them.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use endpoint::Error;
use tokio::sync::watch;

/// Becomes true when the server stops; put into each request by the listener.
#[derive(Clone, Debug)]
pub struct Stopping(pub watch::Receiver<bool>);

/// Ends requests that wait for something to happen, once the server stops. Clients ask again by themselves.
pub async fn end_waiting(request: Request, next: Next) -> Response {
    let waits = request.uri().path().ends_with("/sync");
    let Some(Stopping(mut stopping)) = request.extensions().get::<Stopping>().filter(|_| waits).cloned() else {
        return next.run(request).await;
    };
    tokio::select! {
        biased;
        response = next.run(request) => response,
        // A listener that is gone is one that has stopped.
        _ = stopping.wait_for(|stopping| *stopping) => Error::unavailable("The server is restarting.").into_response(),
    }
}
