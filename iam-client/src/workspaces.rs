//! Workspaces.

use iam_schema::workspaces::{WorkspaceInput, WorkspaceRecord};
use iam_schema::{IamRequest, OperationName, WorkspaceId};

use crate::client::Client;
use crate::error::ClientError;
use crate::pages::{Page, PageRequest, every_page};
use crate::reply;

/// Workspaces.
///
/// # Errors
/// Each method as [`Client::call`].
impl Client {
    /// Creates a workspace of this id; an id in `workspace` itself does not count.
    pub async fn create_workspace(
        &self,
        id: &WorkspaceId,
        workspace: WorkspaceInput,
    ) -> Result<WorkspaceRecord, ClientError> {
        let response = self.call(OperationName::CreateWorkspace, about(id, workspace)).await?;
        reply::required("workspace", response.workspace)
    }

    /// A page of the workspaces that the caller may act in.
    pub async fn list_my_workspaces(&self, page: &PageRequest) -> Result<Page<WorkspaceRecord>, ClientError> {
        let response = self.call(OperationName::ListMyWorkspaces, paged(page)).await?;
        Ok(Page::new(response.workspaces, response.next_page_token))
    }

    /// Every workspace that the caller may act in.
    pub async fn all_my_workspaces(&self) -> Result<Vec<WorkspaceRecord>, ClientError> {
        every_page!(page => self.list_my_workspaces(&page))
    }

    /// A page of the deployment's workspaces.
    pub async fn list_workspaces(&self, page: &PageRequest) -> Result<Page<WorkspaceRecord>, ClientError> {
        let response = self.call(OperationName::ListWorkspaces, paged(page)).await?;
        Ok(Page::new(response.workspaces, response.next_page_token))
    }

    /// Every workspace of the deployment.
    pub async fn all_workspaces(&self) -> Result<Vec<WorkspaceRecord>, ClientError> {
        every_page!(page => self.list_workspaces(&page))
    }

    /// One workspace.
    pub async fn get_workspace(&self, id: &WorkspaceId) -> Result<WorkspaceRecord, ClientError> {
        let request = about(id, WorkspaceInput::default());
        let response = self.call(OperationName::GetWorkspace, request).await?;
        reply::required("workspace", response.workspace)
    }

    /// Changes what `change` has; what it lacks stays, and an id in it does not count.
    pub async fn update_workspace(
        &self,
        id: &WorkspaceId,
        change: WorkspaceInput,
    ) -> Result<WorkspaceRecord, ClientError> {
        let response = self.call(OperationName::UpdateWorkspace, about(id, change)).await?;
        reply::required("workspace", response.workspace)
    }

    /// Disables a workspace: at once nobody whose home it is can do anything, and their keys are gone.
    pub async fn disable_workspace(&self, id: &WorkspaceId) -> Result<(), ClientError> {
        let request = about(id, WorkspaceInput::default());
        self.call(OperationName::DisableWorkspace, request).await.map(drop)
    }
}

fn about(id: &WorkspaceId, record: WorkspaceInput) -> IamRequest<'static> {
    let record = WorkspaceInput { id: Some(id.to_string()), ..record };
    IamRequest { workspace_record: Some(record), ..IamRequest::default() }
}

fn paged(page: &PageRequest) -> IamRequest<'_> {
    IamRequest { page_size: page.size, page_token: page.token.as_str().into(), ..IamRequest::default() }
}
