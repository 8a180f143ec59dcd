//! Every scene three times: in process, in process on Cassandra, and through the real binary over real NATS.

mod administration;
mod api_keys;
mod audit;
mod bootstrap;
mod common;
mod decisions;
mod faults;
mod sessions;
mod signing_keys;
mod users;
mod workspaces;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use iam_svc::domain::policy::{Policy, PolicySource};
use iam_tests::cassandra::Keyspace;
use iam_tests::scene::Shown;
use iam_tests::world::Setup;
use iam_tests::{Deployment, Scene, Wire, World};
use tokio::sync::OnceCell;

/// A scene, to be played over any wire.
type Play = for<'s> fn(&'s Scene<'s>) -> BoxFuture<'s, ()>;
/// A story that needs a world of its own making, and so is told in process alone.
type Tell = fn() -> BoxFuture<'static, BTreeSet<Shown>>;

/// Scenes that are played at the same time in process: they wait for the disk more than they compute.
const WORLDS: usize = 8;
/// Scenes that are played at the same time over NATS, each with a process of its own that hashes passwords.
const DEPLOYMENTS: usize = 3;
/// Scenes that are played at the same time on Cassandra, each in a keyspace of its own.
const KEYSPACES: usize = 4;

macro_rules! scenes {
    ($($scene:path;)*) => {
        /// Every scene with its name.
        const SCENES: &[(&str, Play)] = &[$((stringify!($scene), |s| $scene(s).boxed()),)*];
    };
}

macro_rules! stories {
    ($($story:path;)*) => {
        /// Every story with its name.
        const STORIES: &[(&str, Tell)] = &[$((stringify!($story), || $story().boxed()),)*];
    };
}

scenes! {
    sessions::login_gives_a_token_that_authenticates;
    sessions::login_token_has_the_claims_of_the_protocol;
    sessions::login_that_fails_says_the_same_whatever_was_wrong;
    sessions::login_that_is_malformed_is_an_invalid_argument;
    sessions::login_names_the_workspace_that_the_token_is_for;
    sessions::failed_logins_of_a_name_are_throttled_in_any_case_and_on_both_planes;
    sessions::failed_logins_from_an_address_are_throttled_on_the_service_plane_alone;
    sessions::owner_logs_in_while_somebody_guesses_at_the_name;
    sessions::wrong_current_password_counts_as_a_failed_login;
    sessions::change_password_ends_all_tokens_and_no_key;
    sessions::change_password_that_is_refused_changes_nothing;
    sessions::temporary_password_is_good_for_a_new_password_alone;
    sessions::temporary_password_expires_after_a_day;
    sessions::token_ends_with_its_lifetime;
    sessions::user_made_to_change_the_password_gets_a_limited_token;
    sessions::reset_password_is_for_who_administers_the_user;
    sessions::revoke_user_tokens_ends_every_token_and_no_key;
    sessions::whoami_shows_the_caller;
    decisions::authenticate_tells_whose_a_credential_is;
    decisions::credential_that_is_dead_or_unknown_is_refused_in_one_way;
    decisions::service_plane_operation_is_not_offered_on_the_api_plane;
    decisions::authorise_decides_by_role_scope_and_state;
    decisions::decisions_follow_changes_at_once;
    decisions::authorise_of_a_credential_is_never_good_beyond_its_end;
    decisions::authorise_on_the_api_plane_is_for_oneself;
    decisions::question_that_is_malformed_is_an_invalid_argument_before_anything_else;
    decisions::authorise_many_answers_in_order_and_denies_what_is_malformed;
    decisions::explain_says_which_role_or_what_each_lacked;
    decisions::explain_of_somebody_else_needs_iam_admin;
    signing_keys::published_keys_are_those_that_sign_and_are_about_to;
    signing_keys::rotation_lets_the_published_key_sign_and_the_old_one_verify;
    signing_keys::ring_that_is_full_refuses_to_rotate_until_a_grace_period_ends;
    signing_keys::retired_key_stops_verifying_at_once;
    signing_keys::signing_keys_are_changed_by_who_has_iam_admin_everywhere;
    bootstrap::bootstrap_seeds_an_empty_deployment_once;
    bootstrap::bootstrap_seeds_once_however_many_race;
    bootstrap::bootstrap_works_on_the_service_plane_too;
    users::created_user_is_shown_as_entered_and_never_with_a_hash;
    users::malformed_request_about_users_is_refused_before_anything_is_asked;
    users::user_is_created_in_an_enabled_workspace_with_known_roles_and_a_good_password;
    users::username_is_one_name_in_any_case_and_free_after_deletion;
    users::user_is_named_by_id_or_username_but_not_by_two_users;
    users::listing_shows_every_user_once_whoever_comes_and_goes;
    users::page_token_is_good_for_its_own_list_alone;
    users::page_of_users_with_long_names_fits_a_reply;
    users::update_changes_what_is_present_and_leaves_what_is_absent;
    users::disabling_and_enabling_a_user_end_tokens_and_keys_and_restore_none;
    users::deleting_a_user_leaves_nothing_of_them;
    users::racing_updates_are_done_or_refused_as_a_whole;
    administration::what_changes_nothing_does_nothing;
    administration::absent_user_is_not_found_by_those_who_see_all;
    administration::workspace_given_must_be_the_users;
    administration::only_those_with_the_capability_administer_users;
    administration::acting_for_somebody_is_decided_for_them;
    administration::last_root_admin_stays_by_every_path;
    administration::two_root_admins_who_end_each_other_at_once_leave_one;
    workspaces::workspace_is_created_found_and_changed;
    workspaces::malformed_request_about_workspaces_is_refused_before_anything_is_asked;
    workspaces::workspace_that_is_taken_or_absent_is_told_so;
    workspaces::only_those_with_the_capability_administer_workspaces;
    workspaces::disabled_workspace_stops_all_at_home_in_it_and_nobody_else;
    workspaces::users_of_a_disabled_workspace_can_be_administered;
    workspaces::user_disabled_in_a_disabled_workspace_stays_disabled;
    workspaces::listing_shows_every_workspace_once;
    workspaces::list_my_workspaces_shows_home_or_for_scope_star_all;
    api_keys::created_key_resolves_to_its_owner_and_is_shown_once;
    api_keys::malformed_request_about_keys_is_refused_before_anything_is_asked;
    api_keys::key_ends_when_it_expires;
    api_keys::key_that_resolves_to_nobody_is_refused_without_a_reason;
    api_keys::key_needs_an_enabled_owner;
    api_keys::key_name_is_one_keys_of_a_user_and_free_once_that_is_gone;
    api_keys::user_has_200_keys_at_most_and_a_list_shows_each_once;
    api_keys::revoked_key_is_gone_at_once;
    api_keys::anybody_manages_their_own_keys_and_nobody_elses;
    api_keys::only_those_with_the_capability_administer_keys;
}

stories! {
    signing_keys::iam_admin_of_one_workspace_is_none_of_the_deployment;
    decisions::anonymous_callers_are_the_user_configured_for_them;
    bootstrap::token_mode_seeds_at_start_and_never_by_the_operation;
    faults::store_that_does_not_answer_is_unavailable_and_never_an_allow;
    faults::fault_of_any_one_call_is_told_as_it_is;
    faults::change_that_loses_every_race_is_a_conflict;
    users::update_needs_users_admin_for_roles_and_for_what_other_operations_do;
    administration::whoever_changes_a_user_holds_all_that_the_user_holds_in_that_scope;
    administration::nobody_gives_themselves_what_they_lack;
    administration::administrator_of_a_workspace_cannot_tell_absent_from_forbidden;
    administration::holder_of_any_root_role_counts_as_root_admin;
    audit::audit_says_who_did_what_to_whom_on_whose_authority;
    workspaces::workspaces_are_administered_for_the_whole_deployment_or_not_at_all;
    api_keys::keys_of_others_need_reach_and_dominance_and_ones_own_either_capability;
    api_keys::last_use_of_a_key_is_shown_once_it_is_written;
    api_keys::expiry_lies_ahead_as_the_vectors_say;
}

/// How the scenes and stories went.
#[derive(Debug, Default)]
pub struct Played {
    pub shown: BTreeSet<Shown>,
    pub failed: Vec<&'static str>,
}

impl Played {
    fn add(&mut self, name: &'static str, shown: Option<BTreeSet<Shown>>) {
        match shown {
            Some(shown) => self.shown.extend(shown),
            None => self.failed.push(name),
        }
    }
}

/// All scenes and stories in process, played once for all tests of this run.
pub async fn played() -> &'static Played {
    static PLAYED: OnceCell<Played> = OnceCell::const_new();
    PLAYED
        .get_or_init(|| async {
            let mut scenes = stream::iter(SCENES)
                .map(|(name, play)| async move {
                    let world = World::new(Default::default());
                    (*name, shown_by(name, *play, &world).await)
                })
                .buffer_unordered(WORLDS);
            let mut played = Played::default();
            while let Some((name, shown)) = scenes.next().await {
                played.add(name, shown);
            }
            for (name, tell) in STORIES {
                played.add(name, AssertUnwindSafe(tell()).catch_unwind().await.ok());
            }
            played
        })
        .await
}

/// The scenes whose names hold the text in `IAM_TEST_SCENES`; all of them as a rule.
fn chosen() -> impl Iterator<Item = &'static (&'static str, Play)> {
    let part = std::env::var("IAM_TEST_SCENES").unwrap_or_default();
    SCENES.iter().filter(move |(name, _)| name.contains(&part))
}

/// What a scene has shown, or nothing if it failed: the reason is on stderr by then.
async fn shown_by(name: &'static str, play: Play, wire: &dyn Wire) -> Option<BTreeSet<Shown>> {
    let scene = Scene::new(name, wire);
    let went = AssertUnwindSafe(play(&scene)).catch_unwind().await;
    went.is_ok().then(|| scene.shown())
}

#[tokio::test]
async fn scenes_hold_in_process() {
    let failed = &played().await.failed;
    assert!(failed.is_empty(), "failed in process: {failed:?}");
}

#[tokio::test]
async fn scenes_hold_on_cassandra() {
    let Some(hosts) = iam_tests::cassandra::hosts() else { return };
    let mut scenes = stream::iter(chosen())
        .map(|(name, play)| {
            let hosts = &hosts;
            async move {
                let keyspace = Keyspace::claim(hosts).await;
                let policy = Arc::new(Policy::build(&PolicySource::default()).expect("a policy that stands"));
                let store = keyspace.open(Arc::new(policy.root_roles())).await;
                let world = World::over(store, policy, Setup::default());
                (*name, shown_by(name, *play, &world).await)
            }
        })
        .buffer_unordered(KEYSPACES);
    let mut failed = Vec::new();
    while let Some((name, shown)) = scenes.next().await {
        if shown.is_none() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed on Cassandra: {failed:?}");
}

#[tokio::test]
async fn scenes_hold_over_nats() {
    let Some(url) = iam_tests::deployment::nats_url() else { return };
    let mut scenes = stream::iter(chosen())
        .map(|(name, play)| {
            let url = &url;
            async move {
                let deployment = Deployment::start(url, &[]).await;
                (*name, shown_by(name, *play, &deployment).await)
            }
        })
        .buffer_unordered(DEPLOYMENTS);
    let mut failed = Vec::new();
    while let Some((name, shown)) = scenes.next().await {
        if shown.is_none() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed over NATS: {failed:?}");
}
