//! `hearth user …`, `hearth token …`, `hearth reports …`, `hearth backup`, `hearth doctor`: done by the server that runs,
//! or else here.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use store::Entropy;
use tokio::sync::mpsc;

use super::Failure;
use crate::boot;
use crate::config::Config;
use crate::config::sources::Given;
use crate::control::{self, Order};
use crate::world::{SystemEntropy, World};

/// Length of a password that is made up.
const PASSWORD_LENGTH: usize = 20;
/// Days after which a token may expire at the latest: a hundred years.
const DAYS_MAX: i64 = 36_500;
/// Lines that may wait to be printed.
const LINES_MAX: usize = 64;

/// What to do with accounts.
#[derive(Subcommand)]
pub enum UserCommand {
    /// Makes an account. Without --password-stdin, its password is made up and printed.
    Create {
        /// The part of the user id before the colon.
        name: String,
        /// Let the account administer the server.
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Lists all accounts.
    List,
    /// Sets a new password and ends all sessions. Without --password-stdin, it is made up and printed.
    ResetPassword {
        /// The name or the full user id.
        name: String,
        /// Read the password from the first line of standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Deactivates an account for ever and takes it out of its rooms.
    Deactivate {
        /// The name or the full user id.
        name: String,
        /// Also remove its account data and filters.
        #[arg(long)]
        erase: bool,
    },
}

/// What to do with registration tokens.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Makes a token with which people can register, and prints it.
    Create {
        /// The token itself [default: made up].
        token: Option<String>,
        /// How many accounts it is good for [default: any number].
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// Days until it expires [default: never].
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
        days: Option<u32>,
    },
    /// Lists all tokens.
    List,
    /// Deletes a token.
    Delete {
        /// The token.
        token: String,
    },
}

/// What to do with reports.
#[derive(Subcommand)]
pub enum ReportsCommand {
    /// Lists the open ones, newest first.
    List {
        /// Also those that are closed.
        #[arg(long)]
        all: bool,
    },
    /// Shows one, with the event as it was when it was reported.
    Show {
        /// Its number in the list.
        number: i64,
    },
    /// Notes that one is done.
    Close {
        /// Its number in the list.
        number: i64,
    },
}

/// Carries out a `hearth reports` command.
///
/// # Errors
/// Why it failed.
pub async fn reports(command: ReportsCommand, given: &Given) -> Result<(), Failure> {
    let order = match command {
        ReportsCommand::List { all } => Order::ListReports { all },
        ReportsCommand::Show { number } => Order::ShowReport { number },
        ReportsCommand::Close { number } => Order::CloseReport { number },
    };
    run(order, given).await
}

/// Carries out a `hearth token` command.
///
/// # Errors
/// Why it failed.
pub async fn token(command: TokenCommand, given: &Given) -> Result<(), Failure> {
    let order = match command {
        TokenCommand::Create { token, uses, days } => Order::CreateToken { token, uses, days },
        TokenCommand::List => Order::ListTokens,
        TokenCommand::Delete { token } => Order::DeleteToken { token },
    };
    run(order, given).await
}

/// Carries out a `hearth user` command.
///
/// # Errors
/// Why it failed.
pub async fn user(command: UserCommand, given: &Given) -> Result<(), Failure> {
    let mut made_up = None;
    let order = match command {
        UserCommand::Create { name, admin, password_stdin } => {
            Order::CreateUser { name, password: password(password_stdin, &mut made_up)?, admin }
        }
        UserCommand::List => Order::ListUsers,
        UserCommand::ResetPassword { name, password_stdin } => {
            Order::ResetPassword { name, password: password(password_stdin, &mut made_up)? }
        }
        UserCommand::Deactivate { name, erase } => Order::Deactivate { name, erase },
    };
    run(order, given).await?;
    if let Some(password) = made_up {
        println!("Password: {password}");
    }
    Ok(())
}

/// Carries out `hearth rooms`.
///
/// # Errors
/// Why it failed.
pub async fn rooms(given: &Given) -> Result<(), Failure> {
    run(Order::ListRooms, given).await
}

/// Carries out `hearth backup`.
///
/// # Errors
/// Why it failed.
pub async fn backup(to: PathBuf, given: &Given) -> Result<(), Failure> {
    let to = std::path::absolute(&to).map_err(|error| Failure::Other(error.to_string()))?;
    run(Order::Backup { to }, given).await
}

/// Carries out `hearth doctor`.
///
/// # Errors
/// What is wrong.
pub async fn doctor(given: &Given) -> Result<(), Failure> {
    let (config, warnings) = Config::load(given)?;
    println!("fine     the configuration can be read");
    for warning in warnings {
        println!("note     {warning}");
    }
    for listener in &config.listeners {
        if let Some(tls) = &listener.tls {
            crate::listeners::tls::Certificate::read(tls).map_err(crate::listeners::Error::from)?;
            println!("fine     {} and its key fit", tls.certificate.display());
        }
    }
    run(Order::Doctor, given).await
}

fn password(from_stdin: bool, made_up: &mut Option<String>) -> Result<String, Failure> {
    if !from_stdin {
        let password = store::clock::random_text(&SystemEntropy as &dyn Entropy, PASSWORD_LENGTH);
        *made_up = Some(password.clone());
        return Ok(password);
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| Failure::Other(error.to_string()))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::Other("standard input has no password in its first line".to_owned()));
    }
    Ok(password.to_owned())
}

async fn run(order: Order, given: &Given) -> Result<(), Failure> {
    let (config, _) = Config::load(given)?;
    let nothing = match order {
        Order::ListUsers => "There is no account yet: `hearth user create NAME --admin` makes the first one.",
        Order::ListReports { .. } => "There is no report.",
        Order::ListRooms => "There is no room yet.",
        Order::ListTokens => "There is no token: `hearth token create` makes one.",
        _ => "",
    };
    let mut lines = 0;
    let mut show = |line: &str| {
        println!("{line}");
        lines += 1;
    };
    let done = match control::ask(&config.data_dir, &order, &mut show).await {
        Some(answer) => answer.map_err(Failure::Other),
        None => perform_here(&config, order, &mut show).await,
    };
    // Not to standard output, which may go to another program.
    if done.is_ok() && lines == 0 && !nothing.is_empty() {
        eprintln!("{nothing}");
    }
    done
}

/// Does it in this process, since no server runs.
async fn perform_here(config: &Config, order: Order, show: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    match &order {
        // Of all orders, only the one that makes an account can begin a server; not for a name that cannot be one.
        Order::CreateUser { name, .. } => users::registration::check_localpart(&name.to_lowercase())
            .map_err(|error| Failure::Other(error.to_string()))?,
        _ => boot::require_server(config)?,
    }
    let running = Arc::new(boot::build(config, &World::real()).await?);
    let (say, mut said) = mpsc::channel::<String>(LINES_MAX);
    let print = async {
        while let Some(line) = said.recv().await {
            show(&line);
        }
    };
    let work = async {
        let done = control::perform(&running, order, &say).await;
        drop(say);
        done
    };
    let (done, ()) = tokio::join!(work, print);
    running.store.engine().close().await;
    done.map_err(Failure::Other)
}
