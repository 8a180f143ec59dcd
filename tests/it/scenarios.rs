//! Every scene twice: in process, and through the real binary over real NATS.

mod sessions;

use iam_tests::{Deployment, Scene, World};

macro_rules! scenes {
    ($($scene:path;)*) => {
        /// Plays every scene in process.
        #[tokio::test]
        async fn scenes_hold_in_process() {
            $(
                let world = World::new(Default::default());
                let scene = Scene::new(stringify!($scene), &world);
                $scene(&scene).await;
            )*
        }

        /// Plays every scene over NATS.
        #[tokio::test]
        async fn scenes_hold_over_nats() {
            let Some(url) = iam_tests::deployment::nats_url() else { return };
            $(
                let deployment = Deployment::start(&url, &[]).await;
                let scene = Scene::new(stringify!($scene), &deployment);
                $scene(&scene).await;
            )*
        }
    };
}

scenes! {
    sessions::login_gives_a_token_that_authenticates;
}
