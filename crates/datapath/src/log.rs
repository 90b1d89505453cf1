//! What libbpf and the verifier say while an object is loaded.

use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Once;

use libbpf_rs::PrintLevel;

/// Listens to what is said on this thread until it is dropped. libbpf knows one listener in a process, and speaks on the
/// thread that loads.
pub(crate) struct Log {
    /// Who listened before, and does so again.
    before: Option<Said>,
    /// It belongs to the thread that began it.
    _here: PhantomData<*const ()>,
}

struct Said {
    lines: Vec<String>,
    kept: usize,
}

thread_local! {
    static SAID: RefCell<Option<Said>> = const { RefCell::new(None) };
}

impl Log {
    /// Keeps the last `kept` lines.
    pub(crate) fn begin(kept: usize) -> Self {
        static LISTENS: Once = Once::new();
        LISTENS.call_once(|| {
            libbpf_rs::set_print(Some((PrintLevel::Info, listen)));
        });
        let before = SAID.replace(Some(Said { lines: Vec::new(), kept }));
        Self { before, _here: PhantomData }
    }

    /// What was said since it began or was last asked.
    pub(crate) fn take(&self) -> Vec<String> {
        SAID.with_borrow_mut(|said| {
            said.as_mut().map(|said| std::mem::take(&mut said.lines)).unwrap_or_default()
        })
    }

    /// The same, ending with `error`.
    pub(crate) fn take_with(&self, error: &libbpf_rs::Error) -> Vec<String> {
        let mut lines = self.take();
        lines.push(error.to_string());
        lines
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        SAID.set(self.before.take());
    }
}

/// What is said while nobody listens goes to standard error, as without this listener.
fn listen(_level: PrintLevel, message: String) {
    SAID.with_borrow_mut(|said| match said {
        Some(said) => {
            said.lines.extend(message.lines().map(str::to_owned));
            let surplus = said.lines.len().saturating_sub(said.kept);
            said.lines.drain(..surplus);
        }
        None => {
            let _ = std::io::stderr().lock().write_all(message.as_bytes());
        }
    });
}
