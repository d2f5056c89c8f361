//! SQLite's disk is full, may only be read, or its directory is gone: 503 with `Retry-After`, nothing acknowledged is lost.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::load::{Load, expect_away};
use crate::kit::http::{Go, client};
use crate::kit::seed::{APP, MACHINE, SAFE, standard};
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream, services, wait_until};

/// A small disk of its own, for whoever may mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(house: &House) -> Option<Self> {
        let at = house.path("disk");
        std::fs::create_dir(&at).expect("a directory");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m,mode=700", "doorward-suite"]).arg(&at).output();
        if !done.is_ok_and(|o| o.status.success()) {
            services::skip("the right to mount a small disk");
            return None;
        }
        Some(Self(at))
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).output().expect("mount");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Takes what is left of it.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("filler")).expect("a file");
        for size in [65536, 4096, 512] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn relieve(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn on(house: &mut House, folder: &Path) -> Upstream {
    let upstream = Upstream::start();
    house.text("storage.url", &format!("sqlite://{}", folder.join("doorward.db").display()));
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    upstream
}

#[track_caller]
fn served_again(load: &Load, more: usize) {
    let until = load.acknowledged() + more;
    wait_until("clients are served again", Duration::from_secs(30), || load.acknowledged() >= until);
}

fn in_order(server: &Server, house: &House) {
    assert!(server.metric("panics_total") < 1.0);
    house.run(&["audit", "verify"]).ok();
}

#[test]
fn a_full_disk_is_503_and_with_room_again_it_goes_on() {
    let mut house = House::new();
    let Some(disk) = Disk::mount(&house) else { return };
    let _upstream = on(&mut house, &disk.0);
    let server = house.serve();
    let load = Load::new(&server, &server.issuer, 2);
    load.during(|| {
        for _ in 0..2 {
            served_again(&load, 10);
            disk.fill();
            let refused = load.refused();
            wait_until("clients hear that it is full", Duration::from_secs(60), || load.refused() > refused + 4);
            // What can be read is answered still.
            client().get(server.url("/jwks")).go().expect(200);
            disk.relieve();
        }
        served_again(&load, 20);
    });
    let told = load.judge(&server);
    assert_eq!(told.broken, 0, "every request has an answer");
    in_order(&server, &house);
    // Killed while it is full, it starts again on what there is.
    let kept = server.machine_token(&SAFE, &[]);
    disk.fill();
    wait_until("it is full", Duration::from_secs(60), || server.token(&SAFE, &[("grant_type", "client_credentials")]).status == 503);
    server.kill();
    disk.relieve();
    let server = house.serve();
    assert!(server.active(&kept));
    in_order(&server, &house);
    drop(server);
}

#[test]
fn a_file_that_may_only_be_read_is_refused_at_the_start_with_its_name() {
    let mut house = House::new();
    let Some(disk) = Disk::mount(&house) else { return };
    let _upstream = on(&mut house, &disk.0);
    disk.remount("ro");
    let said = house.try_serve().err().expect("it does not start");
    assert!(said.contains("doorward.db") && said.to_lowercase().contains("read-only"), "{said}");
    disk.remount("rw");
    house.serve().machine_token(&MACHINE, &[]);
}

#[test]
fn a_directory_that_is_gone_is_503_until_a_restart_finds_it_again() {
    let mut house = House::new();
    let (here, away) = (house.path("here"), house.path("away"));
    std::fs::create_dir(&here).expect("a directory");
    let upstream = on(&mut house, &here);
    let server = house.serve();
    let kept = server.machine_token(&SAFE, &[]);
    let refresh = text(&server.person_tokens(&APP, "alice"), "refresh_token");
    std::fs::rename(&here, &away).expect("moved away");
    for _ in 0..3 {
        expect_away(&server.token(&SAFE, &[("grant_type", "client_credentials")]));
        expect_away(&server.refresh(&APP, &refresh));
    }
    wait_until("nothing is read from it either", Duration::from_secs(5), || {
        server.post("/introspect", &crate::kit::seed::GW, &[("token", &kept)]).status == 503
    });
    wait_until("it says that it is not ready", Duration::from_secs(15), || client().get(server.url("/readyz")).go().status == 503);
    std::fs::rename(&away, &here).expect("moved back");
    server.kill();
    let server = house.serve();
    assert!(server.active(&kept));
    server.refresh(&APP, &refresh).expect(200);
    in_order(&server, &house);
    drop(upstream);
}
