//! A conversation with the proxy, as [`alize_model::control`] has it.

use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use alize_model::control::{FromProxy, Hello, ToProxy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// The longest answer: counters of 10,000 services.
const LONGEST: u64 = 256 << 20;
/// How long a proxy may take to say who it is.
const GREETING: Duration = Duration::from_secs(2);

/// Why a conversation broke off, or did not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The program does not run.
    #[error("cannot start {program}: {source}; check that it is there and executable")]
    Start { program: String, source: io::Error },
    /// It ended before it could be asked.
    #[error("it ended at once, with {0}; its log says why")]
    Ended(ExitStatus),
    /// It cannot be asked.
    #[error("it does not listen on its control socket; its log says why")]
    Silent,
    /// Nothing more comes from it.
    #[error("it ended")]
    Gone,
    /// It does not answer.
    #[error("it did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// It does not say what it should.
    #[error("it answered something else than it was asked; check that agent and proxy are of one version")]
    Confused,
    /// The socket broke.
    #[error("the connection to it broke: {0}")]
    Broken(#[from] io::Error),
}

pub(crate) struct Link {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Link {
    /// Connects, and hears who answers.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Hello), Problem> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let mut link = Self { reader: BufReader::with_capacity(4096, reader), writer };
        match timeout(GREETING, link.hear()).await.map_err(|_| Problem::Slow(GREETING))?? {
            FromProxy::Hello(hello) => Ok((link, hello)),
            _ => Err(Problem::Confused),
        }
    }

    pub(crate) async fn say(&mut self, word: &ToProxy) -> Result<(), Problem> {
        let mut line = serde_json::to_vec(word).map_err(io::Error::other)?;
        line.push(b'\n');
        Ok(self.writer.write_all(&line).await?)
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, word: &ToProxy, patience: Duration) -> Result<FromProxy, Problem> {
        let asked = async {
            self.say(word).await?;
            self.hear().await
        };
        timeout(patience, asked).await.map_err(|_| Problem::Slow(patience))?
    }

    async fn hear(&mut self) -> Result<FromProxy, Problem> {
        let mut line = Vec::new();
        (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line).await?;
        match line.last() {
            Some(b'\n') => serde_json::from_slice(&line).map_err(|_| Problem::Confused),
            _ => Err(Problem::Gone),
        }
    }

    /// Returns when the proxy ends, or says something unasked.
    pub(crate) async fn ended(&mut self) -> Problem {
        match self.reader.fill_buf().await {
            Ok([]) => Problem::Gone,
            Ok(_) => Problem::Confused,
            Err(error) => Problem::Broken(error),
        }
    }
}
