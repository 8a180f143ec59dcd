//! [`App`]: what every command is given.

use iam_client::Client;
use iam_client::schema::subject::Plane;

use crate::failure::Failure;
use crate::out::Out;
use crate::settings::{Globals, Settings};

/// The settings, and the way to show results. NATS is connected to when a command needs it, and not before it has
/// asked what it has to ask on the terminal.
#[derive(Debug)]
pub struct App {
    pub out: Out,
    pub settings: Settings,
}

impl App {
    pub fn new(globals: &Globals) -> Result<Self, Failure> {
        Ok(Self { out: Out::new(globals.json, globals.quiet), settings: Settings::read(globals)? })
    }

    /// A client for public operations.
    pub async fn open(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.settings.connection).await?.on(self.settings.plane))
    }

    /// A client for operations that ask for a credential, on the plane where one counts.
    ///
    /// # Errors
    /// Not logged in; before NATS is asked for anything.
    pub async fn signed_in(&self) -> Result<Client, Failure> {
        match self.settings.plane {
            Plane::Service => self.open().await,
            Plane::Api => {
                let found = self.settings.credential()?.ok_or_else(Failure::not_logged_in)?;
                Ok(self.open().await?.with_credential(found.credential))
            }
        }
    }

    /// A client for what concerns the caller: on the service plane there is nobody who that could be.
    pub async fn oneself(&self) -> Result<Client, Failure> {
        self.needs_api_plane()?;
        self.signed_in().await
    }

    /// Refuses the service plane.
    pub fn needs_api_plane(&self) -> Result<(), Failure> {
        match self.settings.plane {
            Plane::Api => Ok(()),
            Plane::Service => {
                let why = "this is about whoever the credential stands for: leave out --service-plane";
                Err(Failure::usage(why))
            }
        }
    }
}
