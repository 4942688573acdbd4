//! The database behind nodes: users, projects, robots, roles, artifacts and the audit log. Nodes that share it are one Harbor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::harness::random_secret;

/// Core cuts longer names in the audit log.
const AUDIT_NAME_CHARS: usize = 255;

/// What a member of a project is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Guest,
    Developer,
    Maintainer,
    ProjectAdmin,
}

impl Role {
    fn actions(self) -> &'static [Action] {
        match self {
            Self::Guest => &[Action::Pull],
            Self::Developer => &[Action::Pull, Action::Push],
            Self::Maintainer | Self::ProjectAdmin => &[Action::Pull, Action::Push, Action::Delete],
        }
    }

    pub(super) fn id(self) -> u8 {
        match self {
            Self::ProjectAdmin => 1,
            Self::Developer => 2,
            Self::Guest => 3,
            Self::Maintainer => 4,
        }
    }
}

/// What can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Pull,
    Push,
    Delete,
    /// Only administrators and scanners have it; it shows in their tokens.
    ScannerPull,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::ScannerPull];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::ScannerPull => "scanner-pull",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// How Harbor knows its users; shown by `systeminfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AuthMode {
    #[default]
    Database,
    Ldap,
    Oidc,
}

impl AuthMode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Database => "db_auth",
            Self::Ldap => "ldap_auth",
            Self::Oidc => "oidc_auth",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) admin: bool,
    pub(super) created: SystemTime,
    password: String,
    in_directory: bool,
    cli_secret: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Project {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) public: bool,
    pub(super) created: SystemTime,
    pub(super) owner: String,
    pub(super) quota_full: bool,
    members: HashMap<String, Role>,
    immutable: HashSet<(String, String)>,
}

#[derive(Debug, Clone)]
struct Robot {
    secret: String,
    permissions: Vec<(String, Vec<Action>)>,
}

/// One manifest that was pushed, as the database has it.
#[derive(Debug, Clone)]
pub(super) struct Artifact {
    pub(super) id: u64,
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) pushed: SystemTime,
    pub(super) tags: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) artifacts: BTreeMap<String, Artifact>,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    /// Empty where nobody was named by a token that pushed.
    pub(crate) username: String,
    pub(crate) operation: String,
    pub(crate) resource: String,
}

#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) users: Vec<User>,
    pub(super) projects: Vec<Project>,
    pub(super) repositories: BTreeMap<String, Repository>,
    pub(super) audit: Vec<(SystemTime, AuditEntry)>,
    pub(super) read_only: bool,
    pub(super) auth_mode: AuthMode,
    robots: HashMap<String, Robot>,
    /// Digests of blobs that were pushed or mounted, and in which projects they are.
    blobs: HashMap<String, HashSet<String>>,
    last_id: u64,
}

/// How a user's password is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// Here; whether the password fits.
    Local {
        name: String,
        fits: bool,
    },
    /// By the directory, which knows the name as it is written there.
    InDirectory {
        name: String,
        fits: bool,
    },
    Unknown,
}

/// The shared database of one or more nodes.
#[derive(Debug, Clone)]
pub(crate) struct HarborDatabase {
    data: Arc<Mutex<Data>>,
    admin_password: Arc<str>,
}

impl Default for HarborDatabase {
    fn default() -> Self {
        Self::new()
    }
}

impl HarborDatabase {
    /// As after an installation: `admin`, and the public project `library`.
    pub(crate) fn new() -> Self {
        let admin_password = random_secret();
        let database = Self {
            data: Arc::new(Mutex::new(Data::default())),
            admin_password: admin_password.as_str().into(),
        };
        database.add_user("admin", &admin_password);
        database.data().users[0].admin = true;
        database.add_project("library", true);
        database
    }

    pub(crate) fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// A user whose password this database has.
    pub(crate) fn add_user(&self, name: &str, password: &str) {
        self.insert_user(name, password, false);
    }

    /// A user of the directory, with the name as it is written there; any case of it logs in.
    pub(crate) fn add_directory_user(&self, name_as_in_directory: &str, password: &str) {
        self.insert_user(name_as_in_directory, password, true);
        self.data().auth_mode = AuthMode::Ldap;
    }

    fn insert_user(&self, name: &str, password: &str, in_directory: bool) {
        let mut data = self.data();
        let id = u64::try_from(data.users.len()).expect("a small number") + 1;
        data.users.push(User {
            id,
            name: name.to_owned(),
            admin: false,
            created: SystemTime::now(),
            password: password.to_owned(),
            in_directory,
            cli_secret: None,
        });
    }

    /// The CLI secret of an OIDC user, who is added where there is none of this name.
    pub(crate) fn set_cli_secret(&self, name: &str, secret: &str) {
        if self.find_user(name).is_none() {
            self.add_user(name, &random_secret());
        }
        let mut data = self.data();
        data.auth_mode = AuthMode::Oidc;
        let user = data.users.iter_mut().find(|user| user.name == name).expect("it was added");
        user.cli_secret = Some(secret.to_owned());
    }

    pub(crate) fn set_auth_mode(&self, mode: AuthMode) {
        self.data().auth_mode = mode;
    }

    pub(crate) fn remove_user(&self, name: &str) {
        self.data().users.retain(|user| user.name != name);
    }

    pub(crate) fn set_password(&self, name: &str, password: &str) {
        let mut data = self.data();
        let user = data.users.iter_mut().find(|user| user.name == name);
        password.clone_into(&mut user.expect("a known user").password);
    }

    pub(crate) fn add_project(&self, name: &str, public: bool) {
        self.add_project_at(name, public, SystemTime::now());
    }

    pub(crate) fn add_project_at(&self, name: &str, public: bool, created: SystemTime) {
        self.create_project(name, public, created, "admin");
    }

    pub(super) fn create_project(&self, name: &str, public: bool, created: SystemTime, owner: &str) -> u64 {
        let mut data = self.data();
        let id = data.projects.iter().map(|project| project.id).max().unwrap_or_default() + 1;
        data.projects.push(Project {
            id,
            name: name.to_owned(),
            public,
            created,
            owner: owner.to_owned(),
            quota_full: false,
            members: HashMap::from([(owner.to_owned(), Role::ProjectAdmin)]),
            immutable: HashSet::new(),
        });
        id
    }

    pub(crate) fn remove_project(&self, name: &str) {
        self.data().projects.retain(|project| project.name != name);
    }

    pub(crate) fn set_public(&self, project: &str, public: bool) {
        self.change_project(project, |project| project.public = public);
    }

    pub(crate) fn grant(&self, user: &str, project: &str, role: Role) {
        self.change_project(project, |project| {
            project.members.insert(user.to_owned(), role);
        });
    }

    pub(crate) fn revoke(&self, user: &str, project: &str) {
        self.change_project(project, |project| {
            project.members.remove(user);
        });
    }

    pub(crate) fn set_quota_full(&self, project: &str, full: bool) {
        self.change_project(project, |project| project.quota_full = full);
    }

    /// `repository` is the name without its project.
    pub(crate) fn make_immutable(&self, project: &str, repository: &str, tag: &str) {
        self.change_project(project, |project| {
            project.immutable.insert((repository.to_owned(), tag.to_owned()));
        });
    }

    fn change_project(&self, name: &str, change: impl FnOnce(&mut Project)) {
        let mut data = self.data();
        change(data.projects.iter_mut().find(|project| project.name == name).expect("a known project"));
    }

    /// A robot by its full name (`robot$team+ci`), with what it may do in which project (`*` is every project).
    pub(crate) fn add_robot(&self, name: &str, secret: &str, permissions: &[(&str, &[&str])]) {
        let permissions = permissions
            .iter()
            .map(|(project, actions)| {
                ((*project).to_owned(), actions.iter().filter_map(|action| Action::parse(action)).collect())
            })
            .collect();
        self.data().robots.insert(name.to_owned(), Robot { secret: secret.to_owned(), permissions });
    }

    pub(crate) fn set_robot_secret(&self, name: &str, secret: &str) {
        let mut data = self.data();
        secret.clone_into(&mut data.robots.get_mut(name).expect("a known robot").secret);
    }

    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.data().read_only = read_only;
    }

    /// What core's audit log would show, oldest first.
    pub(crate) fn audit(&self) -> Vec<AuditEntry> {
        self.data().audit.iter().map(|(_, entry)| entry.clone()).collect()
    }

    pub(super) fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find_user(&self, name: &str) -> Option<User> {
        self.data().users.iter().find(|user| user.name == name).cloned()
    }

    pub(super) fn find_project(&self, name: &str) -> Option<Project> {
        self.data().projects.iter().find(|project| project.name == name).cloned()
    }

    pub(super) fn account(&self, typed: &str, password: &str) -> Account {
        let data = self.data();
        let fits = |user: &User| !password.is_empty() && user.password == password;
        if let Some(user) = data.users.iter().find(|user| !user.in_directory && user.name == typed) {
            return Account::Local { name: user.name.clone(), fits: fits(user) };
        }
        if data.auth_mode != AuthMode::Ldap {
            return Account::Unknown;
        }
        let same = |user: &&User| user.in_directory && user.name.to_lowercase() == typed.to_lowercase();
        match data.users.iter().find(same) {
            Some(user) => Account::InDirectory { name: user.name.clone(), fits: fits(user) },
            // Only the directory can tell that it knows no such name.
            None => Account::InDirectory { name: typed.to_owned(), fits: false },
        }
    }

    pub(super) fn cli_secret_fits(&self, name: &str, secret: &str) -> bool {
        let data = self.data();
        data.users.iter().any(|user| user.name == name && user.cli_secret.as_deref() == Some(secret))
    }

    pub(super) fn robot_secret_fits(&self, name: &str, secret: &str) -> bool {
        self.data().robots.get(name).is_some_and(|robot| robot.secret == secret)
    }

    pub(super) fn user_may(&self, name: &str, project: &str, action: Action) -> bool {
        let data = self.data();
        let Some(project) = data.projects.iter().find(|known| known.name == project) else { return false };
        if data.users.iter().any(|user| user.admin && user.name == name) {
            return true;
        }
        let as_member = project.members.get(name).is_some_and(|role| role.actions().contains(&action));
        as_member || (project.public && action == Action::Pull)
    }

    pub(super) fn robot_may(&self, name: &str, project: &str, action: Action) -> bool {
        let data = self.data();
        data.robots.get(name).is_some_and(|robot| {
            let mut fitting = robot.permissions.iter().filter(|(known, _)| known == project || known == "*");
            fitting.any(|(_, actions)| actions.contains(&action))
        })
    }

    pub(super) fn role_of(&self, name: &str, project: &str) -> Option<Role> {
        self.find_project(project)?.members.get(name).copied()
    }

    pub(super) fn blob_is_known(&self, digest: &str) -> bool {
        self.data().blobs.contains_key(digest)
    }

    pub(super) fn add_blob(&self, project: &str, digest: &str) {
        self.data().blobs.entry(digest.to_owned()).or_default().insert(project.to_owned());
    }

    /// The digest that a tag or digest of a repository stands for.
    pub(super) fn resolve(&self, repository: &str, reference: &str) -> Option<String> {
        let data = self.data();
        let artifacts = &data.repositories.get(repository)?.artifacts;
        if artifacts.contains_key(reference) {
            return Some(reference.to_owned());
        }
        let tagged = |artifact: &Artifact| artifact.tags.iter().any(|tag| tag == reference);
        artifacts.iter().find(|(_, artifact)| tagged(artifact)).map(|(digest, _)| digest.clone())
    }

    pub(super) fn is_immutable(&self, repository: &str, tag: &str) -> bool {
        let (project, name) = repository.split_once('/').unwrap_or((repository, ""));
        let rule = self
            .find_project(project)
            .is_some_and(|project| project.immutable.contains(&(name.to_owned(), tag.to_owned())));
        rule && self.resolve(repository, tag).is_some()
    }

    pub(super) fn add_artifact(&self, repository: &str, digest: &str, tag: Option<&str>, mut new: Artifact) {
        let mut data = self.data();
        data.last_id += 2;
        let id = data.last_id;
        let known = data.repositories.entry(repository.to_owned()).or_default();
        if known.id == 0 {
            known.id = id - 1;
        }
        if let Some(tag) = tag {
            for artifact in known.artifacts.values_mut() {
                artifact.tags.retain(|known| known != tag);
            }
        }
        new.id = id;
        let artifact = known.artifacts.entry(digest.to_owned()).or_insert(new);
        artifact.tags.extend(tag.map(str::to_owned));
    }

    pub(super) fn remove_artifact(&self, repository: &str, digest: &str) {
        if let Some(known) = self.data().repositories.get_mut(repository) {
            known.artifacts.remove(digest);
        }
    }

    pub(super) fn log(&self, username: &str, operation: &str, resource: String) {
        let username = username.chars().take(AUDIT_NAME_CHARS).collect();
        let entry = AuditEntry { username, operation: operation.to_owned(), resource };
        self.data().audit.push((SystemTime::now(), entry));
    }
}
