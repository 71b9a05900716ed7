//! [`Host`] for a simulated VM.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidegate_host::{
    Call, CallToken, Cas, Expect, HeaderMap, HeaderPairs, Host, HostError, LocalReply, MetricId, MetricKind,
    QueueId,
};

use crate::phase::{CallEnd, Phase};
use crate::stream::{Done, Reply, StreamId, StreamState, Waits};
use crate::world::{CallId, CallView, PendingCall, Post, Queue, VmIndex, VmState, World};

/// The handle of one VM.
#[derive(Clone)]
pub struct SimHost {
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) vm: VmIndex,
}

/// A trap: unwinds out of the guest without a message on stderr.
pub(crate) struct Trap;

impl SimHost {
    /// Makes a host call: counts it, and traps if the test has set that for this call.
    fn enter<T>(&self, call: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.borrow_mut();
        let vm = world.vm(self.vm);
        vm.host_calls += 1;
        if let Some(fuel) = &mut vm.fuel {
            if *fuel == 0 {
                drop(world);
                std::panic::resume_unwind(Box::new(Trap));
            }
            *fuel -= 1;
        }
        call(&mut world)
    }

    fn with_vm<T>(&self, call: impl FnOnce(&mut VmState) -> T) -> T {
        self.enter(|world| call(world.vm(self.vm)))
    }

    /// Does something to the current request; `BadArgument` when there is none.
    fn with_stream<T>(
        &self,
        call: impl FnOnce(&mut StreamState, &Phase) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        self.enter(|world| {
            let phase = world.vm(self.vm).phase.clone();
            let stream = world.stream_at_hand(self.vm).ok_or(HostError::BadArgument)?;
            call(stream, &phase)
        })
    }

    /// Resumes the current request or its response; an offence where Envoy would not
    /// tolerate that.
    fn resume(&self, what: Waits) -> Result<(), HostError> {
        self.act("resumes");
        self.enter(|world| {
            let phase = world.vm(self.vm).phase.clone();
            let stream = world.stream_at_hand(self.vm).ok_or(HostError::BadArgument)?;
            let resumed = match what {
                Waits::Response => &mut stream.resumes_response,
                _ => &mut stream.resumes_request,
            };
            let again = std::mem::replace(resumed, true);
            let is_held = stream.waits == what && stream.reply.is_none();
            // Envoy drops the request headers at once, whichever of the two it resumes.
            stream.mutable = false;
            if again || !is_held || !matches!(phase, Phase::CallResponse(_) | Phase::Notified) {
                let waits = stream.waits;
                world
                    .violations
                    .push(format!("resumes {what:?} of one that waits for {waits:?} in {phase:?}"));
            }
            Ok(())
        })
    }

    /// Changes the headers of the current request, where Envoy would.
    fn change_request(&self, change: impl FnOnce(&mut HeaderPairs)) -> Result<(), HostError> {
        if self.world.borrow().refuses_headers {
            return Err(HostError::BadArgument);
        }
        self.with_stream(|stream, phase| {
            change(stream.request(phase, true)?);
            Ok(())
        })
    }

    /// A violation where Envoy may be in the middle of what has failed.
    fn act(&self, what: &str) {
        let mut world = self.world.borrow_mut();
        let phase = world.vm(self.vm).phase.clone();
        if phase.is_of_failure() {
            world.violations.push(format!("{what} in {phase:?}"));
        }
    }

    fn note(&self, done: impl FnOnce() -> Done) -> Result<(), HostError> {
        self.world.borrow_mut().note(done);
        Ok(())
    }

    fn metric_mut<T>(&self, metric: MetricId, act: impl FnOnce(&mut u64) -> T) -> Result<T, HostError> {
        self.enter(|world| {
            let found = world.metrics.get_mut(metric as usize).ok_or(HostError::NotFound)?;
            Ok(act(&mut found.2))
        })
    }
}

impl Host for SimHost {
    fn wall_us(&self) -> u64 {
        self.enter(|world| world.wall_us.saturating_add_signed(world.clock_ahead_us))
    }

    fn monotonic_ns(&self) -> u64 {
        self.enter(|world| world.now_ns)
    }

    fn random_u64(&self) -> u64 {
        self.enter(World::random)
    }

    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        self.enter(|world| Ok(world.shared.get(key).cloned()))
    }

    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let cas = match expect {
            // A bogus token: fits a missing key, and no other.
            Expect::Absent => Cas::MAX,
            Expect::Unchanged(cas) => cas,
        };
        self.enter(|world| {
            world.vm(self.vm).shared_writes += 1;
            if world.write(key, value, cas) { Ok(()) } else { Err(HostError::CasMismatch) }
        })
    }

    fn queue_register(&self, name: &str) -> Result<QueueId, HostError> {
        self.enter(|world| {
            let registrant = Some((self.vm, world.vm(self.vm).root));
            let found = world.queues.iter().position(|queue| queue.name == name);
            let index = found.unwrap_or_else(|| {
                let name = name.to_owned();
                world.queues.push(Queue { name, messages: Default::default(), registrant: None });
                world.queues.len() - 1
            });
            world.queues[index].registrant = registrant;
            Ok(index as QueueId)
        })
    }

    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError> {
        self.enter(|world| {
            let found = world.queues.iter().position(|queue| queue.name == name);
            Ok(found.map(|index| index as QueueId))
        })
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError> {
        self.enter(|world| {
            let found = world.queue(queue)?;
            found.messages.push_back(message.to_vec());
            // One notification per message, on the registrant's thread, later; Ok even if
            // the registrant is gone.
            if let Some((vm, root)) = found.registrant {
                world.posts.push_back(Post::Queue { vm, root, queue });
            }
            Ok(())
        })
    }

    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError> {
        self.enter(|world| Ok(world.queue(queue)?.messages.pop_front()))
    }

    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError> {
        self.act("calls");
        self.enter(|world| {
            let header = |name: &str| {
                let found = call.headers.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let (Some(method), Some(path), Some(_)) =
                (header(":method"), header(":path"), header(":authority"))
            else {
                return Err(HostError::BadArgument);
            };
            if !world.clusters.contains(call.cluster) {
                return Err(HostError::BadArgument);
            }
            if let Some(why) = world.refuses_calls {
                return Err(why);
            }
            if world.calls.len() >= world.max_calls {
                return Err(HostError::Refused);
            }
            let id = CallId(world.next_call);
            world.next_call += 1;
            let vm = world.vm(self.vm);
            vm.next_token += 1;
            let (token, root, stream) = (vm.next_token, vm.root, vm.stream);
            let headers =
                call.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let (body, timeout) = (call.body.to_vec(), call.timeout);
            let view = CallView { id, token, method, path, headers, body, root, stream, timeout };
            let deadline_ns = match call.timeout {
                Duration::ZERO => u64::MAX,
                timeout => world.now_ns + timeout.as_nanos() as u64,
            };
            world.calls.push(PendingCall { view, vm: self.vm, deadline_ns, lost: false });
            Ok(token)
        })
    }

    fn notify_request(&self, context: u32, token: CallToken, status: u16) {
        // In Envoy before the calling callback ends, which does nothing more.
        let post = Post::Notify { vm: self.vm, stream: StreamId(context), token, status };
        self.enter(|world| world.posts.push_front(post));
    }

    fn call_status(&self) -> Option<u16> {
        self.with_vm(|vm| match &vm.phase {
            Phase::CallResponse(CallEnd::Answer { status, .. }) => Some(*status),
            _ => None,
        })
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        self.with_vm(|vm| match &vm.phase {
            Phase::CallResponse(CallEnd::Answer { headers, .. }) => {
                let found = headers.iter().find(|(other, _)| other == name);
                found.map(|(_, value)| value.clone().into_bytes())
            }
            _ => None,
        })
    }

    fn call_body(&self, max: usize) -> Vec<u8> {
        self.with_vm(|vm| match &vm.phase {
            Phase::CallResponse(CallEnd::Answer { body, .. }) => body.get(..max).unwrap_or(body).to_vec(),
            _ => Vec::new(),
        })
    }

    fn request_headers(&self) -> HeaderMap {
        self.with_stream(|stream, phase| stream.request(phase, false).map(|headers| HeaderMap::of(headers)))
            .unwrap_or_default()
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.change_request(|headers| set(headers, name, value))?;
        self.note(|| Done::Set(name.to_owned(), text(value)))
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.change_request(|headers| headers.push((name.as_bytes().to_vec(), value.to_vec())))?;
        self.note(|| Done::Added(name.to_owned(), text(value)))
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        self.change_request(|headers| headers.retain(|(other, _)| other != name.as_bytes()))?;
        self.note(|| Done::Removed(name.to_owned()))
    }

    fn response_headers(&self) -> HeaderMap {
        self.with_stream(|stream, phase| stream.response(phase, false).map(|headers| HeaderMap::of(headers)))
            .unwrap_or_default()
    }

    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.with_stream(|stream, phase| {
            set(stream.response(phase, true)?, name, value);
            Ok(())
        })
    }

    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.with_stream(|stream, phase| {
            stream.response(phase, true)?.push((name.as_bytes().to_vec(), value.to_vec()));
            Ok(())
        })
    }

    fn remove_response_header(&self, name: &str) -> Result<(), HostError> {
        self.with_stream(|stream, phase| {
            stream.response(phase, true)?.retain(|(other, _)| other != name.as_bytes());
            Ok(())
        })
    }

    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
        self.change_request(|_| ())?;
        self.with_stream(|stream, _| {
            stream.filter_state.push((name.to_owned(), value.to_owned()));
            Ok(())
        })?;
        self.note(|| Done::State(name.to_owned(), value.to_owned()))
    }

    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        // Only the access log would read it, and there is none here.
        self.note(|| Done::Property(name.to_owned(), text(value)))
    }

    fn resume_request(&self) -> Result<(), HostError> {
        self.resume(Waits::Request)?;
        self.note(|| Done::Resumed)
    }

    fn resume_response(&self) -> Result<(), HostError> {
        self.resume(Waits::Response)?;
        self.note(|| Done::ResponseResumed)
    }

    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError> {
        self.act("replies");
        self.enter(|world| {
            let phase = world.vm(self.vm).phase.clone();
            let stream = world.stream_at_hand(self.vm).ok_or(HostError::BadArgument)?;
            let pair = |(name, value): &(&str, &[u8])| (name.as_bytes().to_vec(), value.to_vec());
            let fits = stream.waits == Waits::Request && !stream.resumes_request && stream.reply.is_none();
            stream.reply = Some(Reply {
                status: reply.status,
                details: reply.details.replace(' ', "_"),
                headers: reply.headers.iter().map(pair).collect(),
                body: reply.body.to_vec(),
            });
            if !fits || !matches!(phase, Phase::RequestHeaders | Phase::CallResponse(_) | Phase::Notified) {
                let waits = stream.waits;
                world.violations.push(format!("replies to one that waits for {waits:?} in {phase:?}"));
            }
            world.note(|| Done::Replied(reply.status, reply.details.to_owned()));
            Ok(())
        })
    }

    fn property(&self, path: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.enter(|world| {
            let vm = world.vm(self.vm);
            vm.properties += 1;
            Ok(match path {
                "plugin_root_id" => vm.root_ids.get(&vm.root).map(|id| id.clone().into_bytes()),
                "xds\0node\0id" => Some(b"sim".to_vec()),
                path => {
                    let path = path.replace('\0', ".");
                    world.stream_at_hand(self.vm).and_then(|stream| stream.properties.get(&path).cloned())
                }
            })
        })
    }

    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError> {
        self.with_vm(|vm| match &vm.phase {
            Phase::Configure(configuration) => Ok(configuration.clone()),
            _ => Err(HostError::BadArgument),
        })
    }

    fn set_tick(&self, period: Duration) -> Result<(), HostError> {
        self.enter(|world| {
            let due = world.now_ns + period.as_nanos() as u64;
            let vm = world.vm(self.vm);
            let root = vm.root;
            if period.is_zero() {
                vm.timers.remove(&root);
            } else {
                vm.timers.insert(root, (period, due));
            }
            Ok(())
        })
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
        self.enter(|world| {
            let found = world.metrics.iter().position(|(other, _, _)| other == name);
            let index = found.unwrap_or_else(|| {
                world.metrics.push((name.to_owned(), kind, 0));
                world.metrics.len() - 1
            });
            Ok(index as MetricId)
        })
    }

    fn add_metric(&self, metric: MetricId, by: i64) -> Result<(), HostError> {
        let is_counter = self.enter(|world| {
            world.metrics.get(metric as usize).is_some_and(|(_, kind, _)| *kind == MetricKind::Counter)
        });
        if is_counter && by <= 0 {
            return Err(HostError::BadArgument);
        }
        self.metric_mut(metric, |value| *value = value.wrapping_add_signed(by))
    }

    fn set_metric(&self, metric: MetricId, value: u64) -> Result<(), HostError> {
        self.metric_mut(metric, |current| *current = value)
    }

    fn metric(&self, metric: MetricId) -> Result<u64, HostError> {
        self.metric_mut(metric, |value| *value)
    }

    fn log(&self, level: log::Level, message: &str) {
        self.enter(|world| world.log.push((level, message.to_owned())));
    }

    fn environment(&self, _name: &str) -> Option<String> {
        None
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Replaces every line of a header by one.
fn set(headers: &mut HeaderPairs, name: &str, value: &[u8]) {
    headers.retain(|(other, _)| other != name.as_bytes());
    headers.push((name.as_bytes().to_vec(), value.to_vec()));
}
