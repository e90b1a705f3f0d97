//! Events and notices from the programs.

use std::io;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use keepstate_engine::event::Event;
use keepstate_plane::{
    EVENT_PAUSE_MILLISECONDS, PLANE_WITNESS_ALL, PLANE_WITNESS_DROPS, Witness, names,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel::KernelError;
use crate::kernel_plane::KernelPlane;
use crate::lock;
use crate::mapped::from_bytes;
use crate::server::{EventSource, PlaneError, WitnessSource};

/// The ring that the programs write to.
struct RingEvents {
    ring: RingBuf<MapData>,
    /// Others may have come since, that wake nobody.
    has_found: bool,
}

impl EventSource for RingEvents {
    fn wait(&mut self, patience: Duration, show: &mut dyn FnMut(&Event)) -> io::Result<()> {
        let pause = Duration::from_millis(EVENT_PAUSE_MILLISECONDS);
        let patience = match self.has_found {
            true => patience.min(pause),
            false => patience,
        };
        wait(&self.ring, patience)?;
        self.has_found = false;
        while let Some(item) = self.ring.next() {
            self.has_found = true;
            if let Some(event) = from_bytes::<Event>(&item) {
                show(&event);
            }
        }
        Ok(())
    }
}

/// The ring of judged packets.
struct RingWitnesses(RingBuf<MapData>);

impl WitnessSource for RingWitnesses {
    fn wait(
        &mut self,
        patience: Duration,
        show: &mut dyn FnMut(&Witness, &[u8]),
    ) -> io::Result<()> {
        wait(&self.0, patience)?;
        while let Some(item) = self.0.next() {
            let Some((witness, frame)) = item.split_at_checked(size_of::<Witness>()) else {
                continue;
            };
            if let Some(witness) = from_bytes::<Witness>(witness)
                && let Some(frame) = frame.get(..witness.captured as usize)
            {
                show(&witness, frame);
            }
        }
        Ok(())
    }
}

fn wait(ring: &RingBuf<MapData>, patience: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut ready = [PollFd::new(ring, PollFlags::IN)];
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the ring of events, which there is once.
pub(crate) fn open_events(map: Option<Map>) -> Result<Box<dyn EventSource>, PlaneError> {
    let map = map.ok_or_else(|| KernelError::Missing(names::EVENTS.to_owned()))?;
    let ring = RingBuf::try_from(map).map_err(KernelError::from)?;
    Ok(Box::new(RingEvents {
        ring,
        has_found: false,
    }))
}

/// Likewise that of judged packets.
pub(crate) fn open_witnesses(
    map: Option<Map>,
) -> Result<Option<Box<dyn WitnessSource>>, PlaneError> {
    let Some(map) = map else {
        return Ok(None);
    };
    let ring = RingBuf::try_from(map).map_err(KernelError::from)?;
    Ok(Some(Box::new(RingWitnesses(ring))))
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

    /// Says which judged packets are handed over: `PLANE_WITNESS_*`.
    pub(crate) fn set_witnesses(&self, flags: u32) {
        self.change(|plane| {
            plane.flags &= !(PLANE_WITNESS_ALL | PLANE_WITNESS_DROPS);
            plane.flags |= flags;
        });
    }

    /// Says by which sockets answers are sent.
    pub(crate) fn set_answerers(&self, cookies: [u64; 2]) {
        self.change(|plane| plane.answerers = cookies);
    }
}
