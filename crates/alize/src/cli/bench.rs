//! `alize bench`: figures of this machine.

use alize_bench::http::{Arguments, Error, run};

use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn bench(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    match run(arguments, env!("CARGO_PKG_VERSION")) {
        Ok(Some(answer)) => output.answer(&answer, || answer.text().to_owned()),
        Ok(None) => Ok(()),
        Err(Error::File(error)) => {
            output.failure(&Failure::Other(error));
            Err(Failure::BadFile)
        }
        Err(error @ Error::NotRoot) => Err(Failure::Missing {
            what: error.to_string(),
            mend: "run it with sudo; `alize bench --from FILE` shows a run that was kept, without".into(),
        }),
        Err(Error::Other(error)) => Err(Failure::Other(error)),
    }
}
