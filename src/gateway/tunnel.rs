//! WebSockets (RFC 6455): octets both ways until either side, the credential or the server ends them.
use std::{io, rc::Rc, task::Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use crate::{
    body::Held,
    bounds::Stay,
    framed::Busy,
    live::Lease,
    worker::{Entered, Worker},
};

/// WebSocket close frames, unmasked, as a server sends them: 1008 (policy violation), and 1001 (going away) when we end.
const ENDED: [u8; 4] = [0x88, 0x02, 0x03, 0xf0];
const GOING: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// How long saying so may take.
const FAREWELL: std::time::Duration = std::time::Duration::from_millis(200);

/// Joins the two sides once both have switched.
pub(crate) fn join(
    worker: &Rc<Worker>,
    (client, upstream): (OnUpgrade, OnUpgrade),
    lease: Option<Lease>,
    stay: Option<Stay>,
    counted: (Held, Option<Entered>, Busy),
) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        // At the upstream and among our connections for as long as it is open.
        let _counted = counted;
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(target: "gateway", %error, "WebSocket not switched"),
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        let over = ended(lease, stay);
        let shutdown = worker.shutdown.cancelled();
        let said = tokio::select! {
            _ = copy_bidirectional(&mut client, &mut upstream) => None,
            () = over => Some(ENDED),
            () = shutdown => Some(GOING),
        };
        if let Some(said) = said {
            farewell(&mut client, &said).await;
        }
        let _ = tokio::time::timeout(FAREWELL, upstream.shutdown()).await;
    });
}

/// When the credential ends, or the time the route gives; what is held until then is given back with this.
async fn ended(mut lease: Option<Lease>, mut stay: Option<Stay>) {
    std::future::poll_fn(|cx| {
        if lease.as_mut().is_some_and(|lease| lease.poll_over(cx).is_ready())
            || stay.as_mut().is_some_and(|stay| stay.poll_over(cx).is_ready())
        {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// Says why, if the client still listens, and closes.
async fn farewell(client: &mut (impl AsyncRead + AsyncWrite + Unpin), said: &[u8]) {
    let close = async {
        client.write_all(said).await?;
        client.shutdown().await?;
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(FAREWELL, close).await;
}
