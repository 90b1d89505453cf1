//! Waiting until no kernel program can still be using what was taken out of use.

use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// Whether [`period`] can wait on this machine.
///
/// The kernel refuses `MEMBARRIER_CMD_GLOBAL` on machines with `nohz_full` CPUs.
pub(crate) fn is_possible() -> bool {
    membarrier_query().contains(MembarrierQuery::GLOBAL)
}

/// Returns when every program that ran when it was called has ended; false when the kernel cannot tell.
///
/// `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()` (kernel/sched/membarrier.c), and programs at cgroup hooks run inside
/// an RCU read section. It takes 8 to 25 ms, so nothing that a caller waits for should come after it.
pub(crate) fn period() -> bool {
    membarrier(MembarrierCommand::Global).is_ok()
}
