//! `iam signing-key …`.

use clap::Subcommand;
use iam_client::schema::KeyKid;
use serde_json::json;

use crate::app::App;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the key that signs now, as PEM
    Public,
    /// Print every key that verifies or is about to, as a JSON key set
    Jwks,
    /// Let the next key sign from now on; the present one verifies for the grace period
    Rotate,
    /// End a key that leaked, at once, and with it every token that it signed
    Retire {
        /// The `kid`, as `iam signing-key jwks` shows it
        kid: KeyKid,
    },
}

pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Public => {
            let pem = app.open().await?.get_signing_key_public().await?;
            app.out.value(&pem, &json!({ "signing_key_public": pem })).map(drop)
        }
        // A key set is JSON already.
        Command::Jwks => {
            let jwks = app.open().await?.get_jwks().await?;
            app.out.line(jwks.trim_end()).map(drop)
        }
        Command::Rotate => {
            app.signed_in().await?.rotate_signing_key().await?;
            app.out.note("the next key signs from now on");
            Ok(())
        }
        Command::Retire { kid } => {
            app.signed_in().await?.retire_signing_key(&kid).await?;
            app.out.note(format!("key {kid} verifies no more"));
            Ok(())
        }
    }
}
