//! What the daemon begins with: programs and maps that it finds, or that it loads.

use std::fs;

use keepstate_api::Instance;
use keepstate_engine::settings::Settings;
use keepstate_flowmemory::{
    ban_buckets_for, random_hash_keys, random_secret, set_buckets_for, table_size,
};
use keepstate_listing::sysctl as knobs;

use crate::attach;
use crate::hand_over::{self, HandOver};
use crate::kernel::{Kernel, KernelError, layout, object_number, pinned_build};
use crate::resize;
use crate::run::{FLOWS_MAX_DEFAULT, Options, RunError, make_directory, remove_files};
use crate::server::Origin;

/// Programs and maps, and where they are from.
pub(crate) struct Loaded {
    pub(crate) kernel: Kernel,
    pub(crate) origin: Origin,
    /// They are to take the place of others, whose layout is another.
    pub(crate) hand_over: Option<(HandOver, Left)>,
}

/// What is left to be handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    All,
    /// A daemon was killed after packets had come to the new programs.
    Flows,
}

/// Whether programs filter that a daemon of this version would take over; an error where it could not.
pub fn find_adoptable(instance: &Instance) -> Result<bool, RunError> {
    let pins = instance.pins();
    match pinned_build(&pins)? {
        _ if instance.pins_before().exists() => Ok(true),
        None => Ok(false),
        Some((found, _)) if found == layout() => Ok(true),
        Some((found, _)) => match hand_over::check(instance, &pins) {
            Ok(_) => Ok(true),
            Err(why) => Err(KernelError::Layout { found, why }.into()),
        },
    }
}

/// Programs and maps: those that are pinned, or new ones.
pub(crate) fn load(options: &Options) -> Result<Loaded, RunError> {
    let instance = &options.instance;
    let pins = instance.pins();
    let goes_on = hand_over::resume(instance)?;
    match pinned_build(&pins) {
        Ok(Some((found, _))) if found != layout() && goes_on => {
            let why = "a daemon of that version was killed while it took over from one before: start that one first";
            let why = why.to_owned();
            return Err(KernelError::Layout { found, why }.into());
        }
        Ok(Some((found, _))) if found != layout() => return load_beside(options),
        _ => {}
    }
    if let Ok(Some((_, object))) = pinned_build(&pins) {
        resize::tidy(&pins)?;
        // Where flows are being moved from one table to another, that comes to its end first, by the
        // programs that are there. The next daemon brings its own.
        let is_resizing = resize::find(&pins)?.is_some();
        let adopted = if object == object_number() || is_resizing {
            Kernel::adopt(&pins)
        } else {
            Kernel::pinned(&pins, &settings(options)?)
        };
        match adopted {
            Ok(kernel) => {
                let hand_over = match goes_on {
                    true => Some((HandOver::begin(instance)?, Left::Flows)),
                    false => None,
                };
                return Ok(Loaded {
                    kernel,
                    origin: Origin::Adopted,
                    hand_over,
                });
            }
            Err(error) if attach::is_attached(&pins) => {
                return Err(RunError::Leftovers(pins, Box::new(error)));
            }
            // A daemon was killed before it had pinned everything.
            Err(_) => {}
        }
    }
    attach::remove_pins(&pins)?;
    make_directory(&pins)?;
    match Kernel::pinned(&pins, &settings(options)?) {
        Ok(kernel) => Ok(Loaded {
            kernel,
            origin: Origin::Fresh,
            hand_over: None,
        }),
        Err(error) => {
            let _ = attach::remove_pins(&pins);
            remove_files(&options.instance);
            let _ = fs::remove_file(options.instance.lock());
            Err(error.into())
        }
    }
}

/// New ones beside those of another layout, with its knobs.
fn load_beside(options: &Options) -> Result<Loaded, RunError> {
    let instance = &options.instance;
    let hand_over = HandOver::begin(instance)?;
    let load = || -> Result<Kernel, RunError> {
        let mut options = options.clone();
        let named = std::mem::replace(&mut options.sysctls, hand_over.sysctls()?);
        options.sysctls.extend(named);
        let pins = instance.pins();
        make_directory(&pins)?;
        Ok(Kernel::pinned(&pins, &settings(&options)?)?)
    };
    match load() {
        Ok(kernel) => Ok(Loaded {
            kernel,
            origin: Origin::Adopted,
            hand_over: Some((hand_over, Left::All)),
        }),
        Err(error) => {
            hand_over::resume(instance)?;
            Err(error)
        }
    }
}

fn settings(options: &Options) -> Result<Settings, RunError> {
    let sysctls = &options.sysctls;
    let (flows, buckets) = knobs::table_size(sysctls);
    let (flows_max, buckets) = table_size(flows, buckets, FLOWS_MAX_DEFAULT);
    let mut settings = Settings::defaults(flows_max, [buckets; 2]);
    settings.bans.buckets = ban_buckets_for(options.bans_max);
    settings.sets.buckets = set_buckets_for(options.set_entries_max);
    settings.hash_keys = random_hash_keys().map_err(RunError::Random)?;
    for secret in &mut settings.synproxy.secrets {
        *secret = random_secret().map_err(RunError::Random)?;
    }
    for sysctl in sysctls {
        sysctl.apply(&mut settings);
    }
    Ok(settings)
}
