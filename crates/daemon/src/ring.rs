//! Events from the programs.

use std::io;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use keepstate_engine::event::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::mapped::from_bytes;
use crate::server::EventSource;

/// The ring that the programs write to.
pub(crate) struct RingEvents(pub(crate) RingBuf<MapData>);

impl EventSource for RingEvents {
    fn wait(&mut self, patience: Duration, show: &mut dyn FnMut(&Event)) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(item) = self.0.next() {
            if let Some(event) = from_bytes::<Event>(&item) {
                show(&event);
            }
        }
        Ok(())
    }
}
