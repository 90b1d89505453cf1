//! All interleavings of two clients and the proxy over two slots, one atomic operation at a time: the steps of
//! `bpf/http/slot.h` and of the proxy's router. In no order is a slot two clients' at once, lost, doubled, or a request
//! sent down another connection than the one that was taken.

use std::collections::HashSet;

const SLOTS: usize = 2;
/// Requests of a client, and connections of a slot.
const REQUESTS: u8 = 2;
const GENERATIONS: u8 = 2;

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
struct Word {
    generation: u8,
    /// 0: nobody.
    client: u8,
    busy: bool,
    dead: bool,
    out: bool,
    lost: bool,
}

impl Word {
    fn is_idle(self) -> bool {
        self == Self { generation: self.generation, ..Self::default() }
    }
}

/// Top, as a number plus 1, and a tag.
type Head = (u8, u8);

/// What a client's programs, or the proxy, do next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Rest,
    ReadNext(Head),
    Pop(Head, u8),
    ReadWord(u8),
    Take(u8, Word),
    Bury(u8),
    Redirect(u8, Word),
    /// The request is sent; no program runs.
    Lent(u8, Word),
    ClearBusy(u8, Word),
    MakeIdle(u8, Word),
    ReadHead(u8, Word),
    WriteNext(u8, Word, Head),
    Push(u8, Word, Head),
    Lose(u8, Word),
    /// Of the proxy: it waits for programs of these clients to end.
    Grace(u8, [bool; 2]),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    head: Head,
    next: [u8; SLOTS],
    words: [Word; SLOTS],
    clients: [Step; 2],
    left: [u8; 2],
    proxy: Step,
}

impl State {
    fn start() -> Self {
        Self {
            head: (1, 0),
            next: [2, 0],
            words: [Word::default(); SLOTS],
            clients: [Step::Rest; 2],
            left: [REQUESTS; 2],
            proxy: Step::Rest,
        }
    }

    fn stack(&self) -> Vec<u8> {
        let (mut stack, mut at) = (Vec::new(), self.head.0);
        while at != 0 {
            assert!(!stack.contains(&(at - 1)), "doubled: {self:?}");
            stack.push(at - 1);
            at = self.next[usize::from(at - 1)];
        }
        stack
    }

    fn check(&self) {
        let stack = self.stack();
        assert!(
            stack.iter().all(|&slot| !self.words[usize::from(slot)].out),
            "out, yet in its pool: {self:?}"
        );
        let holds = |step: &Step| match *step {
            Step::Redirect(slot, word) | Step::Lent(slot, word) => Some((slot, word.generation)),
            _ => None,
        };
        let held = self.clients.each_ref().map(holds);
        assert!(held[0].is_none() || held[0] != held[1], "two clients' at once: {self:?}");
        if self.clients == [Step::Rest; 2] && self.proxy == Step::Rest {
            for (slot, word) in (0..).zip(&self.words) {
                let known = stack.contains(&slot) || word.out || word.lost;
                assert!(known, "slot {slot} is lost: {self:?}");
            }
        }
    }

    fn swap_head(&mut self, seen: Head, top: u8) -> bool {
        let same = self.head == seen;
        if same {
            self.head = (top, seen.1 + 1);
        }
        same
    }

    fn swap_word(&mut self, slot: u8, seen: Word, to: Word) -> bool {
        let word = &mut self.words[usize::from(slot)];
        let same = *word == seen;
        if same {
            *word = to;
        }
        same
    }

    /// One step of putting a slot back; with one try, as if contention always won.
    fn push(&mut self, step: Step) -> Step {
        match step {
            Step::ReadHead(slot, idle) => Step::WriteNext(slot, idle, self.head),
            Step::WriteNext(slot, idle, head) => {
                self.next[usize::from(slot)] = head.0;
                Step::Push(slot, idle, head)
            }
            Step::Push(slot, idle, head) if !self.swap_head(head, slot + 1) => Step::Lose(slot, idle),
            _ => Step::Rest,
        }
    }

    fn client(&self, which: usize) -> Option<Self> {
        let mut new = self.clone();
        let me = which as u8 + 1;
        new.clients[which] = match self.clients[which] {
            Step::Rest if self.left[which] == 0 => return None,
            Step::Rest => {
                new.left[which] -= 1;
                if self.head.0 == 0 { Step::Rest } else { Step::ReadNext(self.head) }
            }
            Step::ReadNext(head) => Step::Pop(head, self.next[usize::from(head.0 - 1)]),
            Step::Pop(head, next) if new.swap_head(head, next) => Step::ReadWord(head.0 - 1),
            Step::Pop(..) => Step::Rest,
            Step::ReadWord(slot) => Step::Take(slot, self.words[usize::from(slot)]),
            Step::Take(slot, seen) => {
                let lease = Word { client: me, ..seen };
                let taken = seen.is_idle() && new.swap_word(slot, seen, Word { busy: true, ..lease });
                if taken { Step::Redirect(slot, lease) } else { Step::Bury(slot) }
            }
            Step::Bury(slot) => {
                let word = &mut new.words[usize::from(slot)];
                word.out |= word.dead;
                Step::Rest
            }
            Step::Redirect(slot, lease) => {
                let now = self.words[usize::from(slot)].generation;
                assert_eq!(now, lease.generation, "another connection: {self:?}");
                Step::Lent(slot, lease)
            }
            Step::Lent(slot, lease) => Step::ClearBusy(slot, lease),
            Step::ClearBusy(slot, lease) => {
                let cleared = new.swap_word(slot, Word { busy: true, ..lease }, lease);
                if cleared { Step::MakeIdle(slot, lease) } else { Step::Rest }
            }
            Step::MakeIdle(slot, lease) => {
                let idle = Word { client: 0, ..lease };
                if new.swap_word(slot, lease, idle) { Step::ReadHead(slot, idle) } else { Step::Rest }
            }
            Step::Lose(slot, idle) => {
                let lost = new.swap_word(slot, idle, Word { lost: true, ..idle });
                if lost { Step::Rest } else { Step::Bury(slot) }
            }
            step => new.push(step),
        };
        Some(new)
    }

    /// What the proxy may do to a slot when it does nothing else: retire, arm anew, mend.
    fn proxy(&self, slot: u8) -> Vec<Self> {
        let mut found = Vec::new();
        let word = self.words[usize::from(slot)];
        let mut to = |word: Word, step: Step| {
            let mut new = self.clone();
            new.words[usize::from(slot)] = word;
            new.proxy = step;
            found.push(new);
        };
        if !word.dead {
            let in_no_pool = word.lost || word.client != 0 || word.busy;
            to(Word { dead: true, out: in_no_pool, ..word }, Step::Rest);
        }
        if word.lost && !word.dead {
            let idle = Word { lost: false, ..word };
            to(idle, Step::ReadHead(slot, idle));
        }
        if word.out && word.generation + 1 < GENERATIONS {
            let running = self.clients.map(|step| !matches!(step, Step::Rest | Step::Lent(..)));
            to(word, Step::Grace(slot, running));
        }
        found
    }

    fn successors(&self) -> Vec<Self> {
        let mut all: Vec<Self> = (0..2).filter_map(|which| self.client(which)).collect();
        let mut new = self.clone();
        match self.proxy {
            Step::Rest => all.extend((0..SLOTS as u8).flat_map(|slot| self.proxy(slot))),
            Step::Grace(slot, running) => {
                let still = [0, 1].map(|which| {
                    running[which] && !matches!(self.clients[which], Step::Rest | Step::Lent(..))
                });
                if still == [false; 2] {
                    let fresh = self.words[usize::from(slot)].generation + 1;
                    let idle = Word { generation: fresh, ..Word::default() };
                    new.words[usize::from(slot)] = idle;
                    new.proxy = Step::ReadHead(slot, idle);
                    all.push(new);
                } else if still != running {
                    new.proxy = Step::Grace(slot, still);
                    all.push(new);
                }
            }
            // The proxy tries until it succeeds.
            Step::Lose(slot, idle) => {
                new.proxy = Step::ReadHead(slot, idle);
                all.push(new);
            }
            step => {
                new.proxy = new.push(step);
                all.push(new);
            }
        }
        all
    }
}

#[test]
fn every_interleaving_keeps_slots_apart() {
    let mut seen = HashSet::from([State::start()]);
    let mut open = vec![State::start()];
    while let Some(state) = open.pop() {
        state.check();
        for next in state.successors() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    assert!(seen.len() > 50_000, "only {} states", seen.len());
}
