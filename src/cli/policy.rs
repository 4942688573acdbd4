//! `tidegate policy explain`.

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use super::{ConfigArgument, NO, UNUSABLE, complain, fail, say};
use crate::auth::policy::{Client, Decision, Policy};
use crate::auth::subject::{ANONYMOUS_PROVIDER, Subject};
use crate::config::{self, Config};
use crate::identity::{HARBOR, Identity, ProviderSettings};
use crate::registry::{Action, RepositoryName};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say whether a user may do something, and which rule says so (exit code 0 yes, 1 no)
    Explain(Explain),
}

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// `NAME`, `PROVIDER/NAME` or `anonymous`
    user: String,
    /// The repository
    repository: String,
    /// `pull`, `push`, `delete` or `catalog`
    action: String,
    /// The client's address, where rules look at it
    #[arg(long, default_value = "127.0.0.1")]
    source: IpAddr,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(command: &PolicyCommand) -> ExitCode {
    let PolicyCommand::Explain(arguments) = command;
    match explain(arguments) {
        Ok(code) => code,
        Err(problem) => fail(UNUSABLE, problem),
    }
}

fn explain(arguments: &Explain) -> Result<ExitCode, String> {
    let loaded = config::load(&arguments.config.config).map_err(|errors| errors.to_string())?;
    let identity = Identity::build(&loaded.config.identity.providers).map_err(|error| error.to_string())?;
    let subject = find_subject(&identity, &arguments.user)?;
    let groups = identity.groups_of(&subject).unwrap_or_else(|| {
        complain(format_args!("note: {subject} is not known to its provider; a login would be refused"));
        Arc::from([])
    });
    let client = Client { subject: &subject, groups: &groups, source: arguments.source };
    let (decision, allowed) = decide(&loaded.config.policy, client, arguments)?;
    let by_harbor = harbor_decides(&loaded.config, &subject, &arguments.repository);
    let verdict = match (by_harbor, decision.rule) {
        (true, None) => "HARBOR DECIDES",
        (true, Some(_)) if allowed => "HARBOR DECIDES",
        (false, _) if allowed => "ALLOWED",
        _ => "DENIED",
    };
    if arguments.action == "catalog" {
        say(format_args!("{verdict}: {subject} catalog (the list of all repositories)"));
    } else {
        say(format_args!("{verdict}: {subject} {} {}", arguments.action, arguments.repository));
    }
    match decision.rule {
        None if by_harbor => {
            say(format_args!("  no rule matches, so nothing is taken away from what Harbor grants"));
        }
        Some(rule) if by_harbor && allowed => {
            say(format_args!("  what Harbor grants is limited by {rule}"));
        }
        Some(rule) => say(format_args!("  decided by {rule}")),
        None => say(format_args!(
            "  no rule matches: denied by default ({} rules)",
            loaded.config.policy.rules().len()
        )),
    }
    let allowed = allowed || verdict == "HARBOR DECIDES";
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Whether Harbor nodes decide what this subject may do there.
fn harbor_decides(config: &Config, subject: &Subject, repository: &str) -> bool {
    let pool = config.identity.providers.iter().find_map(|provider| match provider {
        ProviderSettings::Harbor(settings) => Some(settings.pool),
        ProviderSettings::Users(_) | ProviderSettings::Htpasswd { .. } => None,
    });
    let host = config.hosts.primary();
    let route = match RepositoryName::try_from(repository) {
        Ok(repository) => config.routes.pool_of(host, &repository),
        Err(_) => config.routes.catalog_pool(host),
    };
    let theirs = subject.is_anonymous() || subject.provider() == HARBOR;
    theirs && pool.is_some() && route == pool
}

fn decide<'a>(
    policy: &'a Policy,
    client: Client<'_>,
    arguments: &Explain,
) -> Result<(Decision<'a>, bool), String> {
    if arguments.action == "catalog" {
        let decision = policy.decide_catalog(client);
        return Ok((decision, !decision.actions.is_empty()));
    }
    let action = Action::from_word(&arguments.action)
        .ok_or_else(|| format!("unknown action {:?}: pull, push, delete or catalog", arguments.action))?;
    let repository = RepositoryName::try_from(arguments.repository.as_str())
        .map_err(|error| format!("{:?}: {error}", arguments.repository))?;
    let decision = policy.decide(client, &repository);
    Ok((decision, decision.actions.contains(action)))
}

/// The subject that a person names: `NAME`, `PROVIDER/NAME` or `anonymous`.
pub(super) fn find_subject(identity: &Identity, user: &str) -> Result<Subject, String> {
    if user == ANONYMOUS_PROVIDER {
        return Ok(Subject::anonymous());
    }
    if let Some((provider, name)) = user.split_once('/') {
        return Subject::new(provider, name).map_err(|error| error.to_string());
    }
    let mut known = identity.subjects_named(user);
    match known.len() {
        0 => Err(format!(
            "no provider knows {user:?}; write PROVIDER/NAME to ask about a name that is not there yet"
        )),
        1 => Ok(known.remove(0)),
        _ => {
            let names: Vec<String> = known.iter().map(ToString::to_string).collect();
            Err(format!("several providers know {user:?}: ask for {}", names.join(" or ")))
        }
    }
}
