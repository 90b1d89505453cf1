//! YAML as a stream of few tokens, each with its place; what the file format leaves out of YAML is refused here.
//!
//! Nothing is kept: the scanner holds a line or so, the reader one token. Neither recurses, so nesting costs no stack.

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use crate::Position;

use super::remarks::{Remarks, Stop};

/// The format needs 9 levels; more are a mistake or an attack.
const DEEPEST: usize = 16;

/// A value and where it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) at: Position,
    pub(super) value: T,
}

impl<T> At<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { at: self.at, value: change(self.value) }
    }
}

#[derive(Debug)]
pub(super) enum Token<'a> {
    Scalar(Scalar<'a>),
    List,
    Mapping,
    /// Of the innermost list or mapping.
    End,
    /// Was refused; there is nothing to say about it again.
    Refused,
}

#[derive(Debug)]
pub(super) struct Scalar<'a> {
    pub(super) text: Cow<'a, str>,
    /// Not in quotes: `null` and numbers may be meant.
    pub(super) plain: bool,
}

impl Scalar<'_> {
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

pub(super) struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    depth: usize,
    /// Where the service begins that was read last.
    pub(super) service_at: Option<Position>,
    pub(super) remarks: Remarks<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, remarks: Remarks<'a>) -> Self {
        Self { parser: Parser::new_from_str(text), depth: 0, service_at: None, remarks }
    }

    /// The first node of the document; `None` when there is none.
    pub(super) fn root(&mut self) -> Result<Option<At<Token<'a>>>, Stop> {
        loop {
            match self.event()?.value {
                Event::StreamStart => {}
                Event::DocumentStart(_) => return self.next().map(Some),
                _ => return Ok(None),
            }
        }
    }

    /// Reads on behind the root node: there must be no second document.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        loop {
            let At { at, value } = self.event()?;
            match value {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(_) => {
                    let help = "keep one document in a file: take the --- out";
                    return Err(self.remarks.stop(at, "a second document begins here", help));
                }
                _ => {}
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<At<Token<'a>>, Stop> {
        let At { at, value: event } = self.event()?;
        let token = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_anchor(at, anchor);
                self.refuse_tag(at, tag.is_some());
                Token::Scalar(Scalar { text, plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_anchor(at, anchor);
                self.refuse_tag(at, tag.is_some());
                self.enter(at)?;
                Token::List
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_anchor(at, anchor);
                self.refuse_tag(at, tag.is_some());
                self.enter(at)?;
                Token::Mapping
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.depth = self.depth.saturating_sub(1);
                Token::End
            }
            Event::Alias(_) => {
                self.remarks.error(
                    at,
                    "an alias (*) stands here",
                    "aliases are not supported: write the value out",
                );
                Token::Refused
            }
            Event::DocumentEnd
            | Event::StreamEnd
            | Event::StreamStart
            | Event::DocumentStart(_)
            | Event::Nothing => {
                return Err(self.remarks.stop(at, "the file ends in the middle", ()));
            }
        };
        Ok(At { at, value: token })
    }

    /// Reads to the end of what `token` began.
    pub(super) fn skip(&mut self, token: &Token<'a>) -> Result<(), Stop> {
        if !matches!(token, Token::List | Token::Mapping) {
            return Ok(());
        }
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            self.next()?;
        }
        Ok(())
    }

    fn event(&mut self) -> Result<At<Event<'a>>, Stop> {
        self.remarks.hope()?;
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok(At { at: position(&span.start), value: event }),
            Some(Err(error)) => Err(self.refuse_syntax(&error)),
            None => Ok(At { at: Position { line: 1, column: 1 }, value: Event::StreamEnd }),
        }
    }

    fn refuse_syntax(&mut self, error: &ScanError) -> Stop {
        let info = error.info();
        let help = match info {
            _ if info.contains("tab") => Some("indent with spaces"),
            _ if info.contains("anchor") => {
                Some("anchors and aliases are not supported: write the value out")
            }
            _ if info.contains("flow") || info.contains("bracket") => Some(
                "look for a bracket, brace or comma that is missing, and put addresses that hold [ ] in quotes",
            ),
            _ if info.contains("quoted") => Some("look for a quote that is not closed"),
            _ if info.contains("block") || info.contains("indent") || info.contains("key") => {
                Some("look at the indentation and for a missing ': '")
            }
            _ => Some("look at this line and the one before it"),
        };
        // The scanner ends the service before it sees that something is wrong; nothing can be said to lack then.
        if let Some(at) = self.service_at {
            self.remarks.forget(at);
        }
        self.remarks.stop(
            position(error.marker()),
            format!("this is no YAML: {info}"),
            help.map(String::from),
        )
    }

    fn refuse_anchor(&mut self, at: Position, anchor: usize) {
        if anchor > 0 {
            self.remarks.error(at, "this value has an anchor (&)", "anchors are not supported: take it out");
        }
    }

    fn refuse_tag(&mut self, at: Position, tagged: bool) {
        if tagged {
            self.remarks.error(at, "this value has a tag (!)", "tags are not supported: take it out");
        }
    }

    fn enter(&mut self, at: Position) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth <= DEEPEST {
            return Ok(());
        }
        Err(self.remarks.stop(at, format!("more than {DEEPEST} levels of nesting"), "the format needs 9"))
    }
}

fn position(marker: &Marker) -> Position {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: narrow(marker.line()).max(1), column: narrow(marker.col()).saturating_add(1) }
}
