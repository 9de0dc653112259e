//! Where a child of main begins.
//!
//! What becomes of what it inherits:
//!
//! | resource | in the child |
//! |---|---|
//! | segment, secrets (mappings) | keeps |
//! | configuration | keeps its copy, to the end |
//! | signal descriptor and mask | keeps; reads its own signals with it |
//! | socket to main | keeps the sending end |
//! | log descriptor | keeps |
//! | keeper descriptors | keeps until it has its own; then closes the others |
//! | listeners, management sockets, pid file, main's poller, main's end of the socket | closes: main puts them between `OWN_FROM` and `KEEPERS_FROM` |
//! | main's poller | makes one of its own: an inherited one would be shared |
//! | random numbers | come from the kernel, so nothing is to be seeded |
//! | main's data structures | leaves alone; no destructor runs, the child ends with `_exit` |

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::rc::Rc;

use log::error;

use super::context::Context;
use super::control::Control;
use super::{chores, refuse, serve};
use crate::management::seed::{Job, Seed};
use crate::net;
use crate::sys::{descriptors, process};

/// Does what the seed says, and ends the process.
pub fn run(seed: Seed<'_>) -> Infallible {
    let code = match work(seed) {
        Ok(()) => 0,
        Err(e) => {
            error!("cannot start: {e}");
            1
        }
    };
    process::exit_now(code)
}

fn work(mut seed: Seed<'_>) -> std::io::Result<()> {
    let job = std::mem::replace(&mut seed.job, Job::Check { slots: Vec::new() });
    let socket = match &job {
        Job::Serve { client, .. } | Job::Refuse { client, .. } => Some(client.as_fd()),
        _ => None,
    };
    descriptors::close_own_of_main_but(socket);
    process::set_name(name(&job));
    if let Job::Resolve { server } = job {
        chores::resolve(seed.config, seed.segment, server);
        return Ok(());
    }
    net::start()?;
    let control = Control::start(Rc::clone(seed.signals))?;
    let context = seed.me.map(|me| {
        // Before anything is waited for: this is whom others wake.
        seed.segment.client(me).pid.store(process::current_pid(), std::sync::atomic::Ordering::Release);
        crate::logging::set_client(me);
        Context::new(&seed, me, control)
    });
    net::block_on(async {
        match (job, context) {
            (Job::Serve { client, peer }, Some(context)) => serve::serve(&context, client, peer).await,
            (Job::Refuse { client, why }, _) => refuse::refuse(seed.config, client, why).await,
            (Job::Prefill { pool, count }, Some(context)) => {
                chores::prefill(&context, pool, count).await;
                context.finish().await;
            }
            (Job::Check { slots }, Some(context)) => {
                chores::check(&context, &slots).await;
                context.finish().await;
            }
            (Job::Cancel { targets }, _) => {
                chores::cancel_left_running(seed.config, seed.segment, &targets).await;
            }
            _ => {}
        }
    })
}

fn name(job: &Job) -> &'static str {
    match job {
        Job::Serve { .. } => "howdah: client",
        Job::Refuse { .. } => "howdah: refuse",
        Job::Prefill { .. } => "howdah: prefill",
        Job::Check { .. } => "howdah: check",
        Job::Cancel { .. } => "howdah: cancel",
        Job::Resolve { .. } => "howdah: resolve",
    }
}
