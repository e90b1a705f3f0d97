//! The daemon that runs.

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{Client, ClientError, Instance, PolicyText, Reply, Request};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, parse_rules};

/// Which daemon is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstanceArgument {
    /// Name of the daemon, where several run.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        hide_default_value = true,
        env = "KEEPSTATE_INSTANCE",
        hide_env = true
    )]
    pub(crate) instance: Instance,
}

/// What commands take that ask or tell a daemon one thing.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) instance: InstanceArgument,
}

impl InstanceArgument {
    /// A connection to the daemon, `None` where none is running.
    pub(crate) fn connect_if_running(&self) -> anyhow::Result<Option<Client>> {
        match Client::connect(&self.instance) {
            Ok(client) => Ok(Some(client)),
            Err(ClientError::NotRunning(_)) => Ok(None),
            Err(error) => Err(error).context("the daemon cannot be asked"),
        }
    }

    /// A connection to the daemon.
    pub(crate) fn connect(&self) -> anyhow::Result<Client> {
        let connected = Client::connect(&self.instance);
        let is_absent = matches!(connected, Err(ClientError::NotRunning(_)));
        connected.with_context(|| match is_absent {
            true if self.instance.filters() => {
                "the programs filter on by themselves, and `keepstate up` takes them over"
            }
            true => "start one with `keepstate up`",
            false => "the daemon cannot be asked",
        })
    }
}

/// An answer that the protocol does not foresee.
pub(crate) fn unexpected() -> anyhow::Error {
    ClientError::Unexpected.into()
}

/// The rules in force.
pub(crate) fn rules_in_force(client: &mut Client) -> anyhow::Result<Policy> {
    let Reply::Policy(text) = client.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    policy_of(&text)?.context("the text of the rules in force is not known")
}

/// The rules that a daemon told; `None` where it does not know their text.
pub(crate) fn policy_of(text: &PolicyText) -> anyhow::Result<Option<Policy>> {
    let Some(rules) = &text.rules else {
        return Ok(None);
    };
    let mut policy = Policy::default();
    for (family, text) in [(Family::V4, &rules.v4), (Family::V6, &rules.v6)] {
        let parsed = parse_rules(text, FileKind::Save(family));
        if let Some(problem) = parsed.diagnostics.iter().find(|told| told.is_error()) {
            bail!("the rules in force cannot be read: {problem}");
        }
        policy.merge(parsed);
    }
    Ok(Some(policy))
}
