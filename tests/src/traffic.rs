//! Everything that can be alive while something is done to the mesh: connections that are kept, requests in loops, megabytes that are
//! compared, WebSockets, and new connections without end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::clients::Conversation;
use crate::mesh::{endpoints, service};
use crate::servers::at;
use crate::{Kind, Process, Server, Tally, World};

/// Where the services are that all this goes to.
const WEB: ([u8; 4], u16) = ([10, 96, 0, 10], 80);
const SHOP: ([u8; 4], u16) = ([10, 96, 0, 20], 80);
const CHAT: ([u8; 4], u16) = ([10, 96, 0, 21], 80);

/// Servers of the services `web` (TCP, balanced by connection), `shop` (HTTP) and `chat` (WebSocket through the proxy).
pub struct Servers {
    /// Those of `web`, which are not meshed.
    pub web: Vec<Server>,
    /// Whose address `both` has.
    own: Vec<Server>,
    /// HTTP and WebSocket; the last one's address is that of `either`.
    shops: Vec<(SocketAddr, SocketAddr)>,
    _processes: Vec<Process>,
}

impl Servers {
    /// Starts three of `web`, two of the others, and one each that is reached where the mesh does not act.
    pub fn start(world: &World) -> Result<Self> {
        let web = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
        let own = world.fleet(Kind::Name, &["own"], 7000)?;
        let (mut shops, mut processes) = (Vec::new(), Vec::new());
        for name in ["shop-a", "shop-b", "shop-own"] {
            let place = world.meshed(name)?;
            let (http, websocket) = (at(place.namespace.v4(), 8080), at(place.namespace.v4(), 8081));
            processes.push(place.shop(name, http, websocket)?);
            shops.push((http, websocket));
        }
        Ok(Self { web, own, shops, _processes: processes })
    }

    /// `shop` and `chat`; `both` and `either`, at the address of a real server: they work in
    /// whatever mode they are.
    pub fn services(&self) -> Vec<String> {
        let http = |name, address: SocketAddr, endpoints: Vec<String>| {
            // Each WebSocket has a connection of its own to an endpoint.
            service(name, address, &["protocol: http", "http: {pool: {max: 16384}}"], &endpoints)
        };
        let behind = &self.shops[..2];
        let shops = || endpoints(behind.iter().map(|shop| shop.0));
        vec![
            http("shop", at(SHOP.0, SHOP.1), shops()),
            http("chat", at(CHAT.0, CHAT.1), endpoints(behind.iter().map(|shop| shop.1))),
            http("either", self.either(), shops()),
            service("both", self.both(), &[], &endpoints(self.web.iter().map(|server| server.v4))),
        ]
    }

    fn both(&self) -> SocketAddr {
        self.own[0].v4
    }

    fn either(&self) -> SocketAddr {
        self.shops[2].0
    }

    /// `web` with these endpoints.
    pub fn web_service(&self, endpoints: &[String]) -> String {
        service("web", at(WEB.0, WEB.1), &[], endpoints)
    }

    /// Requests that have come to the shops.
    fn served(&self, world: &World) -> Result<u64> {
        let place = world.plain("node")?;
        let counts = self.shops.iter().map(|(http, _)| {
            let text = place.run("curl", &["-s", "-m", "10", &format!("http://{http}/served")])?;
            Ok(text.trim().parse::<u64>()?)
        });
        counts.sum()
    }
}

/// How many there are of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    held: u32,
    http: u32,
    websockets: u32,
}

impl Size {
    /// Of `live` connections half are TCP, three tenths HTTP that is kept, two tenths WebSockets.
    pub fn of(live: u32) -> Self {
        Self { held: live / 2, http: live * 3 / 10, websockets: live / 5 }
    }

    fn live(self) -> u32 {
        self.held + self.http + self.websockets
    }
}

/// Clients of one kind.
struct Party {
    name: &'static str,
    talk: Conversation,
    /// What each answer must be equal to, for connections that only wait.
    kept: Option<BTreeMap<String, u64>>,
    /// Whether its clients ask one request after the other, so that the slowest is a gap; the others are asked all at once.
    moves: bool,
    seen: Tally,
}

impl Party {
    fn new(name: &'static str, talk: Conversation) -> Self {
        Self { name, talk, kept: None, moves: true, seen: Tally::default() }
    }

    fn take(&mut self, tally: Tally, after: &str) -> Result<f64> {
        ensure!(tally.failed() == 0, "{after}: {}: {:?}", self.name, tally.errors);
        if let Some(kept) = &self.kept {
            ensure!(
                &tally.answers == kept,
                "{after}: {}: {:?} in place of {kept:?}",
                self.name,
                tally.answers
            );
        }
        let slowest = tally.slowest;
        self.seen.add(Tally { order: Vec::new(), peers: BTreeMap::new(), ..tally });
        Ok(slowest)
    }
}

/// All that is alive, and what it saw.
pub struct Traffic {
    parties: Vec<Party>,
    size: Size,
    begun: Instant,
    gaps: Vec<(String, f64)>,
}

/// What came of it.
#[derive(Debug)]
pub struct Figures {
    /// Connections that lived all the time.
    pub live: u32,
    /// How long it took.
    pub lasted: Duration,
    /// By party: what was answered.
    pub answered: BTreeMap<&'static str, u64>,
    /// The longest that one request or connection took, in seconds, by what was done meanwhile.
    pub gaps: BTreeMap<String, f64>,
}

impl Traffic {
    /// Opens everything; fails if anything does.
    pub fn start(world: &World, servers: &Servers, size: Size) -> Result<Self> {
        let (web, shop, chat) = (at(WEB.0, WEB.1), at(SHOP.0, SHOP.1), at(CHAT.0, CHAT.1));
        let (held, opened) = world.meshed("held")?.hold(web, size.held)?;
        ensure!((opened.answered(), opened.failed()) == (size.held.into(), 0), "held: {:?}", opened.errors);
        let held = Party { kept: Some(opened.answers), moves: false, ..Party::new("held", held) };

        let idle = format!("--idle={}", size.http);
        let mut idle = world.meshed("idle")?.request(shop, &[idle.as_str()])?;
        let opened = idle.read()?;
        ensure!((opened.answered(), opened.failed()) == (size.http.into(), 0), "http: {:?}", opened.errors);
        let idle = Party { seen: opened, moves: false, ..Party::new("http, idle", idle) };

        let quiet = format!("--idle={}", size.websockets);
        let (quiet, opened) = world.meshed("quiet")?.websocket(chat, &[&quiet])?;
        let all = u64::from(size.websockets);
        ensure!((opened.answered(), opened.failed()) == (all, 0), "websocket: {:?}", opened.errors);
        let quiet = Party { seen: opened, moves: false, ..Party::new("websocket, idle", quiet) };

        // Those that never rest come last: beside them opening thousands takes minutes.
        let stream = world.meshed("stream")?.stream(web, &["--callers=2"])?;
        let megabytes = world.meshed("megabytes")?.download(web, &["--callers=1"])?;
        let http = world.meshed("http")?.request(shop, &["--kept=2", "--fresh=1"])?;
        let downloads = world.meshed("downloads")?.request(shop, &["--downloads=1"])?;
        let (chats, opened) = world.meshed("chats")?.websocket(chat, &["--busy=2"])?;
        ensure!((opened.answered(), opened.failed()) == (2, 0), "websocket: {:?}", opened.errors);

        // Of services whose mode changes.
        let both = world.meshed("both")?.stream(servers.both(), &["--callers=1", "--pause=2"])?;
        let flags = ["--kept=1", "--fresh=1"];
        let either = world.meshed("either")?.request(servers.either(), &flags)?;

        let parties = vec![
            held,
            Party::new("new connections", stream),
            Party::new("megabytes", megabytes),
            idle,
            quiet,
            Party::new("http", http),
            Party::new("http megabytes", downloads),
            Party::new("websocket", chats),
            Party::new("new connections, mode changes", both),
            Party::new("http, mode changes", either),
        ];
        Ok(Self { parties, size, begun: Instant::now(), gaps: Vec::new() })
    }

    /// Nothing may have failed since the last look.
    pub fn look(&mut self, after: &str) -> Result<()> {
        for party in &mut self.parties {
            let tally = party.talk.ask()?;
            let slowest = party.take(tally, after)?;
            // Who only waits is asked all at once: that is no gap of one of them.
            if party.moves {
                self.gaps.push((format!("{after}: {}", party.name), slowest));
            }
        }
        Ok(())
    }

    /// Ends it, then does `removal`, which connections that are kept survive. Every request must have been served once: none
    /// was lost, none was sent again.
    pub fn finish(
        mut self,
        world: &World,
        servers: &Servers,
        removal: impl FnOnce() -> Result<()>,
    ) -> Result<Figures> {
        self.look("the end")?;
        let (mut answered, mut asked) = (BTreeMap::new(), 0);
        let (kept, moving): (Vec<_>, Vec<_>) =
            self.parties.into_iter().partition(|party| party.kept.is_some());
        for mut party in moving {
            let name = party.name;
            let rest = party.talk.finish()?;
            ensure!(rest.failed() == 0, "the end: {name}: {:?}", rest.errors);
            party.seen.add(rest);
            asked += party.seen.of("shop-");
            answered.insert(party.name, party.seen.answered());
        }
        let served = servers.served(world)?;
        ensure!(served == asked, "{asked} requests were asked, {served} served");
        removal()?;
        for mut party in kept {
            let tally = party.talk.ask()?;
            party.take(tally, "removal")?;
            answered.insert(party.name, party.seen.answered());
        }
        let mut gaps = BTreeMap::new();
        for (after, gap) in self.gaps {
            let longest: &mut f64 = gaps.entry(after).or_default();
            *longest = longest.max(gap);
        }
        Ok(Figures { live: self.size.live(), lasted: self.begun.elapsed(), answered, gaps })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lasted = self.lasted.as_secs_f64();
        writeln!(
            f,
            "{} live connections, {lasted:.1} s; 0 failed, 0 reset, 0 repeated, 0 wrong bytes",
            self.live
        )?;
        for (name, count) in &self.answered {
            writeln!(f, "  {count:>12}  {name}")?;
        }
        writeln!(f, "longest gap:")?;
        self.gaps.iter().try_for_each(|(after, gap)| writeln!(f, "  {:>9.1} ms  {after}", gap * 1e3))
    }
}
