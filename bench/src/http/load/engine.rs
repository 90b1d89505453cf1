//! Connections, their requests, and the clock.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, Timespec};

use super::connection::{self, Progress, Response};
use super::order::{Answer, Loaded, Order, Pace};
use super::schedule::Schedule;
use crate::http::latency::Latency;

/// After the measured time requests that are under way may end; who is still waiting then is unfinished.
const PATIENCE: u64 = 2_000_000_000;
/// After so many errors a slice is void anyway.
const MOST_ERRORS: u64 = 100;
/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// Connections stay open from one order to the next.
pub(crate) struct Engine {
    epoll: OwnedFd,
    places: Vec<Place>,
    target: Option<std::net::SocketAddrV4>,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Place {
    socket: Option<OwnedFd>,
    state: State,
    response: Response,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// With the time at which its request was due, when it has one.
    Connecting(Option<u64>),
    Idle,
    /// With the time at which its request was due.
    Busy(u64),
}

/// One order while it is carried out.
struct Slice<'a> {
    order: &'a Order,
    schedule: Schedule,
    measured: u64,
    end: u64,
    /// Due, and without a connection.
    waiting: VecDeque<u64>,
    /// Places that can take a request.
    free: VecDeque<usize>,
    loaded: Loaded,
    latency: Latency,
}

impl Engine {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, places: Vec::new(), target: None, buffer: vec![0; BUFFER] })
    }

    /// Carries out one order, and tells when the measured time begins and ends.
    pub(crate) fn load(&mut self, order: &Order, say: impl Fn(&Answer) -> Result<()>) -> Result<Loaded> {
        self.begin(order)?;
        let start = now();
        let measured = start + nanoseconds(order.warm_up);
        let end = measured + nanoseconds(order.seconds);
        let mut slice = Slice {
            order,
            schedule: Schedule::new(order.pace, start, end),
            measured,
            end,
            waiting: VecDeque::new(),
            free: self.ready_places(order).collect(),
            loaded: Loaded::default(),
            latency: Latency::new()?,
        };
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let (mut told_begin, mut told_end) = (false, false);
        loop {
            let clock = now();
            if !told_begin && clock >= measured {
                told_begin = true;
                say(&Answer::Begun)?;
            }
            if !told_end && clock >= end {
                told_end = true;
                say(&Answer::Ended)?;
            }
            self.issue(&mut slice, clock);
            let done = clock >= end && self.busy() == 0 && slice.waiting.is_empty();
            if done || clock >= end + PATIENCE || slice.loaded.errors >= MOST_ERRORS {
                break;
            }
            let boundary = if clock < measured {
                measured
            } else if clock < end {
                end
            } else {
                end + PATIENCE
            };
            let wake = slice.schedule.next().map_or(boundary, |next| next.min(boundary));
            self.wait(&mut events, wake.saturating_sub(clock))?;
            for event in events.drain(..) {
                self.happened(&mut slice, event.data.u64() as usize, event.flags);
            }
        }
        if !told_begin {
            say(&Answer::Begun)?;
        }
        if !told_end {
            say(&Answer::Ended)?;
        }
        Ok(self.finish(slice))
    }

    /// Opens what is missing, and closes what is too much or goes elsewhere.
    fn begin(&mut self, order: &Order) -> Result<()> {
        if self.target != Some(order.target) || order.short {
            self.places.clear();
            self.target = Some(order.target);
        }
        if self.places.len() < order.connections {
            self.places.resize_with(order.connections, Place::default);
        }
        if order.short {
            return Ok(());
        }
        for place in 0..order.connections {
            if self.places[place].state == State::Closed {
                self.open(place, order, None)?;
            }
        }
        self.await_open(order.connections)
    }

    /// All connections are there before the clock starts.
    fn await_open(&mut self, connections: usize) -> Result<()> {
        let deadline = now() + 5 * PATIENCE;
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let opening =
            |places: &[Place]| places.iter().any(|place| matches!(place.state, State::Connecting(_)));
        while opening(&self.places[..connections]) {
            anyhow::ensure!(now() < deadline, "not all {connections} connections were open after 10 s");
            self.wait(&mut events, 10_000_000)?;
            for event in events.drain(..) {
                let place = event.data.u64() as usize;
                let Some(one) = self.places.get_mut(place) else { continue };
                let (State::Connecting(_), Some(socket)) = (one.state, &one.socket) else { continue };
                connection::connected(socket)?;
                one.state = State::Idle;
                self.listen(place)?;
            }
        }
        Ok(())
    }

    fn ready_places<'a>(&'a self, order: &'a Order) -> impl Iterator<Item = usize> + 'a {
        (0..order.connections).filter(|place| order.short || self.places[*place].state == State::Idle)
    }

    fn open(&mut self, place: usize, order: &Order, due: Option<u64>) -> Result<()> {
        let socket = connection::open(order.target)?;
        epoll::add(&self.epoll, &socket, EventData::new_u64(place as u64), EventFlags::OUT)?;
        let one = &mut self.places[place];
        one.response.reset();
        one.socket = Some(socket);
        one.state = State::Connecting(due);
        Ok(())
    }

    /// From now on it is told what comes in.
    fn listen(&self, place: usize) -> Result<()> {
        let socket = self.places[place].socket.as_ref().context("no socket")?;
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(place as u64), EventFlags::IN)?)
    }

    fn wait(&self, events: &mut Vec<Event>, nanoseconds: u64) -> Result<()> {
        let timeout = Timespec {
            tv_sec: (nanoseconds / 1_000_000_000) as i64,
            tv_nsec: (nanoseconds % 1_000_000_000) as i64,
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn busy(&self) -> usize {
        let under_way = |place: &&Place| matches!(place.state, State::Busy(_) | State::Connecting(_));
        self.places.iter().filter(under_way).count()
    }

    /// Gives due requests to free connections.
    fn issue(&mut self, slice: &mut Slice<'_>, clock: u64) {
        while let Some(due) = slice.schedule.due(clock) {
            slice.waiting.push_back(due);
        }
        while let Some(&place) = slice.free.front() {
            let due = match slice.waiting.front() {
                Some(&due) => due,
                None if slice.schedule.saturates(clock) => clock,
                None => return,
            };
            slice.waiting.pop_front();
            slice.free.pop_front();
            self.start(slice, place, due);
        }
    }

    fn start(&mut self, slice: &mut Slice<'_>, place: usize, due: u64) {
        let done = if self.places[place].state == State::Idle {
            self.send(slice, place, due)
        } else {
            self.open(place, slice.order, Some(due))
        };
        if let Err(error) = done {
            self.failed(slice, place, &error);
        }
    }

    fn send(&mut self, slice: &Slice<'_>, place: usize, due: u64) -> Result<()> {
        let one = &mut self.places[place];
        connection::send(one.socket.as_ref().context("no socket")?, slice.order.request.as_bytes())?;
        one.state = State::Busy(due);
        Ok(())
    }

    fn happened(&mut self, slice: &mut Slice<'_>, place: usize, flags: EventFlags) {
        let state = self.places.get(place).map_or(State::Closed, |one| one.state);
        let done = match state {
            State::Connecting(due)
                if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) =>
            {
                self.opened(slice, place, due)
            }
            State::Busy(due) => self.receive(slice, place, due),
            State::Idle => self.look(place),
            State::Closed | State::Connecting(_) => Ok(()),
        };
        if let Err(error) = done {
            self.failed(slice, place, &error);
        }
    }

    fn opened(&mut self, slice: &mut Slice<'_>, place: usize, due: Option<u64>) -> Result<()> {
        connection::connected(self.places[place].socket.as_ref().context("no socket")?)?;
        self.listen(place)?;
        self.places[place].state = State::Idle;
        match due {
            Some(due) => self.send(slice, place, due),
            None => {
                slice.free.push_back(place);
                Ok(())
            }
        }
    }

    fn receive(&mut self, slice: &mut Slice<'_>, place: usize, due: u64) -> Result<()> {
        let one = &mut self.places[place];
        let socket = one.socket.as_ref().context("no socket")?;
        if one.response.read(socket, &mut self.buffer, slice.order.body)? == Progress::More {
            return Ok(());
        }
        slice.completed(due, now());
        if slice.order.short {
            self.close(place);
        } else {
            self.places[place].state = State::Idle;
        }
        slice.free.push_back(place);
        Ok(())
    }

    /// A server may close an idle connection, and a wake-up may be without cause: neither is an error.
    fn look(&mut self, place: usize) -> Result<()> {
        let socket = self.places[place].socket.as_ref().context("no socket")?;
        match connection::idle(socket)? {
            true => Ok(()),
            false => {
                self.close(place);
                Ok(())
            }
        }
    }

    /// The connection is no more; another takes its place when a request needs one.
    fn failed(&mut self, slice: &mut Slice<'_>, place: usize, error: &anyhow::Error) {
        slice.loaded.errors += 1;
        slice.loaded.first_error.get_or_insert_with(|| format!("{error:#}"));
        let was_free = self.places[place].state == State::Idle && slice.free.contains(&place);
        self.close(place);
        if place < slice.order.connections && !was_free {
            slice.free.push_back(place);
        }
    }

    fn close(&mut self, place: usize) {
        let one = &mut self.places[place];
        one.socket = None;
        one.response.reset();
        one.state = State::Closed;
    }

    fn finish(&mut self, mut slice: Slice<'_>) -> Loaded {
        let clock = now();
        for place in 0..self.places.len() {
            let due = match self.places[place].state {
                State::Busy(due) => Some(due),
                State::Connecting(due) => due,
                State::Idle | State::Closed => continue,
            };
            self.close(place);
            slice.waiting.extend(due);
        }
        for due in std::mem::take(&mut slice.waiting) {
            slice.unfinished(due, clock);
        }
        slice.loaded.seconds = slice.order.seconds;
        slice.loaded.latency = slice.latency.recorded();
        slice.loaded
    }
}

impl Slice<'_> {
    fn completed(&mut self, due: u64, clock: u64) {
        self.loaded.all_completed += 1;
        if (self.measured..self.end).contains(&clock) {
            self.loaded.completed += 1;
        }
        if (self.measured..self.end).contains(&due) {
            self.latency.record(clock.saturating_sub(due));
        }
    }

    /// It took at least that long: left out it would make overload look well.
    fn unfinished(&mut self, due: u64, clock: u64) {
        self.loaded.unfinished += 1;
        if matches!(self.order.pace, Pace::Rate(_)) && (self.measured..self.end).contains(&due) {
            self.latency.record(clock.saturating_sub(due));
        }
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
