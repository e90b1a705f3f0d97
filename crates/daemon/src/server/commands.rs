//! The commands of iptables and iptables-restore, carried out on the rules in force.
//!
//! Each is a step of its own: others wait, no packet sees half of it, and what a chain has counted stays.

use keepstate_api::{ApplyMode, Printed, Request, Restore, RuleFamily};
use keepstate_engine::tuple::Family;
use keepstate_policy::model::TableKind;
use keepstate_policy::{
    Complaint, Flush, IPTABLES_VERSION, Policy, RestoreOptions, Style, UseCounters,
};

use super::Shared;
use super::answer::chain;
use super::plane::PlaneError;
use super::rules::{ApplyError, InForce, State};

/// iptables' exit codes: what could not be done, and a table that cannot be had.
const FAILED: u8 = 4;
const NO_TABLE: u8 = 3;

pub(super) const UNKNOWN: &str = "the text of the rules in force is not known: put rules in force with \
                       `keepstate apply` or iptables-restore first";

/// How `keepstate status` names the origin of rules that were made one by one.
const ORIGIN: [&str; 2] = ["iptables", "ip6tables"];

/// Whether a request leaves everything as it is; of a command of iptables its arguments say.
pub(super) fn only_asks(request: &Request) -> bool {
    match request {
        Request::Iptables { family, arguments } => {
            keepstate_policy::only_lists(engine_family(*family), arguments)
        }
        request => request.only_asks(),
    }
}

pub(super) fn iptables(
    shared: &Shared,
    family: RuleFamily,
    arguments: &[String],
) -> Result<Printed, PlaneError> {
    let family = engine_family(family);
    let program = ORIGIN[family as usize];
    let mut state = shared.rules.lock();
    let Some(mut policy) = current(shared, &state)? else {
        return Ok(refused(program, UNKNOWN, NO_TABLE));
    };
    let output = match policy.apply_command(family, arguments) {
        Ok(output) => output,
        Err(error) => {
            return Ok(Printed {
                stdout: String::new(),
                stderr: error.iptables_text(program),
                exit_code: error.exit_code(),
            });
        }
    };
    if output.changed {
        let origins = origins(&state, program);
        let replaced =
            shared
                .rules
                .replace(&*shared.plane, &mut state, policy, origins, ApplyMode::Swap);
        if let Err(error) = replaced {
            return Ok(refused(program, &told(&error), FAILED));
        }
    }
    let note = output
        .note
        .map(|note| format!("{program} {IPTABLES_VERSION}: {note}\n"));
    Ok(Printed {
        stdout: output.stdout,
        stderr: note.unwrap_or_default(),
        exit_code: 0,
    })
}

pub(super) fn restore(shared: &Shared, restore: &Restore) -> Result<Printed, PlaneError> {
    let family = engine_family(restore.file.family);
    let program = ["iptables-restore", "ip6tables-restore"][family as usize];
    let mut options = RestoreOptions {
        counters: if restore.counters {
            UseCounters::Yes
        } else {
            UseCounters::No
        },
        flush: if restore.no_flush {
            Flush::No
        } else {
            Flush::Yes
        },
        table: None,
    };
    if let Some(name) = &restore.table {
        options.table = TableKind::ALL.into_iter().find(|kind| kind.name() == name);
        if options.table.is_none() {
            let message = format!("table `{name}\' does not exist or cannot be had");
            return Ok(refused(program, &message, NO_TABLE));
        }
    }
    let mut state = shared.rules.lock();
    // Without its text only a part of what is in force could be kept: the other family is lost.
    let mut policy = current(shared, &state)?.unwrap_or_default();
    let text = &restore.file.text;
    let notes = match policy.restore(family, text, options) {
        Ok(notes) => notes,
        Err(diagnostics) => {
            let Complaint { text, exit_code } = Complaint::of_restore(program, &diagnostics);
            return Ok(Printed {
                stdout: String::new(),
                stderr: text,
                exit_code,
            });
        }
    };
    let origins = vec![restore.file.origin.clone()];
    let replaced = shared
        .rules
        .replace(&*shared.plane, &mut state, policy, origins, restore.mode);
    if let Err(error) = replaced {
        return Ok(refused(program, &told(&error), FAILED));
    }
    let rendered = notes
        .iter()
        .map(|note| note.render(&restore.file.origin, Style::Plain) + "\n");
    Ok(Printed {
        stdout: String::new(),
        stderr: rendered.collect(),
        exit_code: 0,
    })
}

/// The rules in force with their counters; `None` where their text is lost.
pub(super) fn current(shared: &Shared, state: &State) -> Result<Option<Policy>, PlaneError> {
    Ok(match &state.in_force {
        InForce::Nothing => Some(Policy::default()),
        InForce::Known(known) => Some(known.counted(&*shared.plane)?),
        InForce::Unknown => None,
    })
}

pub(super) fn origins(state: &State, program: &str) -> Vec<String> {
    let mut origins = match &state.in_force {
        InForce::Known(known) => known.origins.clone(),
        InForce::Nothing | InForce::Unknown => Vec::new(),
    };
    if !origins.iter().any(|origin| origin == program) {
        origins.push(program.to_owned());
    }
    origins
}

fn refused(program: &str, message: &str, exit_code: u8) -> Printed {
    Printed {
        stdout: String::new(),
        stderr: format!("{program} {IPTABLES_VERSION}: {message}\n"),
        exit_code,
    }
}

/// What is wrong, in a line.
pub(super) fn told(error: &ApplyError) -> String {
    match error {
        ApplyError::Rules(problems) => {
            let messages: Vec<&str> = problems.iter().map(|it| it.message.as_str()).collect();
            messages.join("; ")
        }
        error => chain(error),
    }
}

const fn engine_family(family: RuleFamily) -> Family {
    match family {
        RuleFamily::V6 => Family::V6,
        // The programs know their family; only files leave it open.
        RuleFamily::V4 | RuleFamily::Detect => Family::V4,
    }
}
