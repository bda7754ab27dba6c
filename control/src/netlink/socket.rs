//! The netlink socket and the task that serves it. All decisions are [`super::state`]'s.
//!
//! One socket carries dumps, notifications and answers, so that they are taken in the kernel's order.

use super::change::{Change, ClientRoute, Target};
use super::message;
use super::state::State;
use futures_util::{FutureExt, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::proto::{NetlinkCodec, NetlinkFramed};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// What is followed.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Bytes of notifications that the kernel keeps for us, if it lets us.
const RECEIVE_BUFFER: u32 = 4 << 20;
/// Commands and changes on their way.
const CHANNEL: usize = 256;
/// Messages taken in succession before anything else is looked at.
const MESSAGES: usize = 256;
/// Before a socket that has failed is opened anew.
const REOPEN: Duration = Duration::from_secs(1);
/// At the end, how long the kernel's answers are waited for.
const FAREWELL: Duration = Duration::from_secs(1);

type Framed = NetlinkFramed<RouteNetlinkMessage, TokioSocket, NetlinkCodec>;

enum Command {
    Watch(Target),
    Unwatch(Target),
    ClientRoutes(oneshot::Sender<Vec<ClientRoute>>),
    Stop(oneshot::Sender<()>),
}

/// Why the kernel's tables can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no tokio runtime with input and output and time on this thread.
    #[error("no asynchronous runtime on this thread; start the follower from within one")]
    NoRuntime,
    /// The kernel refuses the socket.
    #[error("can't open a netlink route socket: {0}; does a sandbox forbid the address family AF_NETLINK?")]
    Socket(#[from] io::Error),
}

/// The follower has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the follower of the kernel's routes and neighbours has ended")]
pub struct Closed;

/// Follows the kernel's tables. When it is dropped, or its [`Changes`] are, the follower ends.
#[derive(Debug)]
pub struct NextHops {
    commands: mpsc::Sender<Command>,
}

/// What the follower says.
#[derive(Debug)]
pub struct Changes {
    changes: mpsc::Receiver<Change>,
}

impl NextHops {
    /// Starts to follow the tables of this thread's network namespace, for a director with these interfaces (by name;
    /// they need not exist yet). The follower runs as a task of the calling thread's runtime. It first says everything
    /// that there is, and then [`Change::Synced`].
    ///
    /// Watched neighbours are kept resolved, for which the process needs `CAP_NET_ADMIN`; without it what the kernel
    /// resolves of its own accord is followed.
    ///
    /// # Errors
    /// When there is no runtime, or no socket.
    pub fn start(interfaces: &[String]) -> Result<(NextHops, Changes), StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let socket = open()?;
        let (commands, take_commands) = mpsc::channel(CHANNEL);
        let (say, changes) = mpsc::channel(CHANNEL);
        let state = State::new(interfaces.to_vec(), Instant::now());
        runtime.spawn(Follower { state, commands: take_commands, changes: say }.run(socket));
        Ok((NextHops { commands }, Changes { changes }))
    }

    /// Watches a real server, a client or a gateway: its next hop is said now and whenever it changes.
    /// At most 65,535 targets are watched.
    ///
    /// # Errors
    /// When the follower has ended.
    pub async fn watch(&self, target: impl Into<Target>) -> Result<(), Closed> {
        self.send(Command::Watch(target.into())).await
    }

    /// Stops watching. A change that is on its way may still be said.
    ///
    /// # Errors
    /// When the follower has ended.
    pub async fn unwatch(&self, target: impl Into<Target>) -> Result<(), Closed> {
        self.send(Command::Unwatch(target.into())).await
    }

    /// The routes toward clients, as far as they have been said as [`Change::Route`].
    ///
    /// # Errors
    /// When the follower has ended.
    pub async fn client_routes(&self) -> Result<Vec<ClientRoute>, Closed> {
        let (answer, routes) = oneshot::channel();
        self.send(Command::ClientRoutes(answer)).await?;
        routes.await.map_err(|_| Closed)
    }

    /// Ends the follower, after it has asked the kernel to stop keeping the watched neighbours resolved.
    pub async fn stop(self) {
        let (answer, stopped) = oneshot::channel();
        if self.send(Command::Stop(answer)).await.is_ok() {
            // An error says that it has stopped, too.
            let _ = stopped.await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)
    }
}

impl Changes {
    /// The next change; `None` when the follower has ended. May be dropped half-way without losing a change.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }

    /// The next change, if there is one now.
    pub fn try_next(&mut self) -> Option<Change> {
        self.changes.try_recv().ok()
    }
}

fn open() -> io::Result<Framed> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |groups, g| groups | 1 << (*g as u32 - 1));
    let inner = socket.socket_mut();
    // A smaller buffer is overrun sooner, which is made good by dumping everything again.
    let _ = inner.set_rx_buf_sz(RECEIVE_BUFFER);
    inner.bind(&SocketAddr::new(0, groups))?;
    Ok(NetlinkFramed::new(socket))
}

async fn send(socket: &Framed, message: &NetlinkMessage<RouteNetlinkMessage>) -> io::Result<()> {
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let kernel = SocketAddr::new(0, 0);
    std::future::poll_fn(|cx| socket.get_ref().poll_send_to(cx, &bytes, &kernel)).await.map(drop)
}

struct Follower {
    state: State,
    commands: mpsc::Receiver<Command>,
    changes: mpsc::Sender<Change>,
}

/// Why serving a socket ended.
enum End {
    Socket,
    Stop(Option<oneshot::Sender<()>>),
}

impl Follower {
    async fn run(mut self, mut socket: Framed) {
        let stopped = loop {
            match self.serve(&mut socket).await {
                End::Stop(answer) => break answer,
                End::Socket => {}
            }
            socket = loop {
                tokio::time::sleep(REOPEN).await;
                if self.changes.is_closed() {
                    return;
                }
                if let Ok(socket) = open() {
                    break socket;
                }
            };
            self.state.resynchronise(Instant::now(), true);
        };
        self.state.finish();
        // Where it takes longer the kernel keeps probing some neighbours, which harms nobody.
        let _ = tokio::time::timeout(FAREWELL, self.release(&mut socket)).await;
        if let Some(answer) = stopped {
            let _ = answer.send(());
        }
    }

    async fn serve(&mut self, socket: &mut Framed) -> End {
        let Follower { state, commands, changes } = self;
        loop {
            while let Some(request) = state.next_request(Instant::now()) {
                if send(socket, &message::write(request)).await.is_err() {
                    return End::Socket;
                }
            }
            let something_to_say = state.has_change();
            let deadline = state.deadline();
            tokio::select! {
                heard = socket.next() => {
                    let Some((first, _)) = heard else { return End::Socket };
                    state.handle(Instant::now(), message::read(first));
                    for _ in 1..MESSAGES {
                        match socket.next().now_or_never() {
                            Some(Some((more, _))) => state.handle(Instant::now(), message::read(more)),
                            Some(None) => return End::Socket,
                            None => break,
                        }
                    }
                }
                place = changes.reserve(), if something_to_say => {
                    let Ok(place) = place else { return End::Stop(None) };
                    if let Some(change) = state.next_change() {
                        place.send(change);
                    }
                    say_more(state, changes);
                }
                () = changes.closed() => return End::Stop(None),
                command = commands.recv() => match command {
                    None => return End::Stop(None),
                    Some(Command::Stop(answer)) => return End::Stop(Some(answer)),
                    Some(Command::Watch(target)) => state.watch(target),
                    Some(Command::Unwatch(target)) => state.unwatch(target),
                    // Whoever has asked may have gone.
                    Some(Command::ClientRoutes(answer)) => drop(answer.send(state.client_routes())),
                },
                () = until(deadline) => {}
            }
            state.tick(Instant::now());
        }
    }

    async fn release(&mut self, socket: &mut Framed) {
        while !self.state.finished() {
            while let Some(request) = self.state.next_request(Instant::now()) {
                if send(socket, &message::write(request)).await.is_err() {
                    return;
                }
            }
            match socket.next().await {
                Some((heard, _)) => self.state.handle(Instant::now(), message::read(heard)),
                None => return,
            }
        }
    }
}

/// Says as much as there is room for.
fn say_more(state: &mut State, changes: &mpsc::Sender<Change>) {
    while let Ok(place) = changes.try_reserve() {
        match state.next_change() {
            Some(change) => place.send(change),
            None => break,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
