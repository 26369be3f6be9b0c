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

/// `Send`, and not `Unpin`: to be pinned before it is polled by hand. Each row names its file and function, which
/// `lib/tests/docs.rs` looks for.
macro_rules! futures {
    ($($function:literal => $future:expr),* $(,)?) => {
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
    value::<control::DataWatch>();
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
    handle::<control::Backing>();
    handle::<control::Capacity>();
    handle::<control::Declaration>();
    handle::<control::Epoch>();
    handle::<control::Epochs>();
    handle::<control::Event>();
    handle::<control::HolderView>();
    handle::<control::Kept>();
    handle::<control::Life>();
    handle::<control::Observation>();
    handle::<control::Order>();
    handle::<control::DataLoss>();
    handle::<control::Plan>();
    handle::<control::Raised>();
    handle::<control::Resource>();
    handle::<control::Server>();
    handle::<control::ServerTenants>();
    handle::<control::Snapshot>();
    handle::<control::TenantUser>();
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
        "builder::connect" => Client::connect("x"),
        "builder::from_env" => Client::from_env(),
        "connect::connect" => builder.connect(),
        "client::close_timeout" => client.clone().close_timeout(NOW),
        "client::close" => client.close()
    ];
}

fn of_locks(lock: &Lock, semaphore: &Semaphore, owner: &ReentrantLock, rw: &RwLock) {
    futures![
        "lock::acquire" => lock.acquire(),
        "lock::acquire_timeout" => lock.acquire_timeout(NOW),
        "lock::try_acquire" => lock.try_acquire(),
        "lock::adopt" => lock.adopt("x"),
        "lock::take_over" => lock.take_over("x"),
        "lock::holder" => lock.holder(),
        "lock::is_locked" => lock.is_locked(),
        "lock::status" => lock.status(NOW),
        "semaphore::acquire" => semaphore.acquire(),
        "semaphore::acquire_many" => semaphore.acquire_many(1),
        "semaphore::acquire_timeout" => semaphore.acquire_timeout(NOW),
        "semaphore::acquire_many_timeout" => semaphore.acquire_many_timeout(1, NOW),
        "semaphore::try_acquire" => semaphore.try_acquire(),
        "semaphore::try_acquire_many" => semaphore.try_acquire_many(1),
        "semaphore::adopt" => semaphore.adopt("x"),
        "semaphore::available_permits" => semaphore.available_permits(),
        "reentrant_lock::acquire" => owner.acquire(),
        "reentrant_lock::acquire_timeout" => owner.acquire_timeout(NOW),
        "reentrant_lock::try_acquire" => owner.try_acquire(),
        "rw_lock::read" => rw.read(),
        "rw_lock::read_timeout" => rw.read_timeout(NOW),
        "rw_lock::try_read" => rw.try_read(),
        "rw_lock::write" => rw.write(),
        "rw_lock::write_timeout" => rw.write_timeout(NOW),
        "rw_lock::try_write" => rw.try_write(),
        "rw_lock::adopt" => rw.adopt("x"),
    ];
}

fn of_keys(lock: &KeyedLock, many: &LockSet, lease: KeyedLease, leases: LeaseSet, register: &Register) {
    futures![
        "keyed_lock::acquire" => lock.acquire(),
        "keyed_lock::acquire_timeout" => lock.acquire_timeout(NOW),
        "keyed_lock::try_acquire" => lock.try_acquire(),
        "keyed_lock::release" => lease.release(),
        "lock_set::acquire" => many.acquire(),
        "lock_set::acquire_timeout" => many.acquire_timeout(NOW),
        "lock_set::try_acquire" => many.try_acquire(),
        "lock_set::lost" => leases.lost(),
        "lock_set::release" => leases.release(),
        "register::get" => register.get(),
        "register::get_with_expiry" => register.get_with_expiry(),
        "register::set" => register.set(1),
        "register::set_if" => register.set_if(Compare::eq(1), 2),
        "register::delete" => register.delete(),
        "register::delete_if" => register.delete_if(Compare::eq(1)),
        "register::advance" => register.advance(1),
    ];
}

fn of_pools(pool: &LockPool) {
    let none = Vec::<control::Resource>::new;
    futures![
        "pool::acquire" => pool.acquire(),
        "pool::acquire_timeout" => pool.acquire_timeout(NOW),
        "pool::try_acquire" => pool.try_acquire(),
        "pool::adopt" => pool.adopt("x"),
        "members::list" => pool.list(),
        "members::contains" => pool.contains("x"),
        "members::health" => pool.health(),
        "members::extend" => pool.extend(none()),
        "members::shrink" => pool.shrink(["x"]),
        "members::assign" => pool.assign(none()),
        "members::clear" => pool.clear(),
    ];
}

fn of_leases(
    lease: Lease,
    held: Lease,
    [seat, kept]: [PoolLease; 2],
    writing: [WriteLease; 2],
    inner: ReentrantLease,
) {
    let [one, two] = writing;
    futures![
        "guard::lost" => lease.lost(),
        "guard::renew" => lease.renew(),
        "guard::while_held" => held.while_held(async |lease| lease.renew().await),
        "guard::release" => lease.release(),
        "pool::release" => seat.release(),
        "pool::while_held" => kept.while_held(async |seat| seat.lost().await),
        "rw_lock::downgrade" => one.downgrade(),
        "rw_lock::release" => two.release(),
        "reentrant_lock::release" => inner.release(),
    ];
}

fn of_conditions(condition: &Condvar, mut leases: impl Iterator<Item = Lease>, lease: &Lease) {
    let mut next = || leases.next().ok_or("no more");
    let (Ok(one), Ok(two), Ok(three)) = (next(), next(), next()) else {
        return;
    };
    futures![
        "condvar::wait" => condition.wait(one),
        "condvar::wait_timeout" => condition.wait_timeout(two, NOW),
        // As what the predicate is.
        "condvar::wait_while" => condition.wait_while(three, || std::future::ready(false)),
        "condvar::notify" => condition.notify(lease, 1),
        "condvar::notify_all" => condition.notify_all(lease),
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
    let mut watch = control.data_watch();
    futures![
        "events::next" => events.next(),
        "control::server_changed" => control.server_changed(&server),
        "control::now_micros" => control.now_micros(),
        "data_watch::check" => watch.check(),
        "control::listen" => control.listen(std::slice::from_ref(object)),
        "control::declare" => control.declare(object, declaration),
        "control::declare_in" => control.declare_in(life, object, declaration),
        "control::inspect" => control.inspect(object, 1, 0),
        "control::look" => control.look(object, 1),
        "control::observe" => control.observe(object, 1),
        "control::withdraw" => control.withdraw(object, control::Withdrawal::Drain),
        "control::reclaim" => control.reclaim(object, &[], "x"),
        "tenants::tenants" => control.tenants(),
        "tenants::set_tenant" => control.set_tenant("x", [""]),
        "tenants::remove_tenant" => control.remove_tenant("x"),
        "tenants::set_passwords" => control.set_passwords("x", &[""]),
    ];
}
