//! The command line: arguments in, printing out. Nothing is computed here.
//!
//! stdout carries only the answer; progress, notes and errors go to stderr. An error is two lines, what and how to mend it, and
//! the exit status is 1 (2 for arguments that cannot be parsed, by `clap`'s custom; 130 after Ctrl-C). A reader that closes the
//! pipe early ends the program without a word.

mod bench;
mod common;
mod convert;
mod demo;
mod devices;
mod doctor;
mod export;
mod forward;
mod hub;
mod inspect;
mod interrupt;
mod paint;
mod problems;
mod quantize;
mod rank;
mod results;
mod run;
mod show;
mod sweep;
mod table;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

/// Runs looped transformers on any GPU, or on the CPU: hard tokens get more loops, easy ones fewer.
///
/// Without a command each shipped model solves a problem with more and more loops, and shows how often each token looped.
#[derive(Debug, Parser)]
#[command(name = "refrain", version, about, long_about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: common::Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Complete a prompt, or answer it in place
    Run(run::Args),
    /// One pass over token ids, tensors in and out: the door for parity and debugging
    Forward(forward::Args),
    /// Ask the same problems at several numbers of loops
    Sweep(sweep::Args),
    /// How fast prompts and new tokens are at a number of loops, in tokens a second
    Bench(bench::Args),
    /// Sizes, parameters, cache, memory and stability of a model, without loading it onto a device
    Inspect(inspect::Args),
    /// Make a model folder of a PyTorch checkpoint
    Convert(convert::Args),
    /// Store a model in fewer bits, and see what that does to its answers
    Quantize(quantize::Args),
    /// The GPUs of this machine and their limits
    Devices(devices::Args),
    /// What is wrong with this machine or a model folder, and how to mend it
    Doctor(doctor::Args),
}

/// Parses a command line, the program's name first, and runs nothing: a door for fuzzing.
///
/// # Errors
/// What clap has to say: a fault, help or the version.
pub fn parse<A: Into<std::ffi::OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> Result<(), clap::Error> {
    Cli::try_parse_from(arguments).map(|_| ())
}

/// Parses the arguments, runs the command, reports an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let common = cli.common;
    let result = match cli.command {
        None => demo::main(&common),
        Some(Command::Run(args)) => run::main(&args, &common),
        Some(Command::Forward(args)) => forward::main(&args, &common),
        Some(Command::Sweep(args)) => sweep::main(&args, &common),
        Some(Command::Bench(args)) => bench::main(&args, &common),
        Some(Command::Inspect(args)) => inspect::main(&args, &common),
        Some(Command::Convert(args)) => convert::main(&args, &common),
        Some(Command::Quantize(args)) => quantize::main(&args, &common),
        Some(Command::Devices(args)) => devices::main(&args, &common),
        Some(Command::Doctor(args)) => match doctor::main(&args, &common) {
            // Its list has said what is wrong.
            Ok(false) => return ExitCode::FAILURE,
            result => result.map(|_| ()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the pipe has seen enough.
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        // As a shell reports a program that Ctrl-C ended.
        Err(Error::Cancelled) => ExitCode::from(130),
        Err(error) => {
            common::report(&error);
            ExitCode::FAILURE
        }
    }
}
