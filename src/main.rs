//! The server binary.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h.
const PURGE_DELAY: c_int = 15;

/// Pages that are freed go back to the operating system at once. By default they wait for a later allocation, which a server
/// at rest does not make: the weights of generations that were swapped out would stay resident.
fn purge_at_once() {
    #[expect(unsafe_code, reason = "the allocator's own interface")]
    unsafe extern "C" {
        fn mi_option_set_default(option: c_int, value: c_long);
    }
    #[expect(unsafe_code, reason = "the allocator's own interface")]
    // SAFETY: the signature is mimalloc.h's, the call takes no pointers, and no other thread runs yet.
    unsafe {
        mi_option_set_default(PURGE_DELAY, 0);
    }
}

fn main() -> ExitCode {
    purge_at_once();
    match spar::cli::Cli::typed().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", spar::causes::one_line(&*error));
            ExitCode::FAILURE
        }
    }
}
