//! The harness of the end-to-end tests: throwaway hosts, and a git work tree that pushes to them.
//! Scenarios are in `tests/*.rs`; nothing in here knows what the daemon should do.
//!
//! ```no_run
//! use reconciled_tests::{Host, Release};
//!
//! let host = Host::with_nginx(Release::Trixie);
//! let repo = host.clone_repo();
//! repo.write("files/etc/nginx/sites-enabled/shop", "server { listen 80; server_name shop; return 200 new; }\n");
//! repo.commit_and_push().assert_live();
//! assert_eq!(host.http("/", "shop").body, "new");
//!
//! repo.write("files/etc/nginx/sites-enabled/shop", "server {");
//! repo.commit_and_push().assert_refused("nginx -t");
//! ```
//!
//! `RECONCILED_DEB` names the package under test, `RECONCILED_DEB_FAILPOINTS` the one that can be told to die; `KEEP_HOSTS=1` leaves the hosts of failed tests for a look.

mod host;
mod image;
mod repo;
mod run;

pub use host::{Host, Response};
pub use image::{Image, Release};
pub use repo::{Push, Pushing, Repo};
pub use run::Output;

/// Makes one function two tests, one a release: `scenario!(fn heals(host: with_nginx) { … })` gives `heals::bookworm` and
/// `heals::trixie`. The word after `host:` is the constructor of [`Host`] to call; in the body `host` is a `&Host`. After
/// `host =` stands a function of the file instead: from a release to a host.
///
/// What is all our own doing, and no release's programs have a part in, names one: `fn refuses(host: installed on trixie)` is a test of that release.
/// With the feature `every-release` it is one of the other as well.
#[macro_export]
macro_rules! scenario {
    ($(#[$meta:meta])* fn $name:ident($host:ident : $made:ident $(on $only:ident)?) $body:block) => {
        $crate::scenario!(@both [$(#[$meta])*] $name $host [$crate::Host::$made] [$($only)?] $body);
    };
    ($(#[$meta:meta])* fn $name:ident($host:ident = $made:ident $(on $only:ident)?) $body:block) => {
        $crate::scenario!(@both [$(#[$meta])*] $name $host [super::$made] [$($only)?] $body);
    };
    (@both [$($meta:tt)*] $name:ident $host:ident $made:tt $only:tt $body:block) => {
        $($meta)*
        fn $name($host: &$crate::Host) $body

        mod $name {
            $crate::scenario!(@one $name $made bookworm Bookworm $only);
            $crate::scenario!(@one $name $made trixie Trixie $only);
        }
    };
    (@one $name:ident $made:tt bookworm $release:ident [trixie]) => {
        #[cfg(feature = "every-release")]
        $crate::scenario!(@one $name $made bookworm $release []);
    };
    (@one $name:ident $made:tt trixie $release:ident [bookworm]) => {
        #[cfg(feature = "every-release")]
        $crate::scenario!(@one $name $made trixie $release []);
    };
    (@one $name:ident $made:tt bookworm $release:ident [bookworm]) => {
        $crate::scenario!(@one $name $made bookworm $release []);
    };
    (@one $name:ident $made:tt trixie $release:ident [trixie]) => {
        $crate::scenario!(@one $name $made trixie $release []);
    };
    (@one $name:ident [$made:path] $test:ident $release:ident []) => {
        #[test]
        fn $test() {
            super::$name(&$made($crate::Release::$release));
        }
    };
}
