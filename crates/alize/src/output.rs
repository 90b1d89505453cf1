//! Where answers go: standard output for what was asked, standard error for everything else. Writing never panics.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::args::{Color, Form, Global};
use crate::failure::Failure;
use crate::style::{Paint, Tone, visible};

/// How this run writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// What was asked for; `None`: the default.
    asked: Option<Form>,
    /// Colour of standard output.
    pub(crate) paint: Paint,
    /// Colour of standard error.
    pub(crate) error_paint: Paint,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let coloured = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self {
            asked: global.output,
            paint: Paint::new(coloured(io::stdout().is_terminal())),
            error_paint: Paint::new(coloured(io::stderr().is_terminal())),
        }
    }

    pub(crate) fn form(&self) -> Form {
        self.asked.unwrap_or(Form::Table)
    }

    /// The same in another form.
    pub(crate) fn with(self, form: Form) -> Self {
        Self { asked: Some(form), ..self }
    }

    /// Whether remarks are read by a person, who is helped by more than one line each.
    pub(crate) fn for_eyes(&self) -> bool {
        self.asked == Some(Form::Table) || (self.asked.is_none() && io::stderr().is_terminal())
    }

    /// Width of the terminal that shows standard output, if one does.
    pub(crate) fn width(&self) -> Option<usize> {
        terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
    }

    /// The answer: `value` itself for programs, `table` for people.
    pub(crate) fn answer<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.form() {
            Form::Table => print(&table()),
            Form::Json => print(&(json_pretty(value)? + "\n")),
            Form::Yaml => print(&yaml(value)?),
        }
    }

    /// One of a stream of answers: a line, a JSON object on a line, a YAML document.
    pub(crate) fn item<T: Serialize>(&self, value: &T, line: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.form() {
            Form::Table => print(&line()),
            Form::Json => print(&(json(value)? + "\n")),
            Form::Yaml => print(&format!("---\n{}", yaml(value)?)),
        }
    }

    /// Says something that is not the answer.
    pub(crate) fn remark(&self, text: &str) {
        say(&format!("alize: {text}"));
    }

    /// Shows how far something is, in place of what was shown before: on a terminal only, and not beside JSON.
    pub(crate) fn progress(&self, text: &str) {
        if io::stderr().is_terminal() && self.asked != Some(Form::Json) {
            let mut errors = io::stderr().lock();
            let _ = write!(errors, "\r\x1b[K{text}").and_then(|()| errors.flush());
        }
    }

    /// Says what went wrong and what to do.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Some((what, mend)) = failure.message() else { return };
        // A message may have several lines, such as the verifier's.
        let what: Vec<String> = what.lines().map(visible).collect();
        say(&format!("{} {}", self.error_paint.tone(Tone::Bad, "error:"), what.join("\n")));
        if let Some(mend) = mend {
            say(&format!("  {}", visible(&mend)));
        }
    }
}

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::of_output)
}

/// Writes a line to standard error. If even that fails there is nobody left to tell.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Other(error.into()))
}

fn json_pretty<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::Other(error.into()))
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|error| Failure::Other(error.into()))
}
