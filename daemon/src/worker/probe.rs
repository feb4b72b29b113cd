//! The probe worker, `reconciled worker probe`: asks what is asked over a connection, all at the same time, and says how they ended.
//!
//! Standard input is one JSON list of probes, with their passwords. Standard output is one line for each as it ends, `[INDEX, VERDICT]`, and
//! now and then an empty line, a sign of life on which the engine can decide to stop. Nothing here can change the host.

mod ask;
mod certificate;
mod redis;
mod tls;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};

use crate::probe::{Asked, Course, Probe, Step, Verdict};

/// Longest accepted request, in bytes.
const REQUEST_LIMIT: u64 = 4 * 1024 * 1024;
/// Pause between two signs of life.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// The verb's body.
#[must_use]
pub fn main() -> ExitCode {
    let served = super::sandbox::write_nothing()
        .map_err(io::Error::other)
        .and_then(|()| serve(&mut io::stdin().lock(), &mut io::stdout().lock()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe worker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the request, asks, and writes the verdicts.
fn serve(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut request = Vec::new();
    input.take(REQUEST_LIMIT).read_to_end(&mut request)?;
    let probes: Vec<Asked<Probe>> = serde_json::from_slice(&request)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(ask_all(&probes, output));
    // A name that is still being resolved sits in a thread that cannot be stopped: do not wait for it.
    runtime.shutdown_background();
    result
}

async fn ask_all(probes: &[Asked<Probe>], output: &mut dyn Write) -> io::Result<()> {
    let mut running: FuturesUnordered<_> =
        probes.iter().enumerate().map(|(index, asked)| async move { (index, watch(asked).await) }).collect();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let line = tokio::select! {
            ended = running.next() => match ended {
                Some(ended) => serde_json::to_string(&ended)?,
                None => return Ok(()),
            },
            _ = tick.tick() => String::new(),
        };
        writeln!(output, "{line}")?;
        output.flush()?;
    }
}

/// Asks one probe until it has its verdict.
async fn watch(Asked { probe, password }: &Asked<Probe>) -> Verdict {
    let began = Instant::now();
    let mut course = Course::new(probe);
    loop {
        let asked = Instant::now();
        let answer = ask::once(probe, password.as_deref()).await;
        match course.answer(began.elapsed(), asked.elapsed(), answer) {
            Step::Done(verdict) => return verdict,
            Step::Wait(pause) => tokio::time::sleep(pause).await,
        }
    }
}

#[cfg(test)]
mod tests;
