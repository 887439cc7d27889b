//! Running other programs: with their output shown, caught, or read along.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Lines of a failed program's output that an error repeats.
const ERROR_LINES_MAX: usize = 20;

/// A program and its arguments, as one would type it.
fn line(program: &str, args: &[&str]) -> String {
    std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ")
}

/// Runs a program in `folder` and returns what it wrote to its standard output.
///
/// # Errors
/// The program cannot be started, or fails; then with the end of what it wrote to standard error.
pub fn output(program: &str, args: &[&str], folder: &Path) -> Result<String, Error> {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(ERROR_LINES_MAX)..].join("\n");
    Err(Error::Failed { program: line(program, args), message: format!("{}: {end}", output.status) })
}

/// Runs a program in `folder` with its output going where ours goes.
///
/// # Errors
/// The program cannot be started, or fails.
pub fn shown(program: &str, args: &[&str], folder: &Path, env: &[(&str, &str)]) -> Result<(), Error> {
    let status = Command::new(program)
        .args(args)
        .current_dir(folder)
        .envs(env.iter().copied())
        .status()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: line(program, args), message: status.to_string() })
}

/// Runs a program, shows its standard output, and gives each line of it to `each` as well. Answers
/// whether the program succeeded.
///
/// # Errors
/// The program cannot be started.
pub fn read_along(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| Error::Start { program: program.clone(), source };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(start)?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            println!("{line}");
            each(&line);
        }
    }
    Ok(child.wait().map_err(start)?.success())
}

/// Sends a signal (`INT`, `TERM`, …) to a process. The shell does it, since a small system may have no
/// program `kill`.
///
/// # Errors
/// There is no such process.
pub fn signal(name: &str, pid: u32) -> Result<(), Error> {
    output("sh", &["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()], Path::new("/")).map(|_| ())
}

/// A path for programs that run in other folders.
///
/// # Errors
/// The path is empty, or there is no current folder.
pub fn absolute(path: &str) -> Result<PathBuf, std::io::Error> {
    std::path::absolute(path)
}

/// Whether a program of that name can be started.
#[must_use]
pub fn exists(program: &str) -> bool {
    answers(program, "--version")
}

/// Whether a program can be run and takes this argument, with which it says something of itself.
#[must_use]
pub fn answers(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_signal_ends_a_process() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        signal("TERM", child.id()).expect("a signal");
        assert_eq!(child.wait().expect("its end").signal(), Some(15));
    }
}
