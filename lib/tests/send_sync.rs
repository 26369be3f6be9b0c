//! Types that are `Send`, `Sync` and `Unpin`, listed once and checked by the compiler. The docs of the crate have the same
//! table.

#![allow(dead_code)] // nothing here runs

use std::time::Duration;

use tenure::{
    Client, ClientBuilder, Compare, Condvar, Control, Error, Expiry, Identity, KeyedLease, KeyedLock, Kind,
    Lease, LeaseSet, LeaseState, Lock, LockPool, LockSet, LockStatus, ObjectRef, Options, Outcome,
    ParamValue, Params, Permits, PoolHealth, PoolLease, ReentrantLease, ReentrantLock, Register,
    RegisterValue, ResourceState, ResourceView, RwLock, Semaphore, WriteLease, control,
};

const fn value<T: Send + Sync + Unpin + 'static>() {}
const fn handle<T: Clone + Send + Sync + Unpin + 'static>() {}

/// Goes from thread to thread.
fn is_send<F: Future + Send>(_: F) {}

/// Were the future `Unpin`, both would have `ask`, and the call below would be ambiguous.
trait Ambiguous<A> {
    fn ask(&self) {}
}
struct Other;
impl<T> Ambiguous<()> for T {}
impl<T: Unpin> Ambiguous<Other> for T {}

/// `Send`, and not `Unpin`: to be pinned before it is polled by hand.
macro_rules! futures {
    ($($future:expr),* $(,)?) => {
        $({
            let future = $future;
            future.ask();
            is_send(future);
        })*
    };
}

/// Leases and events: go to any thread, and may be shared.
const _: () = {
    value::<Lease>();
    value::<KeyedLease>();
    value::<LeaseSet>();
    value::<PoolLease>();
    value::<ReentrantLease>();
    value::<WriteLease>();
    value::<control::Events>();
};

/// Handles and data: that, and can be cloned.
const _: () = {
    handle::<Client>();
    handle::<tenure::Credentials>();
    handle::<tenure::FileCredentials>();
    handle::<ClientBuilder>();
    handle::<Condvar>();
    handle::<Control>();
    handle::<KeyedLock>();
    handle::<Lock>();
    handle::<LockSet>();
    handle::<LockPool>();
    handle::<ReentrantLock>();
    handle::<Register>();
    handle::<RwLock>();
    handle::<Semaphore>();
    handle::<Options>();
    handle::<Params>();
    handle::<ParamValue>();
    handle::<Compare>();
    handle::<Expiry>();
    handle::<Outcome>();
    handle::<RegisterValue>();
    handle::<Identity>();
    handle::<ObjectRef>();
    handle::<Kind>();
    handle::<Error>();
    handle::<LeaseState>();
    handle::<LockStatus>();
    handle::<ResourceView>();
    handle::<Permits>();
    handle::<PoolHealth>();
    handle::<ResourceState>();
    handle::<control::Capacity>();
    handle::<control::Declaration>();
    handle::<control::Event>();
    handle::<control::HolderView>();
    handle::<control::Kept>();
    handle::<control::Life>();
    handle::<control::Observation>();
    handle::<control::Order>();
    handle::<control::Plan>();
    handle::<control::Resource>();
    handle::<control::Server>();
    handle::<control::Snapshot>();
    handle::<control::WaiterView>();
    handle::<control::Withdrawal>();
};

#[cfg(feature = "memory")]
const _: () = {
    handle::<tenure::Memory>();
    handle::<tenure::memory::Fault>();
    handle::<tenure::memory::Message<'static>>();
    value::<tenure::memory::Saved>();
};

const NOW: Duration = Duration::ZERO;

fn of_clients(client: Client, builder: ClientBuilder) {
    futures![
        Client::connect("x"),
        Client::from_env(),
        builder.connect(),
        client.clone().close_timeout(NOW),
        client.close()
    ];
}

fn of_locks(lock: &Lock, semaphore: &Semaphore, owner: &ReentrantLock, rw: &RwLock) {
    futures![
        lock.acquire(),
        lock.acquire_timeout(NOW),
        lock.try_acquire(),
        lock.adopt("x"),
        lock.take_over("x"),
        lock.holder(),
        lock.is_locked(),
        lock.status(NOW),
        semaphore.acquire(),
        semaphore.acquire_many(1),
        semaphore.acquire_timeout(NOW),
        semaphore.acquire_many_timeout(1, NOW),
        semaphore.try_acquire(),
        semaphore.try_acquire_many(1),
        semaphore.adopt("x"),
        semaphore.available_permits(),
        owner.acquire(),
        owner.acquire_timeout(NOW),
        owner.try_acquire(),
        rw.read(),
        rw.read_timeout(NOW),
        rw.try_read(),
        rw.write(),
        rw.write_timeout(NOW),
        rw.try_write(),
    ];
}

fn of_keys(lock: &KeyedLock, many: &LockSet, lease: KeyedLease, leases: LeaseSet, register: &Register) {
    futures![
        lock.acquire(),
        lock.acquire_timeout(NOW),
        lock.try_acquire(),
        lease.release(),
        many.acquire(),
        many.acquire_timeout(NOW),
        many.try_acquire(),
        leases.lost(),
        leases.release(),
        register.get(),
        register.get_with_expiry(),
        register.set(1),
        register.set_if(Compare::eq(1), 2),
        register.delete(),
        register.delete_if(Compare::eq(1)),
        register.advance(1),
    ];
}

fn of_pools(pool: &LockPool) {
    let none = Vec::<control::Resource>::new;
    futures![
        pool.acquire(),
        pool.acquire_timeout(NOW),
        pool.try_acquire(),
        pool.adopt("x"),
        pool.list(),
        pool.contains("x"),
        pool.health(),
        pool.extend(none()),
        pool.shrink(["x"]),
        pool.assign(none()),
        pool.clear(),
    ];
}

fn of_leases(lease: Lease, held: Lease, seat: PoolLease, writing: [WriteLease; 2], inner: ReentrantLease) {
    let [one, two] = writing;
    futures![
        lease.lost(),
        lease.renew(),
        held.while_held(async |lease| lease.renew().await),
        lease.release(),
        seat.release(),
        one.downgrade(),
        two.release(),
        inner.release(),
    ];
}

fn of_conditions(condition: &Condvar, mut leases: impl Iterator<Item = Lease>, lease: &Lease) {
    let mut next = || leases.next().ok_or("no more");
    let (Ok(one), Ok(two), Ok(three)) = (next(), next(), next()) else {
        return;
    };
    futures![
        condition.wait(one),
        condition.wait_timeout(two, NOW),
        // As what the predicate is.
        condition.wait_while(three, || std::future::ready(false)),
        condition.notify(lease, 1),
        condition.notify_all(lease),
    ];
}

fn of_the_controller(
    control: &Control,
    object: &ObjectRef,
    declaration: &control::Declaration,
    life: &control::Life,
    events: &mut control::Events,
) {
    let server = control.server();
    futures![
        events.next(),
        control.server_changed(&server),
        control.now_micros(),
        control.declare(object, declaration),
        control.declare_in(life, object, declaration),
        control.inspect(object, 1, 0),
        control.look(object, 1),
        control.observe(object, 1),
        control.withdraw(object, control::Withdrawal::Drain),
        control.reclaim(object, &[], "x"),
    ];
}
