//! `iam workspace …`.

use clap::{Args, Subcommand};
use iam_client::schema::WorkspaceId;
use iam_client::schema::workspaces::{WorkspaceInput, WorkspaceRecord};

use crate::app::App;
use crate::failure::Failure;
use crate::time;
use crate::user::state;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a workspace; prints its id
    Create {
        id: WorkspaceId,
        /// Full name
        #[arg(long)]
        name: Option<String>,
    },
    /// Show a workspace
    Get { id: WorkspaceId },
    /// List the deployment's workspaces
    List,
    /// List the workspaces that you may act in
    Mine,
    /// Change a workspace; what is not given stays
    Update {
        id: WorkspaceId,
        #[command(flatten)]
        change: Change,
    },
    /// Disable a workspace: nobody whose home it is can do anything, and their keys are gone
    Disable { id: WorkspaceId },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// Full name; empty clears it
    #[arg(long)]
    name: Option<String>,
    /// Enable or disable it; its users stay disabled until `iam user enable`
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
}

pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { id, name } => {
            let input = WorkspaceInput { name, ..WorkspaceInput::default() };
            let created = app.signed_in().await?.create_workspace(&id, input).await?;
            app.out.value(&created.id, &created).map(drop)
        }
        Command::Get { id } => {
            let workspace = app.signed_in().await?.get_workspace(&id).await?;
            show(app, &workspace)
        }
        Command::List => list(app, &app.signed_in().await?.all_workspaces().await?),
        Command::Mine => list(app, &app.oneself().await?.all_my_workspaces().await?),
        Command::Update { id, change } => {
            let input =
                WorkspaceInput { name: change.name, enabled: change.enabled, ..WorkspaceInput::default() };
            let updated = app.signed_in().await?.update_workspace(&id, input).await?;
            app.out.note(format!("workspace {id} is updated"));
            if app.out.is_json() { app.out.json(&updated).map(drop) } else { Ok(()) }
        }
        Command::Disable { id } => {
            app.signed_in().await?.disable_workspace(&id).await?;
            app.out.note(format!("workspace {id} is disabled"));
            Ok(())
        }
    }
}

fn show(app: &App, workspace: &WorkspaceRecord) -> Result<(), Failure> {
    let fields = [
        ("id", workspace.id.clone()),
        ("name", workspace.name.clone()),
        ("state", state(workspace.enabled)),
        ("created", time::show(workspace.created)),
        ("version", workspace.version.to_string()),
    ];
    app.out.record(workspace, &fields)
}

fn list(app: &App, workspaces: &[WorkspaceRecord]) -> Result<(), Failure> {
    app.out.list(workspaces, ["id", "name", "state", "created"], |workspace| {
        [
            workspace.id.clone(),
            workspace.name.clone(),
            state(workspace.enabled),
            time::show(workspace.created),
        ]
    })
}
