//! The `doorward` command.

/// Many small, short-lived allocations on many threads: measured a tenth cheaper per request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    doorward::cli::main()
}
