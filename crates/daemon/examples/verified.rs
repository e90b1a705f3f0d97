//! Prints how much of the verifier's patience each program takes.

use keepstate_daemon::kernel::Kernel;
use keepstate_engine::settings::Settings;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut kernel = Kernel::private(&Settings::defaults(1 << 16, [1 << 13, 1 << 12]))?;
    for verified in kernel.programs.verified()? {
        println!(
            "{:<16} {:>8} of 1000000 instructions, {:>6} bytes",
            verified.program,
            verified.instructions.unwrap_or(0),
            verified.bytes.unwrap_or(0)
        );
    }
    Ok(())
}
