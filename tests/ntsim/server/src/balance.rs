//! What a driver has counted, once its device is closed: everything held is settled by then.

use kext_client::Counters;
use kext_ntsim::Sim;
use kext_types::Event;
use kext_wire::ControlCode;
use kext_wire::counters::{CountersRequest, CountersResponse};

use crate::Failure;

/// The counters that are not zero, by name. An error if they do not balance or something is held.
pub(crate) fn counted(sim: &Sim) -> Result<Vec<(String, u64)>, Failure> {
    let refused = |error| format!("the device cannot be opened again, or counts nothing: {error}");
    sim.settle();
    let device = sim.open().map_err(refused)?;
    let mut input = [0; CountersRequest::LEN];
    let written = CountersRequest.encode(&mut input);
    let answer = device.ioctl(
        ControlCode::Counters.to_u32(),
        &input,
        CountersResponse::len_for(1_024),
    );
    device.close();
    written.map_err(|_| "the request for counters does not fit its own length")?;
    let answer = answer.map_err(refused)?;
    let counters: Counters = CountersResponse::decode(&answer)?.iter().collect();
    let held = counters.event(Event::Held);
    if !counters.balanced() || held != 0 {
        return Err(format!("the device is closed, and {held} are held: {counters:?}").into());
    }
    let counted = counters.iter().filter(|counter| counter.value != 0);
    Ok(counted
        .map(|counter| {
            (
                counter.name().unwrap_or("unknown").to_owned(),
                counter.value,
            )
        })
        .collect())
}
