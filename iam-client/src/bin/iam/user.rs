//! `iam user …`.

use clap::{Args, Subcommand};
use iam_client::schema::users::{UserInput, UserRecord};
use iam_client::schema::{Secret, WorkspaceId};
use iam_client::users::UserRef;
use serde_json::json;

use crate::app::App;
use crate::failure::Failure;
use crate::{secrets, time, who};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a user; prints the id
    Create(Create),
    /// Show a user
    Get {
        /// User, by id or username
        user: String,
    },
    /// List users
    List {
        /// Those of one workspace alone
        #[arg(long)]
        workspace: Option<WorkspaceId>,
    },
    /// Change a user; what is not given stays
    Update(Update),
    /// Enable a user; tokens and keys that were ended stay so
    Enable {
        /// User, by id or username
        user: String,
    },
    /// Disable a user, and end all tokens and API keys
    Disable {
        /// User, by id or username
        user: String,
    },
    /// Delete a user and all API keys
    Delete {
        /// User, by id or username
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Set a temporary password, good for 24 h, and print it
    ResetPassword {
        /// User, by id or username
        user: String,
    },
    /// End every token issued so far; API keys stay
    RevokeTokens {
        /// User, by id or username
        user: String,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Username
    username: String,
    /// Home workspace
    #[arg(long)]
    workspace: WorkspaceId,
    /// Role; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', required = true)]
    roles: Vec<String>,
    /// Full name
    #[arg(long)]
    name: Option<String>,
    /// E-mail address
    #[arg(long)]
    email: Option<String>,
    /// Ask for a password; without one the user can only use API keys
    #[arg(long)]
    ask_password: bool,
    /// Read the password from stdin
    #[arg(long, conflicts_with = "ask_password")]
    password_stdin: bool,
    /// The user must change the password at the first login
    #[arg(long)]
    must_change_password: bool,
}

#[derive(Debug, Args)]
pub struct Update {
    /// User, by id or username
    user: String,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Full name; empty clears it
    #[arg(long)]
    name: Option<String>,
    /// E-mail address; empty clears it
    #[arg(long)]
    email: Option<String>,
    /// Role that the user has from now on; may be repeated, and replaces all that there were
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// Take all roles away
    #[arg(long, conflicts_with = "roles")]
    no_roles: bool,
    /// Enable or disable the user
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// Whether the user must change the password at the next login
    #[arg(long, value_name = "BOOL")]
    must_change_password: Option<bool>,
}

pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(app, args).await,
        Command::Get { user } => {
            let client = app.signed_in().await?;
            show(app, &client.get_user(UserRef::from(user.as_str()), None).await?)
        }
        Command::List { workspace } => {
            let users = app.signed_in().await?.all_users(workspace.as_ref()).await?;
            list(app, &users)
        }
        Command::Update(args) => update(app, args).await,
        Command::Enable { user } => {
            let client = app.signed_in().await?;
            client.enable_user(who::user_id(&client, &user).await?, None).await?;
            app.out.note(format!("{user} is enabled"));
            Ok(())
        }
        Command::Disable { user } => {
            let client = app.signed_in().await?;
            client.disable_user(who::user_id(&client, &user).await?, None).await?;
            app.out.note(format!("{user} is disabled; all tokens and API keys are ended"));
            Ok(())
        }
        Command::Delete { user, yes } => {
            secrets::confirm(&format!("Delete user {user} and all of the user's API keys?"), yes)?;
            let client = app.signed_in().await?;
            client.delete_user(who::user_id(&client, &user).await?, None).await?;
            app.out.note(format!("{user} is deleted"));
            Ok(())
        }
        Command::ResetPassword { user } => {
            let client = app.signed_in().await?;
            let password = client.reset_password(who::user_id(&client, &user).await?, None).await?;
            app.out.note(format!("temporary password of {user}, good for 24 h, shown this once:"));
            app.out.shown_once(password.expose(), &json!({ "temporary_password": password }))
        }
        Command::RevokeTokens { user } => {
            let client = app.signed_in().await?;
            client.revoke_user_tokens(Some(who::user_id(&client, &user).await?), None).await?;
            app.out.note(format!("every token of {user} is ended"));
            Ok(())
        }
    }
}

async fn create(app: &App, args: Create) -> Result<(), Failure> {
    let user = UserInput {
        password: new_password(&args)?,
        username: Some(args.username),
        name: args.name,
        email: args.email,
        roles: Some(args.roles),
        must_change_password: args.must_change_password.then_some(true),
        ..UserInput::default()
    };
    let created = app.signed_in().await?.create_user(&args.workspace, user).await?;
    app.out.note(format!("user {} in workspace {}, id:", created.username, created.workspace));
    app.out.value(&created.id, &created).map(drop)
}

fn new_password(args: &Create) -> Result<Option<Secret>, Failure> {
    if args.password_stdin {
        secrets::from_stdin().map(Some)
    } else if args.ask_password {
        secrets::ask_new(&format!("Password of {}", args.username)).map(Some)
    } else {
        Ok(None)
    }
}

async fn update(app: &App, Update { user, change }: Update) -> Result<(), Failure> {
    let roles_given = change.no_roles || !change.roles.is_empty();
    let change = UserInput {
        name: change.name,
        email: change.email,
        roles: roles_given.then_some(change.roles),
        enabled: change.enabled,
        must_change_password: change.must_change_password,
        ..UserInput::default()
    };
    let client = app.signed_in().await?;
    let updated = client.update_user(who::user_id(&client, &user).await?, change, None).await?;
    app.out.note(format!("{} is updated", updated.username));
    if app.out.is_json() { app.out.json(&updated).map(drop) } else { Ok(()) }
}

/// Shows one user.
pub fn show(app: &App, user: &UserRecord) -> Result<(), Failure> {
    let fields = [
        ("id", user.id.clone()),
        ("username", user.username.clone()),
        ("workspace", user.workspace.clone()),
        ("roles", user.roles.join(",")),
        ("state", state(user.enabled)),
        ("name", user.name.clone()),
        ("email", user.email.clone()),
        ("must-change-password", user.must_change_password.to_string()),
        ("created", time::show(user.created)),
        ("version", user.version.to_string()),
    ];
    app.out.record(user, &fields)
}

fn list(app: &App, users: &[UserRecord]) -> Result<(), Failure> {
    app.out.list(users, ["id", "username", "workspace", "roles", "state", "name", "email"], |user| {
        [
            user.id.clone(),
            user.username.clone(),
            user.workspace.clone(),
            user.roles.join(","),
            state(user.enabled),
            user.name.clone(),
            user.email.clone(),
        ]
    })
}

/// Enabled or not, in a word.
pub fn state(enabled: bool) -> String {
    if enabled { "enabled" } else { "disabled" }.to_owned()
}
