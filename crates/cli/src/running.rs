//! The daemon that runs.

use anyhow::Context;
use clap::Args;
use keepstate_api::{Client, ClientError, Instance};

/// Which daemon is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstanceArgument {
    /// Name of the daemon, where several run.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) instance: Instance,
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
        connected.with_context(|| {
            if is_absent {
                "start one with `keepstate up`"
            } else {
                "the daemon cannot be asked"
            }
        })
    }
}

/// An answer that the protocol does not foresee.
pub(crate) fn unexpected() -> anyhow::Error {
    ClientError::Unexpected.into()
}
