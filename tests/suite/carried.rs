//! A request that waits is carried by the browser: used once, whoever posts it how often and wherever.
use std::sync::Barrier;

use crate::kit::http::client;
use crate::kit::page::Press;
use crate::kit::seed::{PASSWORD, SPA, standard};
use crate::kit::server::free_port;
use crate::kit::{Ask, House, Landing, Server, Shared, Upstream, Visitor, services};

static STAGE: Shared = Shared::new();

/// The approval of somebody who looks at the consent page.
fn approval(stage: &Server, visitor: &mut Visitor, ask: &Ask) -> Press {
    let page = match visitor.open(&ask.url(stage)) {
        Landing::Page(page) if page.kind() == "login" => visitor.login(&page, "carol", PASSWORD).kind("consent"),
        other => other.kind("consent"),
    };
    page.press("consent-approve")
}

/// The codes that come of one form posted at all these addresses at the same moment; everybody else sees an error page.
fn codes(visitor: &Visitor, press: &Press, addresses: &[String]) -> Vec<String> {
    let start = Barrier::new(addresses.len());
    let answers: Vec<Landing> = std::thread::scope(|scope| {
        let posts: Vec<_> = addresses
            .iter()
            .map(|address| {
                let (mut visitor, mut press, start) = (visitor.clone(), press.clone(), &start);
                press.action.clone_from(address);
                scope.spawn(move || {
                    start.wait();
                    visitor.send_from(&press, None)
                })
            })
            .collect();
        posts.into_iter().map(|post| post.join().expect("an answer")).collect()
    });
    let mut codes = Vec::new();
    for answer in answers {
        match answer {
            Landing::Away(url) => codes.extend(url.query_pairs().find(|(name, _)| name == "code").map(|(_, code)| code.into_owned())),
            Landing::Page(page) => assert_eq!((page.status(), page.kind().as_str()), (400, "error"), "{}", page.answer.text()),
        }
    }
    codes
}

#[test]
fn one_approval_posted_many_times_at_once_gives_one_code() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    for _ in 0..10 {
        let ask = Ask::new(&SPA);
        let press = approval(stage, &mut visitor, &ask);
        let given = codes(&visitor, &press, &vec![press.action.clone(); 6]);
        assert_eq!(given.len(), 1, "{given:?}");
        ask.redeem(stage, &given[0]).expect(200);
    }
}

#[test]
fn a_request_that_waits_is_finished_at_another_node_and_used_at_one_of_two() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let at = |node: &Server| format!("http://{}/consent", node.listener("public"));
    let mut visitor = Visitor::new();
    for round in 0..10 {
        let ask = Ask::new(&SPA);
        let press = approval(&a, &mut visitor, &ask);
        let text = press.fields.iter().find(|(name, _)| name == "interaction").map(|(_, text)| text.clone()).expect("its text");
        let addresses = if round == 0 { vec![at(&b)] } else { vec![at(&a), at(&b), at(&a), at(&b)] };
        let given = codes(&visitor, &press, &addresses);
        assert_eq!(given.len(), 1, "{given:?}");
        ask.redeem(&b, &given[0]).expect(200);
        let again = visitor.clone().once(client().get(format!("{}?interaction={text}", at(&b))));
        assert_eq!(again.status, 400);
    }
}
