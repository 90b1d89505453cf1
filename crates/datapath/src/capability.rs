//! What the kernel could do for the mesh and nothing of it needs yet: told by `make test-kernels`, so that whoever
//! thinks of using it knows where it would work.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder};

use crate::error::io_error;
use crate::load::object;
use crate::log::Log;
use crate::rejection::LINES_KEPT;
use crate::{Error, Refused, environment};

/// Tries a program on a function of the kernel (fentry): attaches it, dials loopback and looks whether it ran.
pub fn fentry() -> Result<(), String> {
    sees_a_connect("trial_fentry", object!("trial_fentry"))
}

/// Tries a program as a security module. It forbids nothing.
pub fn lsm() -> Result<(), String> {
    sees_a_connect("trial_lsm", object!("trial_lsm"))
}

fn sees_a_connect(name: &str, bytes: &[u8]) -> Result<(), String> {
    environment::check_root().map_err(|error: Error| error.to_string())?;
    let log = Log::begin(LINES_KEPT);
    let refused = |error: libbpf_rs::Error| Refused::from_log(log.take_with(&error)).rule;
    let opened = ObjectBuilder::default().name(name).and_then(|builder| builder.open_memory(bytes));
    let object = opened.and_then(|object| object.load()).map_err(refused)?;
    let unwell = |error: io::Error| error.to_string();
    watch(&object).map_err(unwell)?;
    let program = object.progs_mut().next().ok_or("the object holds no program")?;
    let _link = program.attach().map_err(|error| format!("cannot be attached: {}", io_error(error)))?;
    dial().map_err(unwell)?;
    match counted(&object).map_err(unwell)? {
        1 => Ok(()),
        0 => Err("it can be attached, but does not run".into()),
        number => Err(format!("it ran {number} times for one connect")),
    }
}

/// The globals `watched` and `counted`: one map of the compiler's, of which the kernel keeps the first letters.
fn globals(object: &Object) -> io::Result<libbpf_rs::Map<'_>> {
    let found = object.maps().find(|map| map.name().to_string_lossy().ends_with(".bss"));
    found.ok_or_else(|| io::Error::other("the object holds no globals"))
}

fn watch(object: &Object) -> io::Result<()> {
    let mut value = vec![0; globals(object)?.value_size() as usize];
    value[..4].copy_from_slice(&std::process::id().to_ne_bytes());
    globals(object)?.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY).map_err(io_error)
}

fn counted(object: &Object) -> io::Result<u64> {
    let value = globals(object)?.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(io_error)?;
    let bytes = value.as_deref().and_then(|value| value.get(8..16)).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_ne_bytes).ok_or_else(|| io::Error::other("the globals are too small"))
}

fn dial() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    TcpStream::connect(listener.local_addr()?).map(drop)
}
