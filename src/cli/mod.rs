//! The command line: reads the arguments and runs one of the commands.

mod check;
mod doctor;
mod healthcheck;
mod keys;
mod login;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use token_relay_client::SignIn;

use crate::{
    cli::login::{LoginOptions, TerminalLoginError},
    http,
    oidc::Severity,
    server,
    settings::{EffectiveSetting, ListFormat, LogFormat, Settings, Snapshot, environment},
    telemetry::log::{Filter, Log},
    util::huge_pages,
};

/// Filter of the log, such as `debug` or `info,token_relay::relay=trace`.
const LOG: &str = "TOKEN_RELAY_LOG";

/// What `--version` prints: the version and the commit it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("RELAY_BUILT_FROM"), ")");

/// Exit status for settings that are missing or wrong.
const BAD_SETTINGS: u8 = 2;

/// Time for blocking calls to return when the process ends.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Exit status of a check that found only warnings.
const WARNINGS: u8 = 3;

/// Exit status after Ctrl-C.
const INTERRUPTED: u8 = 130;

/// What stands below the help of the program.
const EXIT_STATUSES: &str = "\
Exit status:
  0    done; for checks: nothing found
  1    failed; for checks: sign-ins fail
  2    settings or arguments are missing or wrong
  3    for checks: warnings only
  130  `login` was ended by Ctrl-C

Environment:
  TOKEN_RELAY_<SETTING>  settings, as `token-relay settings` lists them
  TOKEN_RELAY_CONFIG     settings file, as --config
  TOKEN_RELAY_LOG        level of the log of `serve` and `demo`: error, warn, info (the default),
                         debug or trace, or a list such as info,token_relay::relay=trace";

/// Where each shell looks for completions.
const COMPLETIONS: &str = "\
Where the script goes:
  bash        token-relay completions bash > ~/.local/share/bash-completion/completions/token-relay
  zsh         token-relay completions zsh > ~/.zfunc/_token-relay
              with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  fish        token-relay completions fish > ~/.config/fish/completions/token-relay.fish
  elvish      token-relay completions elvish >> ~/.config/elvish/rc.elv
  powershell  token-relay completions powershell >> $PROFILE";

/// Pushes the result of a browser sign-in to the add-in that waits for it.
#[derive(Parser)]
#[command(version = VERSION, arg_required_else_help = true, after_help = EXIT_STATUSES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, with settings from the environment and an optional file
    Serve(ConfigFile),
    /// Serve with an embedded OpenID provider and a demo task pane
    #[cfg(feature = "demo")]
    Demo {
        /// Address of the relay
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
        /// Address of the embedded provider
        #[arg(long, default_value = "127.0.0.1:8081")]
        provider_listen: std::net::SocketAddr,
        /// Serve a platform beside it, with accounts, a claims hook and an add-in of its own
        #[arg(long)]
        platform: bool,
        /// Address of that platform
        #[arg(long, default_value = "127.0.0.1:8082")]
        platform_listen: std::net::SocketAddr,
        /// Do not open a browser
        #[arg(long)]
        no_open: bool,
        /// Allow addresses other than loopback, and configured keys
        #[arg(long)]
        allow_production: bool,
    },
    /// Serve only the demo's OpenID provider, to try out a deployment
    #[cfg(feature = "demo")]
    DemoProvider(DemoProvider),
    /// Sign in through a relay and print the access token
    Login(Login),
    /// Print the effective configuration, secrets redacted
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
        /// Ask the provider and the store whether they do what is configured, and print what they
        /// say instead; exit status 1 where sign-ins fail, 3 where there are only warnings
        #[arg(long)]
        online: bool,
        /// Print the findings as a JSON array
        #[arg(long, requires = "online")]
        json: bool,
        /// Print only settings that differ from the default
        #[arg(long, conflicts_with = "online")]
        changed: bool,
    },
    /// Examine a deployment from outside, through its proxy, and name the line that mends it
    ///
    /// Creates three sessions and cancels them. Exit status 1 where sign-ins fail, 3 where there are
    /// only warnings.
    Doctor(doctor::DoctorOptions),
    /// List every setting: a table, a file to start from, or JSON
    Settings {
        /// Form of the list
        #[arg(long, value_enum, default_value_t = ListFormat::Markdown)]
        format: ListFormat,
    },
    /// Generate the keys of a deployment: cookie_keys, sealing_keys, signing_key
    ///
    /// Prints the environment variables that name the files.
    Keys {
        /// Folder for the files, created if missing; existing files are not replaced
        #[arg(long)]
        dir: PathBuf,
    },
    /// Print the OpenAPI 3.1 document as JSON
    Openapi,
    /// Check whether a running instance is ready, for container health checks
    Healthcheck {
        /// Instance to check, such as http://127.0.0.1:8080; the configured one by default
        url: Option<url::Url>,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Write the manual pages: one for the program, one for each command
    Man {
        /// Folder for the pages, created if missing
        #[arg(long)]
        dir: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[cfg(feature = "demo")]
#[derive(clap::Args)]
struct DemoProvider {
    /// Address of the provider
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: std::net::SocketAddr,
    /// URL by which browsers and the relay reach it
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    issuer: String,
    /// Client ID of the relay
    #[arg(long, default_value = "token-relay")]
    client_id: String,
    /// File with the client secret of the relay
    #[arg(long, value_name = "FILE")]
    client_secret_file: PathBuf,
    /// Redirect URI of the relay: <PUBLIC_URL>/callback
    #[arg(long, value_name = "URL", required = true)]
    redirect_uri: Vec<String>,
}

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("whole").args(["json", "store"]).multiple(true)))]
struct Login {
    /// Public URL of the relay
    #[arg(default_value = "http://127.0.0.1:8080")]
    relay: url::Url,
    /// Name of the program in the dialog
    #[arg(long, value_name = "NAME", default_value = "token-relay login")]
    client_name: String,
    /// Client ID of the program, where the relay has clients registered
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Scopes of the token, separated by spaces [default: all that the client may have]
    #[arg(long)]
    scope: Option<String>,
    /// Leave out the page that compares codes where the relay asks for no code (`CONFIRMATION=never`)
    #[arg(long)]
    no_confirm: bool,
    /// Bind the token to a key (DPoP, RFC 9449), which is printed or stored beside it as `proof_key`; needs
    /// `--json` or `--store`
    #[arg(long, requires = "whole")]
    dpop: bool,
    /// Do not open a browser
    #[arg(long)]
    no_open: bool,
    /// Print lines of JSON for scripts: one when the sign-in begins, one when it ends
    #[arg(long)]
    json: bool,
    /// Store the token in this file, readable by its owner only, instead of printing it
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// TOML file with settings by their lower-case names; the environment wins
    #[arg(long, env = "TOKEN_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // Before most of the memory is taken.
    huge_pages::decline();
    match CommandLine::parse().command {
        Command::Serve(file) => match Snapshot::load(environment(), file.path()) {
            Ok(snapshot) => match start_log(snapshot.settings.server.log_format) {
                Ok(_log) => {
                    let read_settings = move || Snapshot::load(environment(), file.path());
                    run(server::serve(snapshot, Box::new(read_settings)))
                }
                Err(error) => bad_settings(&error),
            },
            Err(errors) => bad_settings(&errors),
        },
        #[cfg(feature = "demo")]
        Command::Demo {
            listen,
            provider_listen,
            platform,
            platform_listen,
            no_open,
            allow_production,
        } => {
            use crate::demo::{DemoError, DemoOptions};
            let _log = match start_log(LogFormat::Text) {
                Ok(log) => log,
                Err(error) => return bad_settings(&error),
            };
            run(async move {
                let options = DemoOptions {
                    listen,
                    provider_listen,
                    platform_listen: platform.then_some(platform_listen),
                    open: !no_open,
                    allow_production,
                };
                match crate::demo::run(options).await {
                    Err(DemoError::Settings(errors)) => Ok(bad_settings(&errors)),
                    Err(error @ DemoError::Production(_)) => Ok(bad_settings(&error)),
                    ended => ended.map(|()| ExitCode::SUCCESS),
                }
            })
        }
        #[cfg(feature = "demo")]
        Command::DemoProvider(provider) => {
            use crate::demo::{DemoProviderOptions, RegisteredClient, run_provider};
            let secret = match std::fs::read_to_string(&provider.client_secret_file) {
                Ok(secret) => secret.trim_end().to_owned(),
                Err(error) => {
                    let file = provider.client_secret_file.display();
                    return bad_settings(&format!("{file}: {error}"));
                }
            };
            let (id, redirect_uris) = (provider.client_id, provider.redirect_uri);
            let client = RegisteredClient { id, secret, redirect_uris };
            let DemoProvider { listen, issuer, .. } = provider;
            run(run_provider(DemoProviderOptions { listen, issuer, client }))
        }
        Command::Login(login) => {
            let options = LoginOptions {
                relay: login.relay,
                sign_in: SignIn {
                    client_name: Some(login.client_name),
                    confirm: !login.no_confirm,
                    client_id: login.client_id,
                    scope: login.scope,
                    dpop: login.dpop,
                },
                open: !login.no_open,
                json: login.json,
                store: login.store,
            };
            run(async move {
                match login::login(&options).await {
                    // The status that a shell reports for a program that SIGINT ended.
                    Err(TerminalLoginError::Interrupted) => Ok(ExitCode::from(INTERRUPTED)),
                    // The origin alone: somebody may have written a password into the URL.
                    Err(error) => {
                        Err(format!("{error} ({})", options.relay.origin().ascii_serialization()))
                    }
                    Ok(()) => Ok(ExitCode::SUCCESS),
                }
            })
        }
        Command::CheckConfig { file, online, json, changed } => {
            let snapshot = match Snapshot::load(environment(), file.path()) {
                Ok(snapshot) => snapshot,
                Err(errors) => return bad_settings(&errors),
            };
            if let Err(error) = log_filter() {
                return bad_settings(&error);
            }
            for warning in snapshot.warnings() {
                print_error(&format!("warning: {warning}"));
            }
            if online {
                run(async move {
                    let found = check::online(&snapshot.settings).await;
                    let gravest = found.iter().map(|found| found.severity).max();
                    report(&found, &check::lines(&found), gravest, json)
                })
            } else {
                print(&effective(&snapshot, changed))
            }
        }
        Command::Doctor(options) => run(async move {
            let json = options.json;
            let found = doctor::examine(options).await;
            let gravest = found.iter().map(|found| found.severity).max();
            report(&found, &doctor::lines(&found), gravest, json)
        }),
        Command::Keys { dir } => match keys::make(&dir) {
            Ok(settings) => print(&settings),
            Err(error) => failed(&error),
        },
        Command::Settings { format } => print(&crate::settings::list(format)),
        Command::Openapi => match http::openapi("/", http::Optional::ALL).to_pretty_json() {
            Ok(json) => print(&format!("{json}\n")),
            Err(error) => failed(&error),
        },
        Command::Healthcheck { url, file } => healthcheck(url, file.path()),
        Command::Man { dir } => match man(&dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("{}: {error}", dir.display())),
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "token-relay", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// The effective configuration, and what is to be registered at the provider.
fn effective(snapshot: &Snapshot, only_changed: bool) -> String {
    let shown = snapshot.effective().iter().filter(|setting| setting.is_changed || !only_changed);
    let lines = shown.map(|EffectiveSetting { name, value, origin, .. }| {
        format!("{name:<32} {value}  ({origin})\n")
    });
    let uris = snapshot.settings.redirect_uris();
    let uris = uris.iter().map(|uri| format!("Redirect URI to register at the provider: {uri}\n"));
    lines.chain(std::iter::once("\n".to_owned())).chain(uris).collect()
}

/// Prints what a check found, as `lines` or as JSON; the exit status is that of the gravest.
fn report(
    found: &[impl serde::Serialize],
    lines: &str,
    gravest: Option<Severity>,
    json: bool,
) -> Result<ExitCode, serde_json::Error> {
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(found)?));
    } else {
        print(lines);
    }
    Ok(match gravest {
        Some(Severity::Error) => ExitCode::FAILURE,
        Some(Severity::Warning) => ExitCode::from(WARNINGS),
        Some(Severity::Note) | None => ExitCode::SUCCESS,
    })
}

/// Writes the manual pages into `folder`.
fn man(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(CommandLine::command(), folder)
}

/// The exit status of a command that succeeded.
trait Ended {
    fn code(self) -> ExitCode;
}

impl Ended for () {
    fn code(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl Ended for ExitCode {
    fn code(self) -> ExitCode {
        self
    }
}

fn run<T: Ended, E: std::fmt::Display>(command: impl Future<Output = Result<T, E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(command);
    // A blocking call that hangs, such as a read from a network file system, does not hold up the
    // end of the process.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    match ended {
        Ok(ended) => ended.code(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    print_error(&format!("token-relay: {error}"));
    ExitCode::FAILURE
}

fn bad_settings(errors: &dyn std::fmt::Display) -> ExitCode {
    print_error(&errors.to_string());
    ExitCode::from(BAD_SETTINGS)
}

/// Prints a line on standard error. A failed write is ignored; the exit status says it all.
fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn start_log(format: LogFormat) -> Result<Log, String> {
    Ok(Log::start(log_filter()?, format == LogFormat::Json))
}

/// What the environment says is logged.
fn log_filter() -> Result<Filter, String> {
    let filter = environment().find(|(name, value)| name == LOG && !value.trim().is_empty());
    let filter = filter.map_or_else(|| "info".to_owned(), |(_, value)| value);
    filter.trim().parse().map_err(|error| format!("{LOG}: {error}"))
}

fn healthcheck(url: Option<url::Url>, file: Option<&Path>) -> ExitCode {
    let endpoint = match url {
        Some(url) => healthcheck::endpoint(url),
        None => match Settings::load(environment(), file) {
            Ok(settings) => healthcheck::configured(&settings),
            Err(errors) => return bad_settings(&errors),
        },
    };
    match endpoint {
        Ok(endpoint) => run(healthcheck::check(endpoint)),
        Err(error) => bad_settings(&error),
    }
}
