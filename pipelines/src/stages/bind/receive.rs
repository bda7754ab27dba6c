//! Taking a connection over from a director, at a filter (`migration/FILTER.md`; tutorial, slide 54).
//!
//! The filter stands between its host's interface and its host's stack. To the stack it is the client: the connection is
//! opened with the client's endpoint and number, and from then on it is one that this worker has bound itself, with the
//! director's numbers as its own. Nothing but its numbers changes on the way.

use super::super::schedule::key_of;
use super::{Desk, link_back};
use crate::command::Event;
use crate::content::Scheme;
use crate::extract::{BodyFollower, Method};
use crate::migration::message::{Body, Ends, Header, Migrate, Why};
use crate::migration::{Freshness, Put, Ticket, write};
use crate::snapshot::Via;
use crate::splice::{Binding, Phase};
use crate::tally::MigrationTally;
use lcs_dataplane::batch::Batch;
use lcs_dataplane::flow::{FlowFlags, Key, Place, TableFull, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST};
use lcs_dataplane::headers::{protocol, udp};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{Payload, Segment};
use lcs_dataplane::{DropReason, Verdict};

impl<P: Port> Desk<'_, P> {
    /// A datagram on an endpoint of the channel.
    pub(super) fn message(&mut self, batch: &mut Batch, i: usize) -> Verdict {
        let Some(key) = key_of(batch, i) else { return Verdict::Drop(DropReason::BadHeader) };
        let (from, to) = (usize::from(batch.l4[i]) + udp::HEADER, usize::from(batch.end[i]));
        let link = link_back(batch, i);
        // Borrowed from its place, so that what is in it need not be copied.
        let mut frame = std::mem::take(&mut batch.frames[i]);
        let answer = {
            let datagram = frame.bytes().get(from..to).unwrap_or(&[]);
            let keys = std::mem::take(&mut self.c.splices.migrations.keys);
            let read = keys.iter().find_map(|k| Body::read(datagram, k).map(|(header, body)| (k, header, body)));
            let answer = match read {
                None => Err(Verdict::Drop(DropReason::BadMigration)),
                // What a director says is for filters only, and what a filter says for who has asked it: a message that comes
                // elsewhere was copied.
                Some((_, _, Body::Ping | Body::Migrate(_) | Body::Abort(_) | Body::Recall(_)))
                    if !self.c.splices.migrations.listens(key.destination()) =>
                {
                    Err(Verdict::Drop(DropReason::BadMigration))
                }
                Some((k, header, Body::Ping)) => {
                    let back = key.reversed();
                    let m = &mut self.c.splices.migrations;
                    match m.sessions.ping(&header, k, (back, link, batch.rx[i]), self.now) {
                        None => Err(Verdict::Drop(DropReason::StaleMigration)),
                        Some(token) => {
                            Body::Pong.write(&Header { token, ..header }, k, &mut m.scratch);
                            Ok((link, back))
                        }
                    }
                }
                Some((_, header, Body::Migrate(m))) => Err(self.take_migration(&header, &m)),
                Some((_, header, Body::Abort(ends))) => Err(self.abort_taken(&header, &ends)),
                Some((_, header, Body::Recall(turn))) => Err(self.recalled(&header, &turn)),
                Some((k, header, body)) => {
                    let m = &self.c.splices.migrations;
                    if m.is_filters(header.session, k, key.source(), key.destination()) {
                        Err(self.by_filter(&header, &body))
                    } else {
                        Err(Verdict::Drop(DropReason::BadMigration))
                    }
                }
            };
            self.c.splices.migrations.keys = keys;
            answer
        };
        let verdict = match answer {
            Err(verdict) => verdict,
            Ok((link, back)) if write(&mut frame, &link, &back, &self.c.splices.migrations.scratch) => {
                batch.tx[i] = batch.rx[i];
                Verdict::Forward
            }
            Ok(_) => Verdict::Drop(DropReason::NoBuffer),
        };
        batch.frames[i] = frame;
        verdict
    }

    /// A director gives a connection, or a piece of one.
    fn take_migration(&mut self, header: &Header, m: &Migrate<'_>) -> Verdict {
        let ticket = Ticket::from(header);
        match self.c.splices.migrations.sessions.freshness(header) {
            None => Verdict::Drop(DropReason::BadMigration),
            Some(Freshness::Old) => Verdict::Drop(DropReason::StaleMigration),
            Some(Freshness::Had) => self.had_already(ticket, m),
            Some(Freshness::New) if m.pieces() == 1 => self.take_whole(header, m, m.bytes),
            Some(Freshness::New) => match self.c.splices.migrations.assemblies.put(ticket, m, self.now) {
                Put::Whole(bytes) => self.take_whole(header, m, &bytes),
                Put::More => Verdict::Consume,
                Put::Strange => Verdict::Drop(DropReason::BadMigration),
                // It is asked again as when the rest of the filter has no room; once, and not for each of its pieces.
                Put::Full if m.continues => {
                    if m.offset == 0 {
                        self.say_to_director(ticket, &Body::Refused(m.ends, Why::NotYet));
                    }
                    Verdict::Consume
                }
                Put::Full => {
                    self.c.splices.migrations.sessions.mark(header, self.now);
                    self.c.splices.migrations.assemblies.forget(ticket);
                    self.say_to_director(ticket, &Body::Refused(m.ends, Why::Full));
                    Verdict::Consume
                }
            },
        }
    }

    fn take_whole(&mut self, header: &Header, m: &Migrate<'_>, bytes: &[u8]) -> Verdict {
        if m.continues { self.take_next(header, m, bytes) } else { self.take_over(header, m, bytes) }
    }

    /// Sends an answer to a director.
    pub(super) fn say_to_director(&mut self, ticket: Ticket, body: &Body<'_>) -> usize {
        let m = &mut self.c.splices.migrations;
        let Some((session, token)) = m.sessions.get(ticket.session) else { return 0 };
        let header = Header { session: ticket.session, token, number: ticket.number };
        body.write(&header, &session.key, &mut m.scratch);
        let (interface, link, back) = (session.interface, session.link, session.back);
        self.send_datagram(interface, &link, &back)
    }

    /// A message that was acted on comes again: its answer may have been lost.
    fn had_already(&mut self, ticket: Ticket, m: &Migrate<'_>) -> Verdict {
        let stale = Verdict::Drop(DropReason::StaleMigration);
        let Some(flow) = self.flow_of(&m.ends) else {
            self.say_to_director(ticket, &Body::Refused(m.ends, Why::Over));
            return stale;
        };
        let entry = flow;
        if !self.c.splices.migrations.has_brought(entry, ticket) {
            // Another connection from the same port.
            self.say_to_director(ticket, &Body::Refused(m.ends, Why::Over));
            return stale;
        }
        let waits = match self.c.splices.take(entry) {
            Some(b) => {
                let waits = b.migration.is_some();
                self.c.splices.put(b);
                waits
            }
            None => false,
        };
        if !waits {
            self.say_to_director(ticket, &Body::Accepted(m.ends));
        }
        stale
    }

    /// The flow of a connection that was taken over.
    pub(super) fn flow_of(&self, ends: &Ends) -> Option<u32> {
        let key = Key::new(ends.client, ends.service)?;
        let flow = self.c.table.find(&key, protocol::TCP)?.flow();
        self.c.table.get(flow).flags.has(FlowFlags::SPLICED).then_some(flow)
    }

    /// Takes a connection over, with its whole request.
    fn take_over(&mut self, header: &Header, m: &Migrate<'_>, bytes: &[u8]) -> Verdict {
        let ticket = Ticket::from(header);
        let snapshot = self.snapshot;
        let (client, at) = (m.ends.client, m.ends.service);
        let slot = snapshot.by_endpoint.get(&(at.ip(), at.port(), protocol::TCP)).copied();
        let slot = slot.filter(|s| self.content(*s).is_some_and(|c| matches!(c.binding.scheme, Scheme::Migrated(_))));
        let service = slot.and_then(|s| snapshot.services.get(usize::from(s))?.as_ref());
        let server = service.and_then(|service| service.servers.first().copied());
        let known = slot.zip(server).zip(Key::new(client, at));
        let Some(((slot, server), key)) = known.filter(|_| super::super::schedule::may_send(self.c, client.ip()))
        else {
            self.c.splices.migrations.sessions.mark(header, self.now);
            self.say_to_director(ticket, &Body::Refused(m.ends, Why::UnknownService));
            return Verdict::Consume;
        };
        // Whoever gives it sends it again, and by then the way to its client may be known.
        let hash = crate::splice::sticky::hash_address(client.ip());
        let row = match snapshot.routes.lookup(client.ip()) {
            Some(Via::NextHop(row)) if self.c.hops[usize::from(row)].resolved => {
                self.c.splices.migrations.silent.answered(hash);
                row
            }
            way => {
                if let Some(Via::NextHop(row)) = way {
                    self.c.say((1, row), self.tick, Event::NeedNextHop(row));
                } else {
                    self.c.say((3, hash as u16), self.tick, Event::NeedNeighbour(client.ip()));
                }
                if !self.c.splices.migrations.silent.is_silent(hash, self.now) {
                    return Verdict::Drop(DropReason::NextHopUnresolved);
                }
                // Had, like every other that was refused: the director gives it to somebody else.
                self.c.splices.migrations.sessions.mark(header, self.now);
                self.count_at(slot, |n| n.refused += 1);
                self.say_to_director(ticket, &Body::Refused(m.ends, Why::NoWay));
                return Verdict::Consume;
            }
        };
        self.c.splices.migrations.sessions.mark(header, self.now);
        if let Some(old) = self.c.table.find(&key, protocol::TCP) {
            // An older connection from the same port. Its server hears of it by the new one's SYN (RFC 9293 §3.10.7.4). One that was
            // given back has an end still on the way, which would be in that SYN's place.
            let old = old.flow();
            if self.c.table.get(old).flags.has(FlowFlags::SPLICED) {
                self.end_legs(old);
            }
            self.c.close(old);
        }
        let mut why = Why::Full;
        if self.c.splices.has_room(bytes.len()) {
            match self.begin(ticket, m, bytes, (slot, server, row), &key) {
                Ok(()) => return Verdict::Consume,
                Err(e) => why = e,
            }
        }
        self.count_at(slot, |n| n.refused += 1);
        self.say_to_director(ticket, &Body::Refused(m.ends, why));
        Verdict::Consume
    }

    /// Enters a connection and opens it toward this host's stack.
    fn begin(
        &mut self,
        ticket: Ticket,
        m: &Migrate<'_>,
        bytes: &[u8],
        (slot, server, row): (u16, u16, u16),
        key: &Key,
    ) -> Result<(), Why> {
        let flow = self.c.table.insert(protocol::TCP, key, None).map_err(|_: TableFull| Why::Full)?;
        let Some(entry) = self.c.splices.insert(flow, slot, numbers(m), m.offer) else {
            self.c.table.remove(flow);
            return Err(Why::Full);
        };
        self.c.splices.get_mut(entry).own_scale = m.own_scale;
        self.c.splices.migrations.note_taken(entry, ticket);
        let f = self.c.table.get_mut(flow);
        f.service = slot;
        f.server = crate::snapshot::NO_SLOT;
        f.next_hop = [row, 0];
        f.flags.set(FlowFlags::SPLICED, true);
        self.c.opened(flow, TcpState::Established, self.tick);
        let Some(mut b) = self.c.splices.bind(entry, slot) else {
            self.c.close(flow);
            return Err(Why::Full);
        };
        b.start = m.start;
        b.buffer.extend_from_slice(bytes);
        b.held = bytes.len();
        self.c.splices.buffered += bytes.len();
        b.fin = m.fin;
        b.out_start = m.next;
        b.client_ack = m.next;
        b.client_window = m.window;
        // What the director has acknowledged it answers for until this host's server is there.
        b.may_ack = false;
        b.migration = Some(ticket);
        if m.fin {
            self.moved_by(flow, FIN | ACK, Place::CLIENT);
        }
        if m.one_by_one {
            // Read once more, for where it and its response end; here, as the director is to be answered now.
            self.collect_here(flow, &mut b);
        } else {
            b.uncut = true;
            b.cut = u64::MAX;
            b.request = (Method::Other, BodyFollower::UntilClose);
            self.other_server(flow, &mut b, server);
        }
        if b.phase == Phase::Collect
            && !b.done
            && let Some(ticket) = b.migration.take()
        {
            // Not a whole head: the director has read it otherwise.
            self.decline(flow, &mut b, ticket);
        }
        self.c.splices.put(b);
        Ok(())
    }

    pub(super) fn count_at(&mut self, slot: u16, of: impl FnOnce(&mut MigrationTally)) {
        if let Some(tally) = self.c.splices.tally(slot) {
            of(&mut tally.migrations);
        }
    }

    /// This host's server has answered: the connection is ours.
    pub(super) fn took(&mut self, flow: u32, b: &mut Binding, ticket: Ticket) {
        b.may_ack = true;
        let Some(keys) = self.c.table.keys(flow) else { return };
        let ends = Ends { client: keys.client.source(), service: keys.client.destination() };
        let sent = self.say_to_director(ticket, &Body::Accepted(ends));
        self.count_at(self.c.table.get(flow).service, |n| {
            n.accepted += 1;
            n.messages += 1;
            n.bytes += sent as u64;
        });
    }

    /// This host's server does not take it.
    pub(super) fn decline(&mut self, flow: u32, b: &mut Binding, ticket: Ticket) {
        let why = if b.retries > 0 { Why::ServerSilent } else { Why::ServerRefused };
        if let Some(keys) = self.c.table.keys(flow) {
            let ends = Ends { client: keys.client.source(), service: keys.client.destination() };
            self.say_to_director(ticket, &Body::Refused(ends, why));
        }
        self.count_at(self.c.table.get(flow).service, |n| n.refused += 1);
        b.phase = Phase::Collect;
        b.done = true;
        self.close(flow);
    }

    /// A director does without a connection that it has given.
    fn abort_taken(&mut self, header: &Header, ends: &Ends) -> Verdict {
        if self.c.splices.migrations.sessions.freshness(header).is_none() {
            return Verdict::Drop(DropReason::BadMigration);
        }
        // A connection that has not been given yet is not taken any more.
        self.c.splices.migrations.sessions.mark(header, self.now);
        let ticket = Ticket::from(header);
        self.c.splices.migrations.assemblies.forget(ticket);
        let Some(flow) = self.flow_of(ends) else { return Verdict::Consume };
        let entry = flow;
        let m = &self.c.splices.migrations;
        // Or it has been asked back, or given another request, with a later number.
        if !(m.has_brought(entry, ticket) || m.is_newer(entry, ticket)) {
            return Verdict::Drop(DropReason::StaleMigration);
        }
        let seq = match self.c.splices.take(entry) {
            Some(b) => {
                let seq = b.start.wrapping_add(b.sent as u32);
                self.c.splices.put(b);
                seq
            }
            // As far as is known: where it is not what the stack expects, the stack finds out when it is asked nothing more.
            None => self.c.splices.get(entry).offsets.limit[Place::CLIENT],
        };
        if let Some(key) = self.key_toward(flow, Place::SERVER) {
            let segment = Segment { key, flags: RST, seq, ack: 0, window: 0, options: &[], payload: Payload::NONE };
            self.send(flow, Place::SERVER, segment);
        }
        self.close(flow);
        Verdict::Consume
    }
}

/// The initial numbers of a connection, as if it had just been opened.
fn numbers(m: &Migrate<'_>) -> [u32; 2] {
    [m.start.wrapping_sub(1), m.next.wrapping_sub(1)]
}
