//! The commands, one module each.

pub(crate) mod args;

mod apply;
mod bench;
mod bundle;
mod caller;
mod check;
mod doctor;
mod dump;
mod endpoints;
mod explain;
mod live;
mod map;
mod mode;
mod notes;
mod programs;
mod proxy;
#[cfg(test)]
mod reference;
mod routes;
mod run;
mod services;
mod shadow;
mod shell;
mod status;
mod surroundings;
mod top;
mod trace;
mod traffic;
mod trial;
mod unload;
mod upgrade;
mod versions;
mod watch;

use std::future::Future;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use args::{Cli, Command, Global, ShadowCommand};

/// Does what the command line says.
pub(crate) fn dispatch(cli: Cli, output: Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => run::run(&global, args.agent, args.file, output),
        Command::Agent(args) => run::run(&global, args.agent, args.config, output),
        Command::Proxy(args) => proxy::proxy(&global, args, output),
        Command::Check(args) => check::check(args, output),
        Command::Apply(args) => block_on(apply::apply(&client(&global), args, output)),
        Command::Status => block_on(status::status(&client(&global), output)),
        Command::Services(args) => block_on(services::services(&client(&global), args, output)),
        Command::Endpoints(args) => block_on(endpoints::endpoints(&client(&global), args, output)),
        Command::Watch(args) => block_on(watch::watch(&client(&global), args, output)),
        Command::Doctor(args) => doctor::doctor(&global, args, output),
        Command::Programs(args) => programs::programs(&global, args, output),
        Command::Mode(args) => block_on(mode::mode(&client(&global), args, output)),
        Command::Shadow(ShadowCommand::Report(args)) => {
            block_on(shadow::report(&client(&global), args, output))
        }
        Command::Explain(args) => explain::explain(&global, args, output),
        Command::Upgrade(args) => upgrade::upgrade(&global, args, output),
        Command::Rollback(args) => upgrade::rollback(&global, args, output),
        Command::Bundle(command) => bundle::bundle(command, output),
        Command::Trace(args) => block_on(trace::trace(&client(&global), *args, output)),
        Command::Map(args) => block_on(map::map(&client(&global), args, output)),
        Command::Top(args) => block_on(top::top(&client(&global), &args, output)),
        Command::Bench(args) => bench::bench(&args, output),
        Command::Unload(args) => unload::unload(&global, args, output),
        Command::Schema => shell::schema(),
        Command::Completions(args) => shell::completions(args.shell),
        Command::Man(args) => shell::man(args.dir),
        Command::Version => shell::version(output),
    }
}

fn client(global: &Global) -> Client {
    let socket =
        global.socket.clone().unwrap_or_else(|| socket_in(Path::new("/run/alize"), &global.instance));
    Client::new(global.instance.clone(), socket)
}

/// The socket of `instance` in the folder `run_dir`.
fn socket_in(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.sock"))
}

/// Runs `future` on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::Other(anyhow::Error::new(error).context("cannot start")))?
        .block_on(future)
}
