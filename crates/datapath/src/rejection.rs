//! An object that the kernel refused: what people are told of it, and the file that holds all that was said.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Refused;
use crate::pin::Pins;

/// Lines of what was said that are kept while an object is loaded: the end says why. A whole log may have a million.
pub(crate) const LINES_KEPT: usize = 20_000;

/// Bytes of a file, at most. There is one for each object of an instance, of its last rejection.
const LARGEST: usize = 1 << 20;

/// An object that the kernel refused, and what is off because of it.
#[derive(Debug)]
pub struct Rejection {
    /// Name of the object file.
    pub object: String,
    /// What is off; `None`: nothing works without it.
    pub lost: Option<&'static str>,
    /// The release of the kernel that refused it.
    pub kernel: String,
    /// What the kernel said, put into words.
    pub refused: Refused,
    /// Where all that was said is kept.
    pub log: Option<PathBuf>,
}

impl Rejection {
    /// Of `object`, with what was `said`; keeps all of that in a file of the instance.
    pub(crate) fn new(object: &str, lost: Option<&'static str>, said: Vec<String>, pins: &Pins) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let refused = Refused::from_log(said);
        let path = pins.rejection(object);
        let log = path.and_then(|path| match keep(&path, &refused.log) {
            Ok(()) => Some(path),
            Err(error) => {
                tracing::warn!(
                    "what the kernel said of {object} cannot be kept in {}: {error}",
                    path.display()
                );
                None
            }
        });
        Self { object: object.into(), lost, kernel: kernel.trim().into(), refused, log }
    }

    /// In one line: what is lost, why, and where more is told.
    pub fn in_short(&self) -> String {
        let lost = self.lost.unwrap_or("nothing works");
        let log = self.log.as_ref().map(|path| format!("; all that was said: {}", path.display()));
        format!("{lost} ({}{})", self.refused, log.unwrap_or_default())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { program, source, rule, mend, lines, .. } = &self.refused;
        match program {
            Some(program) => write!(f, "the kernel refuses program {program} of object {}", self.object)?,
            None => write!(f, "the kernel refuses object {}", self.object)?,
        }
        let mut fact = |name: &str, value: &str| write!(f, "\n  {name:<9} {value}");
        fact("why", rule)?;
        if let Some(source) = source {
            fact("at", source)?;
        }
        fact("kernel", &format!("Linux {}", self.kernel))?;
        fact("off", self.lost.unwrap_or("everything: nothing works without it"))?;
        if let Some(mend) = mend {
            fact("mend", mend)?;
        }
        if let Some(log) = &self.log {
            fact("whole log", &log.display().to_string())?;
        }
        for line in lines {
            fact("|", line)?;
        }
        Ok(())
    }
}

/// Writes the end of what was said to `path`, for root alone: it has addresses of the kernel in it.
fn keep(path: &Path, said: &[String]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut left = LARGEST;
    let fits = said.iter().rev().take_while(|line| {
        let size = line.len() + 1;
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    });
    let first = said.len() - fits.count();
    // A link that somebody has put there is replaced and not followed.
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all((said[first..].join("\n") + "\n").as_bytes())?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(name: &str) -> (Pins, PathBuf) {
        let folder = std::env::temp_dir().join(format!("alize-rejection-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let options = crate::Options {
            instance: "x".into(),
            bpffs: "/nowhere".into(),
            run_dir: folder.clone(),
            cgroups: Vec::new(),
            budgets: alize_model::Budgets::default(),
        };
        (Pins::new(&options).unwrap(), folder)
    }

    #[test]
    fn people_are_told_everything_and_the_whole_is_in_a_file() {
        let (pins, folder) = pins("told");
        let said = "libbpf: prog 'alize_x': BPF program load failed: -EACCES\n\
                    ; return ctx->sk->state; @ x.bpf.c:57\n\
                    R2 invalid mem access 'sock_or_null'\n\
                    Permission denied (os error 13)";
        let lines = said.lines().map(str::to_owned).collect();
        let mut rejection = Rejection::new("x", Some("nobody sees it"), lines, &pins);
        rejection.kernel = "6.1.0".into();
        let log = folder.join("refused/x.x.log");
        assert_eq!(
            rejection.to_string(),
            format!(
                "the kernel refuses program alize_x of object x
  why       what may be absent (NULL) is used without asking whether it is there
  at        return ctx->sk->state; @ x.bpf.c:57
  kernel    Linux 6.1.0
  off       nobody sees it
  whole log {}
  |         ; return ctx->sk->state; @ x.bpf.c:57
  |         R2 invalid mem access 'sock_or_null'",
                log.display()
            )
        );
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("{said}\n"));
        let short = rejection.in_short();
        assert!(short.starts_with("nobody sees it (what may be absent"), "{short}");
        assert!(short.ends_with(&format!("all that was said: {})", log.display())), "{short}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_has_the_end_and_is_bounded() {
        let (pins, folder) = pins("bounded");
        let path = pins.rejection("large").unwrap();
        for round in 0..3 {
            let mut lines: Vec<String> = (0..20_000).map(|line| format!("{line:>99}")).collect();
            lines.push(format!("the reason of round {round}"));
            keep(&path, &lines).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= LARGEST && text.len() > LARGEST - 200, "{}", text.len());
        assert!(text.ends_with("\nthe reason of round 2\n") && text.starts_with("   "));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "one for each object");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_kept_is_told_all_the_same() {
        let (pins, folder) = pins("unkept");
        fs::write(&folder, "no folder").unwrap();
        let rejection = Rejection::new("x", None, vec!["Operation not permitted (os error 1)".into()], &pins);
        assert_eq!(rejection.log, None);
        assert!(rejection.to_string().contains("off       everything"), "{rejection}");
        assert!(rejection.to_string().contains("mend      run as root"), "{rejection}");
        fs::remove_file(folder).unwrap();
    }
}
