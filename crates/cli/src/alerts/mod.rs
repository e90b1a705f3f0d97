//! What is wrong, told when it begins and when it is over.

mod delivery;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keepstate_api::{Client, ClientError, DefenceStatus, Instance, Reply, Request, Status};
use keepstate_daemon::journal::{Journal, Priority};
use keepstate_defence::StepState;
use serde_json::{Value, json};

pub(crate) use self::delivery::Receiver;
use self::delivery::{Courier, Wait};
use crate::health::{self, FLOOD, STEP};

/// What is told of besides what [`health`] finds.
const SILENT: &str = "daemon";

/// The name of each alert that there is.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    health::NAMES.into_iter().chain([FLOOD, STEP, SILENT])
}

/// How long a daemon may take for an answer before that is told of.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again, until a receiver's thread cannot be started.
pub(crate) fn watch(
    instance: &Instance,
    only: &[String],
    every: Duration,
    receivers: Vec<Receiver>,
) -> anyhow::Result<ExitCode> {
    let mut couriers = Vec::new();
    for receiver in receivers {
        couriers.push(Courier::start(receiver, Wait::USUAL)?);
    }
    let mut watcher = Watcher::default();
    let journal = Journal::open();
    loop {
        let look = Look::take(instance);
        for alert in watcher.compare(instance.as_str(), look) {
            let name = alert["name"].as_str().unwrap_or_default();
            if !only.is_empty() && only.iter().all(|only| only != name) {
                continue;
            }
            journal.write(Priority::Warning, &line(name, &alert), &fields(&alert));
            for courier in &couriers {
                courier.send(alert.clone());
            }
        }
        thread::sleep(every);
    }
}

fn line(name: &str, alert: &Value) -> String {
    let text = |key: &str| alert[key].as_str().unwrap_or_default().to_owned();
    format!("alert {name} {}: {}", text("state"), text("message"))
}

fn fields(alert: &Value) -> [(&'static str, String); 4] {
    [
        ("KEEPSTATE_ALERT", "name"),
        ("KEEPSTATE_STATE", "state"),
        ("KEEPSTATE_SEVERITY", "severity"),
        ("KEEPSTATE_COMMAND", "command"),
    ]
    .map(|(field, key)| (field, alert[key].as_str().unwrap_or_default().to_owned()))
}

/// How a daemon stands.
enum Look {
    Stands(Box<Status>, Box<DefenceStatus>),
    Silent(String),
}

impl Look {
    fn take(instance: &Instance) -> Self {
        match ask(instance) {
            Ok((status, defence)) => Self::Stands(status, defence),
            Err(error) => Self::Silent(error.to_string()),
        }
    }
}

fn ask(instance: &Instance) -> Result<(Box<Status>, Box<DefenceStatus>), ClientError> {
    let mut client = Client::connect(instance)?;
    // An error is the connection's, which the next request meets too.
    let _ = client.set_patience(Some(PATIENCE));
    match (
        client.ask(&Request::Status)?,
        client.ask(&Request::Defence)?,
    ) {
        (Reply::Status(status), Reply::Defence(defence)) => Ok((status, defence)),
        _ => Err(ClientError::Unexpected),
    }
}

/// What is known of what was told.
#[derive(Default)]
struct Watcher {
    before: Option<Status>,
    /// What goes on, as it was told, by its name and what it is about.
    going_on: BTreeMap<(String, String), Value>,
}

impl Watcher {
    /// What has begun since the last look, and what is over.
    fn compare(&mut self, instance: &str, look: Look) -> Vec<Value> {
        let now = match look {
            Look::Silent(message) => self.silent(message),
            Look::Stands(status, defence) => {
                let now = standing(&status, self.before.as_ref(), &defence);
                self.before = Some(*status);
                now
            }
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.unwrap_or_default().as_secs();
        let told = |alert: &Value, state: &str| {
            let mut told = alert.clone();
            told["state"] = json!(state);
            told["time"] = json!(time);
            told["instance"] = json!(instance);
            told
        };
        let begun = now
            .iter()
            .filter(|(key, _)| !self.going_on.contains_key(*key));
        let begun = begun.map(|(_, alert)| told(alert, "begins"));
        let over = self
            .going_on
            .iter()
            .filter(|(key, _)| !now.contains_key(*key));
        let over = over.map(|(_, alert)| told(alert, "ends"));
        let alerts = begun.chain(over).collect();
        self.going_on = now;
        alerts
    }

    /// While nothing is known, what was wrong stays so.
    fn silent(&self, message: String) -> BTreeMap<(String, String), Value> {
        let mut now = self.going_on.clone();
        let alert = json!({
            "name": SILENT,
            "severity": "error",
            "message": "the daemon does not answer; what filtered filters on",
            "cause": message,
            "command": "systemctl status keepstate",
        });
        now.insert((SILENT.to_owned(), String::new()), alert);
        now
    }
}

fn standing(
    status: &Status,
    before: Option<&Status>,
    defence: &DefenceStatus,
) -> BTreeMap<(String, String), Value> {
    let mut now = BTreeMap::new();
    // Counters of before the first look are old news.
    for finding in health::of_status(status, Some(before.unwrap_or(status))) {
        let about = match finding.name {
            "drops" | "xdp-generic" => finding.command.clone().unwrap_or_default(),
            _ => String::new(),
        };
        now.insert((finding.name.to_owned(), about), finding.to_json());
    }
    for attack in defence.attacks.iter().filter(|attack| !attack.is_over) {
        let alert = json!({
            "name": FLOOD,
            "severity": "error",
            "message": attack.evidence,
            "attack": attack,
            "command": format!("keepstate defence explain {}", attack.number),
        });
        now.insert((FLOOD.to_owned(), attack.number.to_string()), alert);
    }
    for step in defence
        .steps
        .iter()
        .filter(|step| step.state == StepState::Active)
    {
        let alert = json!({
            "name": STEP,
            "severity": "warning",
            "message": step.evidence,
            "step": step,
            "command": format!("keepstate defence undo {}", step.number),
        });
        now.insert((STEP.to_owned(), step.number.to_string()), alert);
    }
    now
}
