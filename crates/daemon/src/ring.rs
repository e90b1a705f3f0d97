//! Events and notices from the programs.

use std::io;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use keepstate_engine::event::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel_plane::KernelPlane;
use crate::lock;
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

impl KernelPlane {
    /// The rings of what is to be told of, and of what is to be answered; once.
    pub(crate) fn notices(&self) -> io::Result<Option<[RingBuf<MapData>; 2]>> {
        let Some([notices, answers]) = lock(&self.notices).take() else {
            return Ok(None);
        };
        let ring = |map| RingBuf::try_from(map).map_err(io::Error::other);
        Ok(Some([ring(notices)?, ring(answers)?]))
    }

    /// Says by which sockets answers are sent.
    pub(crate) fn set_answerers(&self, cookies: [u64; 2]) {
        self.change(|plane| plane.answerers = cookies);
    }
}
