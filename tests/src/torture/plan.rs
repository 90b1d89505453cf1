//! What one request is like, drawn by chance; both ends read it from the target.

use std::fmt;
use std::time::Duration;

/// How the endpoint ends the response, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Stay,
    /// It closes without an answer.
    DieBefore,
    /// It closes after half of the body.
    DieWithin,
    /// It closes after the response, without having said so.
    CloseAfter,
    /// It says `Connection: close`, and closes.
    CloseSaid,
}

/// How the response says where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Down {
    #[default]
    Length,
    Chunked,
    UntilClose,
}

/// What the client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Up {
    #[default]
    Nothing,
    Length(u64),
    Chunked(u64),
}

/// What the client does besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    /// Head and body in one piece.
    #[default]
    Whole,
    /// In pieces, cut anywhere.
    Pieces,
    /// Sends no more after the request.
    HalfClose,
    /// Reads two kilobytes at a time, with pauses.
    SlowReader,
    /// Gives up within the request.
    AbortRequest,
    /// Gives up when it has sent the request.
    AbortWaiting,
    /// Gives up at the first byte of the response.
    AbortResponse,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) nonce: u64,
    pub(super) head_only: bool,
    /// Where only the proxy decides.
    pub(super) proxied: bool,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) size: u64,
    pub(super) status: u16,
    pub(super) delay: Duration,
    /// The endpoint answers before it has read the body.
    pub(super) early: bool,
    pub(super) ending: Ending,
    pub(super) manner: Manner,
}

impl Plan {
    /// As endpoints need it.
    fn target(&self) -> String {
        let Self { nonce, size, status, .. } = self;
        let folder = if self.proxied { "p" } else { "t" };
        let (down, ending) = (self.down as u8, self.ending as u8);
        let (delay, early) = (self.delay.as_millis(), u8::from(self.early));
        format!("/{folder}/{nonce:x}?r={size}&f={down}&x={ending}&s={status}&d={delay}&e={early}")
    }

    /// Reads [`Self::target`]; the client's side of it stays what it is by default.
    pub(super) fn read(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?')?;
        let nonce = u64::from_str_radix(path.rsplit('/').next()?, 16).ok()?;
        let mut plan = Self { nonce, ..Self::default() };
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            let value: u64 = value.parse().ok()?;
            match name {
                "r" => plan.size = value,
                "f" => plan.down = [Down::Length, Down::Chunked, Down::UntilClose][value as usize % 3],
                "x" => {
                    use Ending::{CloseAfter, CloseSaid, DieBefore, DieWithin, Stay};
                    plan.ending = [Stay, DieBefore, DieWithin, CloseAfter, CloseSaid][value as usize % 5];
                }
                "s" => plan.status = value as u16,
                "d" => plan.delay = Duration::from_millis(value),
                "e" => plan.early = value == 1,
                _ => return None,
            }
        }
        Some(plan)
    }

    /// Draws one.
    pub(super) fn draw(nonce: u64, random: &mut fastrand::Rng) -> Self {
        let plain = Self {
            nonce,
            status: 200,
            size: random.u64(..2000),
            proxied: random.u8(..) < 16,
            ..Self::default()
        };
        let large = |random: &mut fastrand::Rng| 2_f64.powf(random.f64() * 23.25) as u64;
        match random.u16(..1000) {
            0..590 => plain,
            590..680 => Self { size: random.u64(..66_000), ..plain },
            680..705 => Self { size: large(random), ..plain },
            705..785 => Self { up: Up::Length(random.u64(..3000)), ..plain },
            785..845 => Self { up: Up::Length(random.u64(..70_000)), manner: Manner::Pieces, ..plain },
            845..860 => Self { up: Up::Chunked(random.u64(..100_000)), manner: Manner::Pieces, ..plain },
            860..875 => Self { up: Up::Length(large(random)), ..plain },
            875..890 => Self { manner: Manner::Pieces, ..plain },
            890..900 => Self { head_only: true, ..plain },
            900..912 => Self { status: [204, 304, 404, 503][random.usize(..4)], ..plain },
            912..924 => Self { down: Down::Chunked, size: random.u64(..100_000), ..plain },
            924..930 => Self { down: Down::UntilClose, ending: Ending::CloseSaid, ..plain },
            930..938 => Self { ending: Ending::CloseSaid, ..plain },
            938..946 => Self { ending: Ending::CloseAfter, ..plain },
            946..950 => Self { ending: Ending::DieBefore, ..plain },
            950..954 => Self { ending: Ending::DieWithin, size: 2000 + random.u64(..60_000), ..plain },
            954..966 => Self { delay: Duration::from_millis(random.u64(..50)), ..plain },
            966..970 => Self { up: Up::Length(random.u64(..60_000)), early: true, ..plain },
            970..978 => Self { manner: Manner::HalfClose, ..plain },
            978..982 => Self { manner: Manner::SlowReader, size: random.u64(..60_000), ..plain },
            982..988 => {
                let up = [Up::Length(1 + random.u64(..100_000)), Up::Nothing][random.usize(..2)];
                Self { manner: Manner::AbortRequest, up, ..plain }
            }
            988..994 => {
                Self { manner: Manner::AbortWaiting, delay: Duration::from_millis(random.u64(..20)), ..plain }
            }
            _ => Self { manner: Manner::AbortResponse, size: large(random), ..plain },
        }
    }

    /// The head of the request.
    pub(super) fn head(&self) -> String {
        let method = match (self.head_only, self.up) {
            (true, _) => "HEAD",
            (_, Up::Nothing) => "GET",
            _ => "POST",
        };
        let length = match self.up {
            Up::Nothing => String::new(),
            Up::Length(length) => format!("Content-Length: {length}\r\n"),
            Up::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        format!("{method} {} HTTP/1.1\r\nHost: web\r\nUser-Agent: torture\r\n{length}\r\n", self.target())
    }

    /// Whether the response has no body whatever its head says.
    pub(super) fn bodiless(&self) -> bool {
        self.head_only || self.status == 204 || self.status == 304
    }

    /// What is special about it, in a word or two.
    pub(super) fn name(&self) -> String {
        let up = match self.up {
            Up::Nothing => "",
            Up::Length(length) if length > 65_000 => " large body",
            Up::Length(_) => " body",
            Up::Chunked(_) => " chunked body",
        };
        let down = match self.down {
            Down::Length if self.size > 65_000 => " large",
            Down::Length => "",
            Down::Chunked => " chunked",
            Down::UntilClose => " until close",
        };
        let method = if self.head_only { "HEAD" } else { "plain" };
        let mut name = format!("{method}{up}{down}");
        if self.manner != Manner::Whole {
            name += &format!(" {:?}", self.manner);
        }
        if self.ending != Ending::Stay {
            name += &format!(" {:?}", self.ending);
        }
        if self.early {
            name += " early";
        }
        name
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {:?}", self.name(), self.target(), self.up, self.manner)
    }
}
