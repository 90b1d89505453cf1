//! Colour, used for meaning only: what is well, what deserves a look, what is broken.

use clap::builder::styling::{AnsiColor, Style};

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Good,
    Caution,
    Bad,
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Heading => Style::new().bold(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Caution => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Faint => Style::new().dimmed(),
        }
    }
}

/// Whether one stream gets colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    pub(crate) const PLAIN: Self = Self(false);
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self(true);

    pub(crate) fn new(coloured: bool) -> Self {
        Self(coloured)
    }

    /// For writers that bring their own colours.
    pub(crate) fn is_coloured(self) -> bool {
        self.0
    }

    /// `text` in the colour of `tone`.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        match (self.0, tone) {
            (false, _) | (true, Tone::Plain) => text.to_owned(),
            (true, _) => {
                let style = tone.style();
                format!("{style}{text}{style:#}")
            }
        }
    }
}

/// Control characters would act on the terminal; each is shown as one visible character.
pub(crate) fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}
