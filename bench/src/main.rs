//! `alize-bench`: balancing at connect(). The benchmark of HTTP is `alize bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    alize_bench::connect::main()
}
