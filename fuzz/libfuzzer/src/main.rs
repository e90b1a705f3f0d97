//! libFuzzer around the harnesses of `keepstate-fuzz`. `KEEPSTATE_FUZZ_TARGET` names the one.

#![no_main]

use std::sync::OnceLock;

use keepstate_fuzz::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    (target().run)(data);
});

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("KEEPSTATE_FUZZ_TARGET").unwrap_or_default();
        keepstate_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}`"))
    })
}
