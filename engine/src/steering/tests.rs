//! Tests with the kernel's verifier and its sockets. If programs may not be loaded, each test prints that.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use socket2::Socket;

use super::{Balance, Guard, LoadPage, Loads, Others, Span, Steering};
use crate::config::Steering as By;
use crate::sys::bpf;
use crate::sys::listener::{bind, configure};
use crate::sys::shared_memory::Shared;

const EACH: [By; 4] = [By::Hash, By::Cpu, By::TwoChoices, By::Least];

/// `None`, with a printed message, if programs may not be loaded.
fn load_by(by: By, listeners: u32) -> Option<(Steering, Balance)> {
    let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let loaded =
        Balance::new(by, listeners, &cores).and_then(|balance| Ok((Steering::load(listeners, &balance)?, balance)));
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("SKIPPED: a steering program may not be loaded: {error}");
            None
        }
        Err(error) => panic!("{by}, {listeners} listeners: {error}"),
    }
}

fn load(listeners: u32) -> Option<Steering> {
    load_by(By::Hash, listeners).map(|(steering, _)| steering)
}

fn listen(address: SocketAddr) -> (Socket, SocketAddr) {
    let (socket, address) = bind(address).expect("bound");
    configure(&socket, address, 4096).expect("listening");
    socket.set_nonblocking(true).expect("set");
    (socket, address)
}

fn waiting(listener: &Socket) -> usize {
    std::iter::from_fn(|| listener.accept().ok()).count()
}

fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect()
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Listeners in the places of a map, and the guard through which its program is attached.
struct Group {
    address: SocketAddr,
    listeners: Vec<Socket>,
    steering: Steering,
    balance: Balance,
    _guard: Guard,
}

impl Group {
    fn new(by: By, places: u32) -> Option<Self> {
        let (steering, balance) = load_by(by, places)?;
        let (first, address) = listen(anywhere());
        let others = (1..places).map(|_| listen(address).0);
        let listeners: Vec<Socket> = [first].into_iter().chain(others).collect();
        for (place, listener) in (0..).zip(&listeners) {
            steering.set(place, listener.as_fd()).expect("set");
        }
        let guard = Guard::open(address, 16, &steering).expect("attached");
        Some(Self { address, listeners, steering, balance, _guard: guard })
    }

    fn page(&self, place: u32) -> Shared<LoadPage> {
        self.balance.loads().page(place).expect("mapped")
    }

    fn accept(&self) -> Vec<usize> {
        self.listeners.iter().map(waiting).collect()
    }

    fn others(&self) -> Others<'_> {
        Others { map: self.steering.map(), places: self.listeners.len() as u32, loads: self.balance.loads() }
    }
}

#[test]
fn the_kernel_verifies_programs_for_any_number_of_listeners() {
    for by in EACH {
        for listeners in [1, 2, 3, 64, 256, 257, 1024] {
            let began = Instant::now();
            let Some((steering, balance)) = load_by(by, listeners) else { return };
            let took = began.elapsed();
            let Some((other, others)) = load_by(by, listeners) else { return };
            let own = Others { map: steering.map(), places: listeners, loads: balance.loads() };
            other.beside(listeners, &others, own).unwrap_or_else(|error| panic!("{by}, {listeners}: {error}"));
            let silent = Loads::default();
            let own = Others { loads: &silent, ..own };
            other.beside(listeners, &others, own).unwrap_or_else(|error| panic!("{by}, {listeners}: {error}"));
            eprintln!("{by}, {listeners}: loaded in {took:?}");
        }
    }
}

#[test]
fn a_generation_that_grows_keeps_its_pages() {
    let Some((steering, mut balance)) = load_by(By::Least, 3) else { return };
    balance.loads().page(2).expect("mapped").settle(7);
    let (_, own) = load_by(By::Least, 1024).expect("loaded");
    for places in [64, 65, 100, 257, 1024] {
        balance.grow(places).expect("grown");
        let resized = steering.resized(places, &balance).unwrap_or_else(|error| panic!("{places}: {error}"));
        let others = Others { map: steering.map(), places, loads: balance.loads() };
        resized.beside(1024, &own, others).unwrap_or_else(|error| panic!("beside {places}: {error}"));
        balance.loads().page(places - 1).expect("mapped").settle(9);
    }
    assert_eq!(balance.loads().spans().iter().map(|span| span.places).collect::<Vec<_>>(), [64, 960]);
    assert!(balance.loads().page(1024).is_err());
}

#[test]
fn a_page_is_one_places_alone() {
    let Some((_, balance)) = load_by(By::Least, 3) else { return };
    let page = balance.loads().page(1).expect("mapped");
    assert!(!page.can_grow(), "the mapping must not reach the next place");
    let map = balance.loads().spans()[0].map.as_fd();
    assert!(Shared::<LoadPage>::of_pages(map, 64).is_err(), "beyond the last page");
    assert!(Shared::<LoadPage>::of_pages(std::fs::File::open("/dev/null").expect("opened").as_fd(), 0).is_err());
}

#[test]
fn attaching_switches_the_group_and_what_waits_moves_when_a_listener_closes() {
    let (Some(first), Some(second)) = (load(2), load(3)) else { return };
    let (old, address) = listen(anywhere());
    let (new, _) = listen(address);
    let (guard, _) = listen(address);
    first.set(1, old.as_fd()).expect("set");
    second.set(2, new.as_fd()).expect("set");
    first.attach(guard.as_fd()).expect("attached");
    let _clients = connect(address, 20);
    assert_eq!((waiting(&old), waiting(&new), waiting(&guard)), (20, 0, 0));
    let _clients = connect(address, 20);
    second.attach(guard.as_fd()).expect("attached");
    let _more = connect(address, 20);
    assert_eq!((waiting(&new), waiting(&guard)), (20, 0), "the old one is parked, and keeps what waits there");
    drop(old);
    assert_eq!((waiting(&new), waiting(&guard)), (20, 0), "what waited moved");
    let _clients = connect(address, 20);
    drop(new);
    let _more = connect(address, 20);
    assert_eq!(waiting(&guard), 40, "nobody else is left");
}

#[test]
fn a_listener_must_listen_before_it_is_steered_to() {
    let Some(steering) = load(1) else { return };
    let (socket, address) = bind(anywhere()).expect("bound");
    steering.set(0, socket.as_fd()).expect_err("it does not listen");
    configure(&socket, address, 16).expect("listening");
    steering.set(0, socket.as_fd()).expect("set");
}

#[test]
fn the_listeners_of_two_servers_serve_together() {
    for by in EACH {
        for is_silent in [true, false] {
            let (Some((first, balance)), Some((second, own))) = (load_by(by, 2), load_by(by, 3)) else { return };
            let silent = Loads::default();
            let loads = if is_silent { &silent } else { balance.loads() };
            let (old, address) = listen(anywhere());
            let (new, _) = listen(address);
            first.set(0, old.as_fd()).expect("set");
            second.set(1, new.as_fd()).expect("set");
            let others = Others { map: first.map(), places: 2, loads };
            second.beside(3, &own, others).expect("loaded").attach(new.as_fd()).expect("attached");
            let _clients = connect(address, 100);
            let shares = (waiting(&old), waiting(&new));
            assert!(shares.0 + shares.1 == 100 && shares.0 > 10 && shares.1 > 10, "{by}: {shares:?}");
            drop(old);
            let _more = connect(address, 20);
            assert_eq!(waiting(&new), 20, "{by}: the other's places are tried as well");
        }
    }
}

/// The largest share divided by the mean.
fn unevenness(shares: &[usize]) -> f64 {
    let most = *shares.iter().max().expect("some") as f64;
    most * shares.len() as f64 / shares.iter().sum::<usize>() as f64
}

#[test]
fn shares_are_as_even_as_the_way_promises() {
    for by in EACH {
        for (count, two_choices_max) in [(64, 1.75), (256, 1.25), (1024, 1.1)] {
            let Some(group) = Group::new(by, 8) else { return };
            let _clients = connect(group.address, count);
            let shares = group.accept();
            assert_eq!(shares.iter().sum::<usize>(), count);
            eprintln!("{by}, {count} connections over 8: max/mean {:.2}", unevenness(&shares));
            match by {
                By::Least => assert_eq!(shares, vec![count / 8; 8]),
                By::TwoChoices => assert!(unevenness(&shares) <= two_choices_max, "{shares:?}"),
                By::Hash | By::Cpu => {}
            }
        }
    }
}

#[test]
fn the_least_is_even_at_every_moment_and_the_first_is_not_preferred() {
    let Some(group) = Group::new(By::Least, 8) else { return };
    let (mut shares, mut firsts) = (vec![0; 8], BTreeMap::<usize, usize>::new());
    let mut clients = Vec::new();
    for count in 0..512 {
        clients.extend(connect(group.address, 1));
        let came = group.accept();
        let place = came.iter().position(|came| *came == 1).expect("one");
        shares[place] += 1;
        assert!(shares.iter().max().expect("some") - shares.iter().min().expect("some") <= 1, "{count}: {shares:?}");
        if count % 8 == 0 {
            *firsts.entry(place).or_default() += 1;
        }
    }
    assert!(firsts.len() >= 6, "of equal ones, the hash decides: {firsts:?}");
}

#[test]
fn places_without_a_listener_are_left_alone_after_one_try() {
    for by in [By::Least, By::TwoChoices] {
        let Some(mut group) = Group::new(by, 4) else { return };
        let _clients = connect(group.address, 40);
        group.accept();
        // Its load stays, and is by far the least.
        group.page(0).settle(1000);
        let before = group.page(0).assigned();
        drop(group.listeners.remove(0));
        let _more = connect(group.address, 60);
        let shares = group.accept();
        assert_eq!(shares.iter().sum::<usize>(), 60, "{by}");
        let failed = (group.page(0).assigned() - before) >> 32;
        assert!((1..=2).contains(&failed), "{by}: once chosen, and perhaps tried by hash then: {failed}");
        if by == By::Least {
            assert!(shares.iter().all(|share| (19..=21).contains(share)), "{shares:?}");
        }
    }
}

#[test]
fn one_that_lies_attracts_all_by_least_and_two_parts_by_two_choices() {
    for by in [By::Least, By::TwoChoices] {
        let Some(group) = Group::new(by, 8) else { return };
        group.page(3).settle(1 << 30);
        let _clients = connect(group.address, 400);
        let share = group.accept()[3];
        match by {
            By::Least => assert_eq!(share, 400),
            // About a quarter of them is expected.
            _ => assert!(share < 140, "{share}"),
        }
    }
}

#[test]
fn one_that_does_not_accept_gets_none_and_where_none_accepts_loads_decide() {
    let Some(group) = Group::new(By::Least, 4) else { return };
    let close = |place: u32| group.page(place).settle(group.page(place).assigned().wrapping_sub(1 << 32));
    close(2);
    let _clients = connect(group.address, 30);
    assert_eq!(group.accept(), [10, 10, 0, 10]);
    (0..4).for_each(close);
    let _more = connect(group.address, 40);
    assert_eq!(group.accept(), [10, 10, 10, 10]);
}

#[test]
fn two_servers_share_by_load_where_both_tell_it() {
    let (Some(old), Some(new)) = (Group::new(By::Least, 3), load_by(By::Least, 5)) else { return };
    let (steering, balance) = new;
    let listeners: Vec<Socket> = (0..5).map(|_| listen(old.address).0).collect();
    for (place, listener) in (0..).zip(&listeners) {
        steering.set(place, listener.as_fd()).expect("set");
    }
    let _before = connect(old.address, 30);
    old.accept();
    steering.beside(5, &balance, old.others()).expect("loaded").attach(listeners[0].as_fd()).expect("attached");
    let _clients = connect(old.address, 50);
    let shares: Vec<usize> = listeners.iter().map(waiting).collect();
    assert_eq!((old.accept(), shares), (vec![0; 3], vec![10; 5]), "those who have none come first");
    let _more = connect(old.address, 80);
    let shares: Vec<usize> = listeners.iter().map(waiting).collect();
    assert_eq!((old.accept(), shares), (vec![10; 3], vec![10; 5]));
}

#[test]
fn the_place_of_the_processor_is_chosen() {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Some(group) = Group::new(By::Cpu, cores.len() as u32) else { return };
    for (place, core) in cores.into_iter().enumerate() {
        assert!(core_affinity::set_for_current(core));
        let _clients = connect(group.address, 20);
        assert_eq!(group.accept()[place], 20);
    }
}

/// Measures the cost of the choice, with a connection that is accepted and closed each time.
#[test]
#[ignore = "figures"]
fn the_time_of_a_connection() {
    const ROUNDS: usize = 20;
    for places in [8, 64, 256, 1024] {
        let groups: Vec<Group> = EACH.iter().filter_map(|by| Group::new(*by, places)).collect();
        let mut times_us = vec![Vec::new(); groups.len()];
        for _ in 0..ROUNDS {
            for (group, times_us) in groups.iter().zip(&mut times_us) {
                let began = Instant::now();
                let clients = connect(group.address, 500);
                times_us.push(began.elapsed().as_secs_f64() * 1e6 / 500.0);
                for client in &clients {
                    socket2::SockRef::from(client).set_linger(Some(std::time::Duration::ZERO)).expect("set");
                }
                drop(clients);
                group.accept();
            }
        }
        for (by, times_us) in EACH.iter().zip(&mut times_us) {
            times_us.sort_by(f64::total_cmp);
            println!("{places} workers, {by}: {:.1} us, at best {:.1} us", times_us[ROUNDS / 2], times_us[0]);
        }
    }
}

#[test]
fn maps_of_another_kind_are_refused() {
    let Some((steering, balance)) = load_by(By::Least, 2) else { return };
    let array = std::sync::Arc::new(bpf::create_array(1).expect("made"));
    let wrong = Loads::new(vec![Span { places: 2, map: array }]);
    let map: BorrowedFd<'_> = steering.map();
    steering.beside(2, &balance, Others { map, places: 2, loads: &wrong }).expect_err("its values are too small");
}
