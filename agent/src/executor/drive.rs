//! Runs the executor: on a thread in the daemon, as a task in a simulation.

use super::machine::Machine;
use super::{Event, Executor, ExecutorError, Handle, Parts};
use crate::message::{QUEUE, ToUplink};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Starts the executor on a thread of its own.
///
/// # Errors
/// When its state store or catalogue cannot be used.
pub fn start(
    parts: Parts,
    machine: impl FnOnce(mpsc::Sender<Event>) -> Box<dyn Machine>,
) -> Result<(Handle, mpsc::Receiver<ToUplink>), ExecutorError> {
    let (events, inbox) = mpsc::channel(QUEUE);
    let (out, to_uplink) = mpsc::channel(QUEUE);
    let executor = Executor::new(parts, machine(events.clone()))?;
    let channels = executor.channels.clone();
    std::thread::Builder::new()
        .name("executor".into())
        .stack_size(512 * 1024)
        .spawn(move || run(executor, inbox, &out))
        .map_err(ExecutorError::Thread)?;
    Ok((Handle(events, channels), to_uplink))
}

fn run(mut executor: Executor, mut inbox: mpsc::Receiver<Event>, out: &mpsc::Sender<ToUplink>) {
    loop {
        while let Some(outgoing) = executor.next_outgoing() {
            if out.blocking_send(outgoing).is_err() {
                // The uplink has stopped, which ends the daemon.
                break;
            }
        }
        let Some(event) = inbox.blocking_recv() else { return };
        if !executor.take(event) {
            while let Some(outgoing) = executor.next_outgoing() {
                let _ = out.blocking_send(outgoing);
            }
            return;
        }
    }
}

/// Starts an executor as a task, on a simulated machine. Nothing in it may block on a disk: its
/// state store should be in memory. `watch` is called after each event. Aborting the task
/// simulates a power cut.
///
/// # Errors
/// When its state store or catalogue cannot be used.
pub fn start_simulated(
    parts: Parts,
    machine: impl FnOnce(mpsc::Sender<Event>) -> Box<dyn Machine>,
    watch: impl Fn(&Executor) + Send + 'static,
) -> Result<(Handle, mpsc::Receiver<ToUplink>, JoinHandle<()>), ExecutorError> {
    let (events, mut inbox) = mpsc::channel(QUEUE);
    let (out, to_uplink) = mpsc::channel(QUEUE);
    let mut executor = Executor::new(parts, machine(events.clone()))?;
    let channels = executor.channels.clone();
    let task = tokio::spawn(async move {
        loop {
            while let Some(outgoing) = executor.next_outgoing() {
                if out.send(outgoing).await.is_err() {
                    return;
                }
            }
            let Some(event) = inbox.recv().await else { return };
            if !executor.take(event) {
                return;
            }
            watch(&executor);
        }
    });
    Ok((Handle(events, channels), to_uplink, task))
}
