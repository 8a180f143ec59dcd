//! Sequences, and how they are made up: so that what is likely reaches deep, and what is rare comes up often enough.

use iam_schema::subject::Plane;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::ask::{
    Ask, Call, Credential, Expiry, Floors, Kid, Name, Page, Password, Place, Profile, Target, Whom,
};
use super::request::CAPABILITIES;

/// One step of a sequence. Replicas, messages and the like are named by numbers that are taken modulo how many there
/// are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Ask(u8, Ask),
    /// A change whose replica dies before it has told anybody.
    DieAfter(u8, Ask),
    /// Time passes, in milliseconds.
    Pass(i64),
    /// So many messages reach a replica, in order.
    Deliver(u8, u8),
    /// One message reaches a replica out of turn, and will once more if so said.
    Overtake(u8, u8, bool),
    Lose(u8, u8),
    Heartbeat(u8),
    /// A replica that knows the k-th user's token misses that it was revoked, and then hears of something else, but of
    /// no heartbeat until that no longer repeats what was missed.
    Gap(u8, u8),
    Cut(u8),
    Mend(u8),
    /// The last uses of keys are written.
    WriteLastUsed(u8),
    /// A replica ends in order and starts anew; or dies.
    Restart(u8),
    Die(u8),
    /// All replicas and the store end, and start anew from the same directory; or from what a crash would have left
    /// of it.
    RestartAll,
    CrashAll,
}

/// How a sequence begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Seeded, with a few users of different rank.
    Peopled,
    Seeded,
    Empty,
}

/// A sequence, and the deployment that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub start: Start,
    /// `--bootstrap-mode token`, else `bootstrap`.
    pub token_mode: bool,
    pub anonymous: bool,
    /// Every message is delivered at once and in order, so that nothing may ever be known late.
    pub prompt: bool,
    pub steps: Vec<Step>,
}

/// Sequences of up to `longest` steps.
pub fn sequences(longest: usize) -> BoxedStrategy<Sequence> {
    let start = prop_oneof![8 => Just(Start::Peopled), 2 => Just(Start::Seeded), 1 => Just(Start::Empty)];
    let flags = (start, prop::bool::weighted(0.2), prop::bool::weighted(0.5), prop::bool::weighted(0.5));
    let steps = vec(step(), 1..=longest);
    (flags, steps)
        .prop_map(|((start, token_mode, anonymous, prompt), steps)| Sequence {
            start,
            token_mode,
            anonymous,
            prompt,
            steps,
        })
        .boxed()
}

fn step() -> BoxedStrategy<Step> {
    let slot = || 0..2_u8;
    let times = prop::sample::select(
        &[
            1_i64, 700, 2_000, 4_999, 6_000, 30_000, 59_999, 60_000, 300_000, 600_000, 661_000, 3_600_000,
            3_661_000, 86_400_000,
        ][..],
    );
    prop_oneof![
        75 => (slot(), ask()).prop_map(|(slot, ask)| Step::Ask(slot, ask)),
        5 => times.prop_map(Step::Pass),
        6 => (slot(), 1..6_u8).prop_map(|(slot, n)| Step::Deliver(slot, n)),
        2 => (slot(), 0..4_u8, any::<bool>()).prop_map(|(slot, n, again)| Step::Overtake(slot, n, again)),
        1 => (slot(), 0..4_u8).prop_map(|(slot, n)| Step::Lose(slot, n)),
        3 => slot().prop_map(Step::Heartbeat),
        1 => (slot(), 0..8_u8).prop_map(|(slot, k)| Step::Gap(slot, k)),
        1 => prop_oneof![slot().prop_map(Step::Cut), slot().prop_map(Step::Mend), slot().prop_map(Step::Mend)],
        1 => slot().prop_map(Step::WriteLastUsed),
        1 => prop_oneof![
            slot().prop_map(Step::Restart),
            slot().prop_map(Step::Die),
            Just(Step::RestartAll),
            Just(Step::CrashAll),
        ],
        1 => (slot(), ask()).prop_map(|(slot, ask)| Step::DieAfter(slot, ask)),
    ]
    .boxed()
}

/// Who asks.
#[derive(Debug, Clone)]
struct Origin(Plane, Whom, Credential);

fn origin() -> BoxedStrategy<Origin> {
    prop_oneof![
        6 => Just(Origin(Plane::Service, Whom::Missing, Credential::Missing)),
        4 => (0..8_u8).prop_map(|k| Origin(Plane::Service, Whom::Kth(k), Credential::Missing)),
        1 => prop_oneof![Just(Whom::Nobody), Just(Whom::Malformed)]
            .prop_map(|whom| Origin(Plane::Service, whom, Credential::Missing)),
        11 => (whom(), credential()).prop_map(|(whom, held)| Origin(Plane::Api, whom, held)),
    ]
    .boxed()
}

fn ask() -> BoxedStrategy<Ask> {
    let floors = prop_oneof![
        12 => Just(Floors::None),
        6 => Just(Floors::Acknowledged),
        1 => prop_oneof![(0..8_u8).prop_map(Floors::Ahead), Just(Floors::Malformed)],
    ];
    (origin(), floors, call())
        .prop_map(|(Origin(plane, actor, credential), floors, call)| Ask {
            plane,
            actor,
            credential,
            floors,
            call,
        })
        .boxed()
}

fn whom() -> BoxedStrategy<Whom> {
    prop_oneof![
        14 => (0..8_u8).prop_map(Whom::Kth),
        3 => Just(Whom::Oneself),
        1 => Just(Whom::Missing),
        1 => prop_oneof![Just(Whom::Nobody), Just(Whom::Malformed)],
    ]
    .boxed()
}

/// A workspace where it is an integrity check.
fn check() -> BoxedStrategy<Place> {
    prop_oneof![8 => Just(Place::Missing), 2 => Just(Place::Home), 1 => place()].boxed()
}

/// A workspace where one is needed.
fn place() -> BoxedStrategy<Place> {
    prop_oneof![
        24 => (0..4_u8).prop_map(Place::At),
        1 => prop_oneof![Just(Place::Missing), Just(Place::Malformed)],
    ]
    .boxed()
}

/// The same, and mostly one that is there.
fn place_in_use() -> BoxedStrategy<Place> {
    prop_oneof![2 => Just(Place::At(1)), 3 => place()].boxed()
}

fn name() -> BoxedStrategy<Name> {
    prop_oneof![
        16 => (0..7_u8, prop::bool::weighted(0.2)).prop_map(|(n, capitals)| Name::Pool(n, capitals)),
        1 => prop_oneof![Just(Name::Missing), Just(Name::Malformed), Just(Name::Id)],
    ]
    .boxed()
}

fn name_of() -> BoxedStrategy<Name> {
    prop_oneof![
        8 => (whom(), prop::bool::weighted(0.3)).prop_map(|(whom, capitals)| Name::Of(whom, capitals)),
        2 => name(),
    ]
    .boxed()
}

fn password() -> BoxedStrategy<Password> {
    prop_oneof![
        8 => Just(Password::Right),
        3 => (0..3_u8).prop_map(Password::Strong),
        1 => (0..3_u8).prop_map(Password::Weak),
        1 => Just(Password::Missing),
    ]
    .boxed()
}

fn new_password() -> BoxedStrategy<Password> {
    prop_oneof![
        8 => (0..3_u8).prop_map(Password::Strong),
        1 => (0..3_u8).prop_map(Password::Weak),
        1 => Just(Password::Right),
        1 => Just(Password::Missing),
    ]
    .boxed()
}

fn credential() -> BoxedStrategy<Credential> {
    prop_oneof![
        6 => (0..8_u8).prop_map(Credential::KeyOf),
        4 => (0..8_u8).prop_map(Credential::TokenOf),
        3 => (0..8_u8).prop_map(Credential::Key),
        4 => (0..8_u8).prop_map(Credential::Token),
        1 => prop_oneof![
            (0..5_u8).prop_map(Credential::Junk),
            Just(Credential::Missing),
            Just(Credential::OtherScheme),
            Just(Credential::Twice),
        ],
    ]
    .boxed()
}

/// A credential within the request, which is a text.
fn given() -> BoxedStrategy<Credential> {
    credential()
        .prop_map(|credential| match credential {
            Credential::OtherScheme | Credential::Twice => Credential::Junk(0),
            credential => credential,
        })
        .boxed()
}

fn target() -> BoxedStrategy<Target> {
    prop_oneof![
        6 => Just(Target::Absent),
        6 => place().prop_map(Target::At),
        4 => Just(Target::At(Place::Home)),
        2 => prop::sample::select(vec![
            Target::Empty, Target::Elsewhere, Target::Null, Target::Number, Target::EmptyText, Target::Unknown,
        ]),
        1 => prop_oneof![Just(Target::Broken), Just(Target::List)],
    ]
    .boxed()
}

fn capability() -> BoxedStrategy<u8> {
    // One past the list is none.
    (0..=CAPABILITIES.len() as u8).boxed()
}

fn roles() -> BoxedStrategy<u16> {
    prop_oneof![
        8 => (0..8_u16).prop_map(|n| 1 << n),
        2 => Just(0_u16),
        2 => (0..8_u16, 0..8_u16).prop_map(|(a, b)| 1 << a | 1 << b),
        1 => Just(1 << 8),
    ]
    .boxed()
}

fn profile(set: f64) -> BoxedStrategy<Profile> {
    (
        weighted(set, roles()),
        weighted(0.3, 0..4_u8),
        weighted(0.2, 0..4_u8),
        weighted(0.2, any::<bool>()),
        weighted(0.2, any::<bool>()),
    )
        .prop_map(|(roles, name, email, enabled, must_change)| Profile {
            roles,
            name,
            email,
            enabled,
            must_change,
        })
        .boxed()
}

fn page() -> BoxedStrategy<Page> {
    let size = prop_oneof![6 => 1..4_u16, 3 => Just(0_u16), 1 => Just(1000_u16), 1 => Just(1001_u16)];
    (size, weighted(0.6, 0..4_u8), prop::bool::weighted(0.05))
        .prop_map(|(size, after, bad_token)| Page { size, after, bad_token })
        .boxed()
}

fn expiry() -> BoxedStrategy<Expiry> {
    prop_oneof![
        6 => Just(Expiry::Never),
        4 => prop::sample::select(&[30, 60, 90, 4_000][..]).prop_map(Expiry::In),
        1 => prop_oneof![Just(Expiry::In(0)), Just(Expiry::In(-5)), Just(Expiry::Malformed)],
    ]
    .boxed()
}

fn call() -> BoxedStrategy<Call> {
    let checks = || vec((capability(), target(), target()), 0..4);
    let record = || (weighted(0.5, 0..4_u8), weighted(0.5, any::<bool>()));
    let about = || (whom(), check());
    prop_oneof![
        8 => (name_of(), password(), check()).prop_map(|(name, password, place)| Call::Login(name, password, place)),
        5 => given().prop_map(Call::Authenticate),
        3 => given().prop_map(Call::ResolveApiKey),
        1 => Just(Call::AuthenticateAnonymous),
        8 => (whom(), weighted(0.4, given()), capability(), target(), target())
            .prop_map(|(whom, given, c, r, p)| Call::Authorise(alone(whom, given), given, c, r, p)),
        3 => (whom(), weighted(0.4, given()), checks())
            .prop_map(|(whom, given, checks)| Call::AuthoriseMany(alone(whom, given), given, checks)),
        3 => (whom(), weighted(0.3, name_of()), capability(), target(), target())
            .prop_map(|(whom, name, c, r, p)| Call::Explain(unless(whom, name), name, c, r, p)),
        2 => Just(Call::Whoami),
        4 => (prop_oneof![5 => Just(Whom::Oneself), 1 => whom()], password(), new_password())
            .prop_map(|(whom, old, new)| Call::ChangePassword(whom, old, new)),
        8 => (place_in_use(), name(), new_password(), profile(0.9))
            .prop_map(|(place, name, password, profile)| Call::CreateUser(place, name, password, profile)),
        3 => (check(), page()).prop_map(|(place, page)| Call::ListUsers(place, page)),
        3 => (whom(), weighted(0.3, name_of()), check())
            .prop_map(|(whom, name, place)| Call::GetUser(unless(whom, name), name, place)),
        8 => (whom(), weighted(0.1, name_of()), weighted(0.03, password()), profile(0.4), check())
            .prop_map(|(whom, name, pw, profile, place)| Call::UpdateUser(whom, name, pw, profile, place)),
        5 => about().prop_map(|(whom, place)| Call::DisableUser(whom, place)),
        6 => about().prop_map(|(whom, place)| Call::EnableUser(whom, place)),
        3 => about().prop_map(|(whom, place)| Call::RevokeUserTokens(whom, place)),
        3 => about().prop_map(|(whom, place)| Call::DeleteUser(whom, place)),
        4 => about().prop_map(|(whom, place)| Call::ResetPassword(whom, place)),
        8 => (whom(), weighted(0.97, 0..4_u8), expiry(), check())
            .prop_map(|(whom, name, expiry, place)| Call::CreateApiKey(whom, name, expiry, place)),
        3 => (whom(), check(), page()).prop_map(|(whom, place, page)| Call::ListApiKeys(whom, place, page)),
        4 => (weighted(0.97, 0..8_u8), check()).prop_map(|(key, place)| Call::RevokeApiKey(key, place)),
        3 => (place(), record()).prop_map(|(place, (name, enabled))| Call::CreateWorkspace(place, name, enabled)),
        2 => page().prop_map(Call::ListMyWorkspaces),
        2 => page().prop_map(Call::ListWorkspaces),
        4 => place().prop_map(Call::GetWorkspace),
        4 => (place(), record()).prop_map(|(place, (name, enabled))| Call::UpdateWorkspace(place, name, enabled)),
        3 => place_in_use().prop_map(Call::DisableWorkspace),
        1 => Just(Call::GetSigningKeyPublic),
        1 => Just(Call::GetJwks),
        1 => Just(Call::RotateSigningKey),
        4 => prop_oneof![
            2 => Just(Kid::Active),
            3 => (0..4_u8).prop_map(Kid::Kth),
            3 => prop_oneof![3 => Just(Kid::Nobody), 1 => Just(Kid::Missing)],
        ].prop_map(Call::RetireSigningKey),
        1 => Just(Call::Bootstrap),
        1 => Just(Call::BootstrapStatus),
    ]
    .boxed()
}

/// With a credential mostly nobody is named beside it.
fn alone(whom: Whom, given: Option<Credential>) -> Whom {
    match (whom, given) {
        (Whom::Nobody | Whom::Malformed, _) | (_, None) => whom,
        _ => Whom::Missing,
    }
}

/// With a name, some are named by id too.
fn unless(whom: Whom, name: Option<Name>) -> Whom {
    match (whom, name) {
        (Whom::Kth(k), Some(_)) if k % 2 == 0 => Whom::Missing,
        _ => whom,
    }
}
