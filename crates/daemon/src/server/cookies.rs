//! SYN cookies: when they are sent, and what the host's TCP makes of them.

use std::fs;

use keepstate_api::{CookieChange, CookieMarks, CookieMode, CookieStatus, FailureKind, Reply};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::settings::{
    COOKIE_ECN, COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, COOKIES_ALWAYS, COOKIES_AUTO,
    CookieSettings, SETTING_COOKIES, SETTING_SYNPROXY, Settings,
};
use keepstate_engine::synproxy;
use keepstate_engine::table::{self, gauges};
use keepstate_engine::verdict::Reason;
use keepstate_flowmemory::random_secret;

use super::Shared;
use super::connection::failure;
use super::plane::PlaneError;

/// Below `/proc/sys/net`, where a namespace sees its own.
const SYNCOOKIES: &str = "ipv4/tcp_syncookies";
const TIMESTAMPS: &str = "ipv4/tcp_timestamps";
const SCALING: &str = "ipv4/tcp_window_scaling";
const SACK: &str = "ipv4/tcp_sack";
const ECN: &str = "ipv4/tcp_ecn";
const RECEIVE_BUFFERS: &str = "ipv4/tcp_rmem";
const RECEIVE_BUFFER_MAX: &str = "core/rmem_max";

/// `net.core.rmem_max` of a namespace that does not show it.
const RECEIVE_BUFFER_MAX_DEFAULT: u32 = 212_992;

/// `TCP_MAX_WSCALE`.
const SCALE_MAX: u32 = 14;

/// What of the host's settings matters.
struct Host {
    syncookies: u32,
    timestamps: u32,
    scaling: u32,
    sack: u32,
    ecn: u32,
    /// Largest receive buffer that a socket may get.
    receive_buffer: u32,
}

impl Host {
    fn read() -> Self {
        let number = |name: &str| numbers(name).first().copied().unwrap_or(0);
        let buffers = numbers(RECEIVE_BUFFERS);
        let buffer_max = numbers(RECEIVE_BUFFER_MAX);
        let buffer_max = buffer_max.first().copied();
        Self {
            syncookies: number(SYNCOOKIES),
            timestamps: number(TIMESTAMPS),
            scaling: number(SCALING),
            sack: number(SACK),
            ecn: number(ECN),
            receive_buffer: buffers
                .get(2)
                .copied()
                .unwrap_or(0)
                .max(buffer_max.unwrap_or(RECEIVE_BUFFER_MAX_DEFAULT)),
        }
    }

    /// What `tcp_select_initial_window` gives a socket whose buffer nobody has set.
    fn scale(&self) -> u32 {
        let bits = self.receive_buffer.max(1).ilog2();
        bits.saturating_sub(15).min(SCALE_MAX)
    }

    fn put(&self, settings: &mut Settings) {
        let mut options = 0;
        if self.timestamps == 2 {
            options |= COOKIE_TIMESTAMPS;
        }
        if self.scaling != 0 {
            options |= COOKIE_SCALING;
        }
        if self.sack != 0 {
            options |= COOKIE_SACK;
        }
        // 3 to 5 are of AccECN, whose handshake is another.
        if matches!(self.ecn, 1 | 2) {
            options |= COOKIE_ECN;
        }
        settings.cookies.options = options;
        settings.cookies.scale = self.scale();
        settings.flags &= !SETTING_COOKIES;
        if settings.cookies.mode != 0 && self.syncookies == 2 {
            settings.flags |= SETTING_COOKIES;
        }
    }

    fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if self.syncookies != 2 {
            obstacles.push(format!(
                "net.ipv4.tcp_syncookies is {}, and with anything but 2 TCP refuses cookies that it has not sent: \
                 none are sent",
                self.syncookies
            ));
        }
        if self.timestamps != 2 {
            obstacles.push(format!(
                "net.ipv4.tcp_timestamps is {}, and with anything but 2 window scale and SACK are lost",
                self.timestamps
            ));
        }
        obstacles
    }
}

fn numbers(name: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default();
    let words = text.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Gives SYNPROXY the secret of its next turn, once, when nothing that was made with the one before can come back.
/// `changed` is the turn in which that was last done.
pub(super) fn rotate(shared: &Shared, changed: &mut Option<u32>) {
    const PERIODS: u32 = 1 << synproxy::TURN_SHIFT;
    let period = synproxy::period(shared.plane.now());
    let turn = period / PERIODS;
    let settings = shared.plane.settings();
    // A change of settings at the moment when the rules came in may have undone it.
    let is_missing = !settings.has(SETTING_SYNPROXY) && shared.rules.have_synproxy();
    let is_due = period % PERIODS >= 2 && *changed != Some(turn);
    if !is_missing && !is_due {
        return;
    }
    let secret = match random_secret() {
        Ok(secret) if is_due => Some(secret),
        _ => None,
    };
    let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
        if is_missing {
            settings.flags |= SETTING_SYNPROXY;
        }
        if let Some(secret) = secret {
            settings.synproxy.secrets[1 - synproxy::turn(period)] = secret;
        }
        Ok(())
    });
    let Ok(()) = result;
    if secret.is_some() {
        *changed = Some(turn);
    }
}

/// Tells packets what the host's settings are now.
pub(super) fn follow(shared: &Shared) {
    if shared.plane.settings().cookies.mode == 0 {
        return;
    }
    let host = Host::read();
    let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
        host.put(settings);
        Ok(())
    });
    let Ok(()) = result;
}

pub(super) fn set(shared: &Shared, change: &CookieChange) -> Result<Reply, PlaneError> {
    let host = Host::read();
    let changed: Result<(), &str> = shared.change_settings(|settings| {
        let old = settings.cookies;
        let [high, low] = marks([old.high, old.low], [change.high, change.low])?;
        let marks_of_destination = [old.destination_high, old.destination_low];
        let named = [change.destination_high, change.destination_low];
        let [destination_high, destination_low] = marks(marks_of_destination, named)?;
        settings.cookies = CookieSettings {
            mode: change.mode.map_or(old.mode, number),
            high,
            low,
            destination_high,
            destination_low,
            ..old
        };
        let synproxy = &mut settings.synproxy;
        synproxy.mode = change.synproxy.map_or(synproxy.mode, number);
        host.put(settings);
        Ok(())
    });
    match changed {
        Ok(()) => status(shared).map(Reply::Cookies),
        Err(message) => Ok(failure(FailureKind::Invalid, message.to_owned())),
    }
}

/// A low mark that is not named follows the high one down.
fn marks(old: [u32; 2], named: [Option<u32>; 2]) -> Result<[u32; 2], &'static str> {
    let [high, low] = named;
    let high = high.unwrap_or(old[0]);
    let low = low.unwrap_or(old[1].min(high));
    if low > high {
        return Err("the low mark would be above the high one");
    }
    Ok([high, low])
}

const fn number(mode: CookieMode) -> u32 {
    match mode {
        CookieMode::Never => 0,
        CookieMode::Auto => COOKIES_AUTO,
        CookieMode::Always => COOKIES_ALWAYS,
    }
}

pub(super) fn status(shared: &Shared) -> Result<Box<CookieStatus>, PlaneError> {
    let settings = shared.plane.settings();
    let counters = shared.plane.counters()?;
    let table = shared.plane.table();
    let memory = table.flows();
    let gauge = |word| memory.gauges().map_or(0, |words| words.load(word));
    let cookies = &settings.cookies;
    let host = Host::read();
    let is_on = settings.has(SETTING_COOKIES);
    let mode = match cookies.mode {
        COOKIES_AUTO => CookieMode::Auto,
        COOKIES_ALWAYS => CookieMode::Always,
        _ => CookieMode::Never,
    };
    let counted = |reason: Reason| counters.reasons[reason as usize];
    let (half_open_of_destination, destinations_pressed) = table::pressure(&memory);
    let is_table_pressed = gauge(gauges::COOKIES) & keepstate_engine::cookie::ACTIVE != 0;
    Ok(Box::new(CookieStatus {
        mode,
        synproxy: match settings.synproxy.mode {
            COOKIES_AUTO => CookieMode::Auto,
            _ => CookieMode::Always,
        },
        active: is_on
            && match mode {
                CookieMode::Never => false,
                CookieMode::Auto => is_table_pressed || destinations_pressed > 0,
                CookieMode::Always => true,
            },
        half_open: (gauge(gauges::HALF_OPEN) as i64).max(0) as u64,
        marks: CookieMarks {
            high: cookies.high,
            low: cookies.low,
        },
        half_open_of_destination,
        destination_marks: CookieMarks {
            high: cookies.destination_high,
            low: cookies.destination_low,
        },
        destinations_pressed,
        sent: counted(Reason::CookieSent),
        accepted: gauge(gauges::COOKIES_ACCEPTED),
        refused: counted(Reason::CookieRefused),
        unanswerable: counted(Reason::CookieUnanswerable),
        scale: (host.timestamps == 2 && host.scaling != 0).then(|| host.scale()),
        obstacles: match mode {
            CookieMode::Never => Vec::new(),
            _ => host.obstacles(),
        },
    }))
}
