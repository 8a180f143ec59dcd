//! Workspaces.

use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{InsertWorkspace, Read, UpdateUser, UpdateWorkspace};

use super::{Deployment, add_user, add_workspace, root_admins};
use crate::sample;

pub async fn inserted_workspace_is_found(d: &mut dyn Deployment) {
    let store = d.store();
    let open = Workspace { name: "Zoë's".to_owned(), ..sample::workspace("acme") };
    let closed = Workspace { enabled: false, name: String::new(), ..sample::workspace("closed") };
    for workspace in [open, closed] {
        add_workspace(&*store, &workspace).await;
        for read in [Read::Ordinary, Read::Serial] {
            assert_eq!(store.workspace(&workspace.id, read).await.unwrap(), Some(workspace.clone()));
        }
    }
    assert_eq!(store.workspace(&sample::workspace_id("absent"), Read::Ordinary).await.unwrap(), None);
}

pub async fn insert_workspace_with_a_taken_id_is_refused(d: &mut dyn Deployment) {
    let store = d.store();
    let first = sample::workspace("acme");
    add_workspace(&*store, &first).await;
    let second = Workspace { name: "Another".to_owned(), ..sample::workspace("acme") };
    assert_eq!(store.insert_workspace(&second).await.unwrap(), InsertWorkspace::IdTaken);
    assert_eq!(store.workspace(&first.id, Read::Ordinary).await.unwrap(), Some(first));
    // Ids differ by case.
    add_workspace(&*store, &sample::workspace("Acme")).await;
}

pub async fn update_workspace_replaces_exactly_that_version(d: &mut dyn Deployment) {
    let store = d.store();
    let first = sample::workspace("acme");
    add_workspace(&*store, &first).await;
    let second = first.changed(|workspace| workspace.name = "New name".to_owned());
    assert_eq!(store.update_workspace(&first, &second).await.unwrap(), UpdateWorkspace::Updated);
    let stale = first.changed(|workspace| workspace.name = "Stale".to_owned());
    assert_eq!(store.update_workspace(&first, &stale).await.unwrap(), UpdateWorkspace::LostRace);
    assert_eq!(store.workspace(&first.id, Read::Ordinary).await.unwrap(), Some(second));

    let absent = sample::workspace("absent");
    let changed = absent.changed(|workspace| workspace.name = "There".to_owned());
    assert_eq!(store.update_workspace(&absent, &changed).await.unwrap(), UpdateWorkspace::LostRace);
    assert_eq!(store.workspace(&absent.id, Read::Ordinary).await.unwrap(), None);
}

pub async fn update_workspace_with_higher_epoch_disables_its_users(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let user = sample::user("alice", &home);
    add_user(&*store, &user).await;

    let closed = home.changed(Workspace::disable);
    assert_eq!(store.update_workspace(&home, &closed).await.unwrap(), UpdateWorkspace::Updated);
    let open = closed.changed(|workspace| workspace.enabled = true);
    assert_eq!(store.update_workspace(&closed, &open).await.unwrap(), UpdateWorkspace::Updated);
    let stored = store.workspace(&home.id, Read::Serial).await.unwrap().unwrap();
    assert_eq!(stored, open);
    let user = store.user(user.id, Read::Ordinary).await.unwrap().unwrap();
    assert!(!user.effectively_enabled(&stored), "left disabled");

    let back = user.changed(|user| user.workspace_epoch = stored.epoch);
    assert_eq!(store.update_user(&user, &back).await.unwrap(), UpdateUser::Updated);
    let user = store.user(user.id, Read::Ordinary).await.unwrap().unwrap();
    assert!(user.effectively_enabled(&stored));
}

pub async fn update_workspace_never_takes_the_last_root_admin(d: &mut dyn Deployment) {
    let store = d.store();
    let (home, away) = (sample::workspace("home"), sample::workspace("away"));
    add_workspace(&*store, &home).await;
    add_workspace(&*store, &away).await;
    add_user(&*store, &sample::admin("one", &home)).await;
    add_user(&*store, &sample::admin("two", &home)).await;
    add_user(&*store, &sample::user_with("writer", &away, &["writer"])).await;

    let closed = home.changed(Workspace::disable);
    let risen = home.changed(|workspace| workspace.epoch += 1);
    for to in [&closed, &risen] {
        assert_eq!(store.update_workspace(&home, to).await.unwrap(), UpdateWorkspace::LastRootAdmin);
        assert_eq!(store.workspace(&home.id, Read::Ordinary).await.unwrap(), Some(home.clone()));
    }
    let renamed = home.changed(|workspace| workspace.name = "Still open".to_owned());
    assert_eq!(store.update_workspace(&home, &renamed).await.unwrap(), UpdateWorkspace::Updated);
    let away_closed = away.changed(Workspace::disable);
    assert_eq!(store.update_workspace(&away, &away_closed).await.unwrap(), UpdateWorkspace::Updated);

    let third = sample::workspace("third");
    add_workspace(&*store, &third).await;
    add_user(&*store, &sample::admin("three", &third)).await;
    let closed = renamed.changed(Workspace::disable);
    assert_eq!(store.update_workspace(&renamed, &closed).await.unwrap(), UpdateWorkspace::Updated);
    assert_eq!(root_admins(&*store).await, 1);
    // A workspace that is disabled already has nobody to lose.
    let again = closed.changed(|workspace| workspace.epoch += 1);
    assert_eq!(store.update_workspace(&closed, &again).await.unwrap(), UpdateWorkspace::Updated);
}

pub async fn list_workspaces_shows_every_workspace_once(d: &mut dyn Deployment) {
    let store = d.store();
    assert_eq!(store.list_workspaces(None, 10).await.unwrap().items, []);
    let mut expected: Vec<_> = (0..12).map(|i| sample::workspace(&format!("w{i}"))).collect();
    for workspace in &expected {
        add_workspace(&*store, workspace).await;
    }
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    for limit in [1, 5, 12, 13] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.list_workspaces(after.as_ref(), limit).await.unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items);
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(found, expected, "pages of {limit}");
    }
}
