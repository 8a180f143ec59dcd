//! `iam login`, `iam logout`, `iam whoami`, `iam passwd`.

use std::path::Path;

use clap::Args;
use iam_client::schema::{ErrorKind, Secret, WorkspaceId};
use iam_client::sessions::Session;
use iam_client::{Client, ClientError};
use serde_json::json;

use crate::app::App;
use crate::credential::{self, Origin};
use crate::failure::{Exit, Failure};
use crate::jwt::Claims;
use crate::{secrets, user, who};

#[derive(Debug, Args)]
pub struct Login {
    /// Username
    user: String,
    /// The workspace to act in [default: your home workspace]
    #[arg(long)]
    workspace: Option<WorkspaceId>,
    /// Read the password from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Print the JWT instead of storing it
    #[arg(long)]
    print: bool,
}

pub async fn login(app: &App, args: Login) -> Result<(), Failure> {
    let store = match args.print {
        true => None,
        false => Some(store(app)?),
    };
    let password = match args.password_stdin {
        true => secrets::from_stdin()?,
        false => secrets::ask(&format!("Password of {}", args.user))?,
    };
    let client = app.open().await?;
    let session =
        client.login(&args.user, &password, args.workspace.as_ref()).await.map_err(login_refused)?;
    match store {
        None => {
            let record = json!({
                "jwt": session.jwt,
                "jwt_expires": session.expires,
                "must_change_password": session.must_change_password,
            });
            app.out.shown_once(session.jwt.expose(), &record)?;
        }
        Some(path) => {
            credential::store(path, &session.jwt)?;
            app.out.note(format!("logged in as {} until {}", args.user, session.expires));
            if let Ok(Some(found)) = app.settings.credential()
                && found.origin != Origin::Stored(path.to_owned())
            {
                app.out.note(format!("the credential in {} goes before this login", found.origin));
            }
        }
    }
    if session.must_change_password {
        app.out.note("the password must be changed before anything else: run `iam passwd`");
    }
    Ok(())
}

pub fn logout(app: &App) -> Result<(), Failure> {
    let path = store(app)?;
    let was_there = credential::forget(path)?;
    app.out.note(if was_there { "logged out on this machine" } else { "nobody was logged in" });
    if let Ok(Some(found)) = app.settings.credential() {
        app.out.note(format!("there is still a credential in {}", found.origin));
    }
    Ok(())
}

pub async fn whoami(app: &App) -> Result<(), Failure> {
    let me = app.oneself().await?.whoami().await?;
    user::show(app, &me)
}

#[derive(Debug, Args)]
pub struct Passwd {
    /// Read the present password from the first line of stdin, and the new one from the second
    #[arg(long)]
    password_stdin: bool,
}

pub async fn passwd(app: &App, args: Passwd) -> Result<(), Failure> {
    app.needs_api_plane()?;
    let found = app.settings.credential()?.ok_or_else(Failure::not_logged_in)?;
    let (current, new) = match args.password_stdin {
        true => secrets::two_from_stdin()?,
        false => (secrets::ask("Present password")?, secrets::ask_new("New password")?),
    };
    let client = app.oneself().await?;
    let me = client.whoami().await?;
    client.change_password(who::id_of(&me)?, &current, &new).await.map_err(change_refused)?;
    app.out.note(format!("the password of {} is changed", me.username));

    // A new password ends every token, so also the one that is stored. API keys live on.
    let Some(claims) = Claims::of(&found.credential) else { return Ok(()) };
    let Some(path) = found.origin.path() else {
        app.out.note(format!("the JWT in {} is dead now: `iam login {}`", found.origin, me.username));
        return Ok(());
    };
    // The token was for the home workspace, unless it says another.
    let workspace = claims.workspace.parse().ok().filter(|id: &WorkspaceId| id.as_str() != me.workspace);
    let session = login_again(&client, &me.username, &new, workspace.as_ref()).await?;
    credential::store(path, &session.jwt)?;
    app.out.note(format!("logged in again until {}", session.expires));
    Ok(())
}

async fn login_again(
    client: &Client,
    username: &str,
    password: &Secret,
    workspace: Option<&WorkspaceId>,
) -> Result<Session, Failure> {
    client.login(username, password, workspace).await.map_err(|error| {
        let failure = login_refused(error);
        let message = format!("the password is changed, but logging in again failed: {}", failure.message);
        Failure { message, ..failure }
    })
}

fn store(app: &App) -> Result<&Path, Failure> {
    let nowhere = || Failure::usage("set HOME or XDG_STATE_HOME, so that there is a place for the login");
    app.settings.credential_store.as_deref().ok_or_else(nowhere)
}

fn login_refused(error: ClientError) -> Failure {
    match error.kind() {
        Some(ErrorKind::AuthFailed) => Failure::new(
            Exit::NotLoggedIn,
            "auth failure: wrong username or password, or this user may not log in there now",
        ),
        _ => error.into(),
    }
}

fn change_refused(error: ClientError) -> Failure {
    match error.kind() {
        Some(ErrorKind::AuthFailed) => {
            Failure::new(Exit::NotLoggedIn, "auth failure: the present password is wrong")
        }
        _ => error.into(),
    }
}
