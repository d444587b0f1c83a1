//! The listeners of a node's HTTP API.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use node::config::HttpConfig;
use node::intake::Intake;
use node::node::Questions;
use tokio_util::sync::CancellationToken;
use web::Listeners;

use crate::access::Access;
use crate::app::App;
use crate::routes::router;

/// The HTTP listeners of a node, bound and not yet serving.
pub struct HttpServer {
    listeners: Listeners,
    config: HttpConfig,
    intake: Intake,
    questions: Questions,
}

impl HttpServer {
    /// Binds all addresses of the configuration. Without any, [`HttpServer::run`] only waits for the shutdown.
    ///
    /// # Errors
    /// An address cannot be bound (the error names it), or lies beyond loopback while there is no token.
    pub fn bind(config: &HttpConfig, intake: Intake, questions: Questions) -> io::Result<Self> {
        let open = config.listen.iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = open.filter(|_| config.tokens.is_empty()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot listen for HTTP on {address} without tokens: state them in [http]"),
            ));
        }
        let listeners = Listeners::bind(&config.listen, "[http]")?;
        Ok(Self { listeners, config: config.clone(), intake, questions })
    }

    /// The addresses that are bound, with the ports that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.local_addresses()
    }

    /// Serves until `shutdown`; then finishes the requests that are under way, for at most 30 seconds.
    ///
    /// # Errors
    /// The system does not let the listeners be used.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let app = Arc::new(App::new(self.intake, self.questions, shutdown.clone()));
        let router = router(app, &Arc::new(Access::new(&self.config)));
        self.listeners.run(router, shutdown).await
    }
}
